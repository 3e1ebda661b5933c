package window

import (
	"strings"
	"testing"
	"time"
)

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	loc, err := Zone(name)
	if err != nil {
		t.Skipf("no time zone files here: %v", err)
	}
	return loc
}

func parse(t testing.TB, expression string, loc *time.Location) Window {
	t.Helper()
	w, err := Parse(expression, loc)
	if err != nil {
		t.Fatalf("%q: %v", expression, err)
	}
	return w
}

func TestOpen(t *testing.T) {
	for _, tt := range []struct {
		expression, at string
		open           bool
	}{
		{"", "2026-03-04 12:00", true},
		{"  ", "2026-03-04 12:00", true},
		{"* * * * *", "2026-03-04 12:00", true},
		{"* 2-4 * * *", "2026-03-04 01:59", false},
		{"* 2-4 * * *", "2026-03-04 02:00", true},
		{"* 2-4 * * *", "2026-03-04 04:59", true},
		{"* 2-4 * * *", "2026-03-04 05:00", false},
		{"* 22-4 * * *", "2026-03-04 23:10", true},
		{"* 22-4 * * *", "2026-03-04 04:10", true},
		{"* 22-4 * * *", "2026-03-04 12:10", false},
		{"0-29 3 * * *", "2026-03-04 03:29", true},
		{"0-29 3 * * *", "2026-03-04 03:30", false},
		{"*/20 * * * *", "2026-03-04 03:40", true},
		{"*/20 * * * *", "2026-03-04 03:41", false},
		{"5/10 * * * *", "2026-03-04 03:55", true},
		{"5/10 * * * *", "2026-03-04 03:50", false},
		{"50-10/5 * * * *", "2026-03-04 03:05", true},
		{"50-10/5 * * * *", "2026-03-04 03:15", false},
		{"0,30 1,2 * * *", "2026-03-04 02:30", true},
		{"* * * * wed", "2026-03-04 12:00", true}, // a Wednesday
		{"* * * * 3", "2026-03-04 12:00", true},
		{"* * * * THU", "2026-03-04 12:00", false},
		{"* * * * 7", "2026-03-08 12:00", true},
		{"* * * * 0", "2026-03-08 12:00", true},
		{"* * * * sat-mon", "2026-03-08 12:00", true},
		{"* * * * sat-mon", "2026-03-09 12:00", true},
		{"* * * * sat-mon", "2026-03-10 12:00", false},
		{"* * * * 6-7", "2026-03-08 12:00", true},
		{"* * * * 6-7", "2026-03-09 12:00", false},
		{"* * * * 5-1", "2026-03-08 12:00", true},
		{"* * * mar,nov *", "2026-03-08 12:00", true},
		{"* * * nov-feb *", "2026-01-08 12:00", true},
		{"* * * nov-feb *", "2026-03-08 12:00", false},
		{"* * 31 * *", "2026-03-31 12:00", true},
		{"* * 28-2 * *", "2026-03-01 12:00", true},
		// Both days are restricted: one is enough.
		{"* * 1 * wed", "2026-03-04 12:00", true},
		{"* * 1 * wed", "2026-03-01 12:00", true},
		{"* * 1 * wed", "2026-03-02 12:00", false},
	} {
		at, err := time.ParseInLocation("2006-01-02 15:04", tt.at, time.UTC)
		if err != nil {
			t.Fatal(err)
		}
		w := parse(t, tt.expression, time.UTC)
		for _, at := range []time.Time{at, at.Add(59 * time.Second)} {
			if got := w.Open(at); got != tt.open {
				t.Errorf("%q at %v: open %v", tt.expression, at, got)
			}
		}
		if w.Always() != (strings.TrimSpace(tt.expression) == "") {
			t.Errorf("%q: always %v", tt.expression, w.Always())
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for expression, want := range map[string]string{
		"* * * *":                               "4 fields",
		"* * * * * *":                           "6 fields",
		"60 * * * *":                            "minute: \"60\" is not from 0 to 59",
		"* 24 * * *":                            "hour: \"24\"",
		"* * 0 * *":                             "day of month: \"0\"",
		"* * * 13 *":                            "month: \"13\"",
		"* * * * 8":                             "day of week: \"8\"",
		"* * * * mo":                            "day of week: \"mo\"",
		"-1 * * * *":                            "minute: \"\"",
		"1- * * * *":                            "minute: \"\"",
		"1,,2 * * * *":                          "minute: \"\"",
		"*/0 * * * *":                           "no step",
		"*/60 * * * *":                          "no step",
		"*/x * * * *":                           "no step",
		"1-2-3 * * * *":                         "minute: \"2-3\"",
		"+5 * * * *":                            "minute: \"+5\"",
		"0005 * * * *":                          "minute: \"0005\"",
		"* * 31 2 *":                            "never opens",
		"* * 30,31 feb *":                       "never opens",
		"** * * * *":                            "minute: \"**\"",
		strings.Repeat("1,", 300) + "1 * * * *": "more than 512",
	} {
		_, err := Parse(expression, time.UTC)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %q", expression, err, want)
		}
	}
}

func TestNext(t *testing.T) {
	berlin := zone(t, "Europe/Berlin")
	for _, tt := range []struct {
		expression string
		loc        *time.Location
		at, want   string // RFC 3339
	}{
		{"* 2-4 * * *", time.UTC, "2026-03-04T12:34:56Z", "2026-03-05T02:00:00Z"},
		{"* 2-4 * * *", time.UTC, "2026-03-04T03:34:56Z", "2026-03-04T03:34:56Z"},
		{"30 2 * * *", time.UTC, "2026-03-04T02:00:00Z", "2026-03-04T02:30:00Z"},
		{"* * 29 2 *", time.UTC, "2026-03-04T12:00:00Z", "2028-02-29T00:00:00Z"},
		{"* * 29 2 *", time.UTC, "2096-03-01T00:00:00Z", "2104-02-29T00:00:00Z"},
		{"15 0 1 jan *", time.UTC, "2026-03-04T12:00:00Z", "2027-01-01T00:15:00Z"},
		{"* * * * sun", time.UTC, "2026-03-04T12:00:00Z", "2026-03-08T00:00:00Z"},
		{"* 2 * * *", berlin, "2026-01-10T12:00:00Z", "2026-01-11T02:00:00+01:00"},
		{"* 2 * * *", berlin, "2026-07-10T12:00:00Z", "2026-07-11T02:00:00+02:00"},
		// Clocks go forward on 29 March: there is no 02:30, nor any hour 2.
		{"30 2 * * *", berlin, "2026-03-28T12:00:00Z", "2026-03-30T02:30:00+02:00"},
		{"* 3 * * *", berlin, "2026-03-29T00:59:30Z", "2026-03-29T03:00:00+02:00"},
		// They go back on 25 October: 02:30 comes twice.
		{"30 2 * * *", berlin, "2026-10-24T22:10:00Z", "2026-10-25T02:30:00+02:00"},
		{"30 2 * * *", berlin, "2026-10-25T00:31:00Z", "2026-10-25T02:30:00+01:00"},
		{"30 2 * * *", berlin, "2026-10-25T01:31:00Z", "2026-10-26T02:30:00+01:00"},
		// Clocks that change at midnight, and by half an hour.
		{"* 1 * * *", zone(t, "America/Sao_Paulo"), "2018-11-03T12:00:00Z", "2018-11-04T01:00:00-02:00"},
		{"* * * * sun", zone(t, "America/Sao_Paulo"), "2018-11-03T12:00:00Z", "2018-11-04T01:00:00-02:00"},
		{"* * * * sun", zone(t, "America/Sao_Paulo"), "2018-02-17T12:00:00Z", "2018-02-18T00:00:00-03:00"},
		{"15 2 * * *", zone(t, "Australia/Lord_Howe"), "2026-10-03T03:00:00Z", "2026-10-05T02:15:00+11:00"},
		{"* 3 * * *", zone(t, "Asia/Kolkata"), "2026-01-10T12:00:00Z", "2026-01-11T03:00:00+05:30"},
		{"", time.UTC, "2026-03-04T12:00:00Z", "2026-03-04T12:00:00Z"},
	} {
		at, err := time.Parse(time.RFC3339, tt.at)
		if err != nil {
			t.Fatal(err)
		}
		w := parse(t, tt.expression, tt.loc)
		got := w.Next(at)
		if got.Format(time.RFC3339) != tt.want {
			t.Errorf("%q in %v after %s: %v; want %s", tt.expression, tt.loc, tt.at, got, tt.want)
		}
		if !w.Open(got) {
			t.Errorf("%q in %v: not open at %v", tt.expression, tt.loc, got)
		}
	}
}

// Next is where Open turns true first, in each hour of two years and whatever
// the clocks do.
func TestNextIsTheFirst(t *testing.T) {
	for _, name := range []string{"Europe/Berlin", "America/Sao_Paulo", "Australia/Lord_Howe", "Africa/Cairo"} {
		w := parse(t, "0-29 0,2 * * mon,sun", zone(t, name))
		begin := time.Date(2018, 1, 1, 0, 0, 0, 0, time.UTC)
		var last time.Time // open minute seen so far, walking back
		for at := begin.AddDate(2, 0, 0); at.After(begin); at = at.Add(-5 * time.Minute) {
			if w.Open(at) {
				last = at
			}
			if last.IsZero() || at.Minute() != 0 {
				continue
			}
			if got := w.Next(at); !got.Equal(last) {
				t.Fatalf("%s after %v: %v; open first at %v", name, at, got, last.In(got.Location()))
			}
		}
	}
}

func TestZone(t *testing.T) {
	if loc, err := Zone(""); err != nil || loc != time.Local {
		t.Errorf("the device's own: %v, %v", loc, err)
	}
	for _, name := range []string{"Europe/Atlantis", "../etc/passwd", "Local"} {
		if _, err := Zone(name); err == nil {
			t.Errorf("%s is a time zone", name)
		}
	}
	if _, err := Zone("Europe/Atlantis"); err == nil || !strings.Contains(err.Error(), "tzdata") {
		t.Errorf("the error does not say what to do: %v", err)
	}
}

// What Parse accepts opens again and again, and Next leads to where it is open.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "* 2-4 * * *", "*/5 22-4 1-7 jan-mar,12 mon-5", "0 0 29 2 *", "59 23 31 12 7", "5/10 1-2/2 * * sun"} {
		f.Add(s, int64(1767225600))
	}
	f.Fuzz(func(t *testing.T, expression string, at int64) {
		w, err := Parse(expression, time.UTC)
		if err != nil {
			return
		}
		begin := time.Unix(at%(1<<33), 0)
		next := w.Next(begin)
		if next.IsZero() || next.Before(begin.Truncate(time.Minute)) || !w.Open(next) {
			t.Errorf("%q after %v: %v", expression, begin, next)
		}
	})
}
