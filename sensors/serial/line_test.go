package serial

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/sensors/internal/ring"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// splitWhole is what splitter does, on all of the input at once.
func splitWhole(input []byte, limit int, silent bool) (lines []string, tooLong int) {
	all := bytes.FieldsFunc(input, func(r rune) bool { return r == '\n' || r == '\r' })
	if len(input) > 0 && !silent && input[0] != '\n' && input[0] != '\r' {
		all = all[1:]
	}
	for i, line := range all {
		whole := i < len(all)-1 || bytes.HasSuffix(input, []byte("\n")) || bytes.HasSuffix(input, []byte("\r"))
		switch {
		case len(line) > limit:
			tooLong++
		case whole:
			lines = append(lines, string(line))
		}
	}
	return lines, tooLong
}

// checkSplit feeds the input in pieces of the given sizes.
func checkSplit(t interface{ Fatalf(string, ...any) }, input []byte, limit int, silent bool, pieces []byte) {
	s := splitter{limit: limit}
	if silent {
		s.silent()
	}
	var lines []string
	for rest := input; len(rest) > 0; {
		n := len(rest)
		if len(pieces) > 0 {
			n, pieces = min(n, 1+int(pieces[0])), pieces[1:]
		}
		s.feed(rest[:n], func(line []byte) { lines = append(lines, string(line)) })
		rest = rest[n:]
		if len(s.line) > limit {
			t.Fatalf("%d bytes are held, of at most %d", len(s.line), limit)
		}
	}
	want, tooLong := splitWhole(input, limit, silent)
	if !slices.Equal(lines, want) || s.tooLong != tooLong {
		t.Fatalf("%q: lines %q, want %q; %d too long, want %d", input, lines, want, s.tooLong, tooLong)
	}
}

func TestSplit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		input := rapid.SliceOf(rapid.SampledFrom([]byte("ab\n\r\xff"))).Draw(t, "input")
		checkSplit(t, input, rapid.IntRange(1, 5).Draw(t, "limit"), rapid.Bool().Draw(t, "silent"), rapid.SliceOf(rapid.ByteRange(0, 4)).Draw(t, "pieces"))
	})
}

func FuzzSplit(f *testing.F) {
	f.Add([]byte("rest\r\n12.5\r\n\n13"), 16, false, []byte{0, 3})
	f.Add([]byte(strings.Repeat("x", 40)+"\n1\n"), 16, true, []byte{})
	f.Fuzz(func(t *testing.T, input []byte, limit int, silent bool, pieces []byte) {
		checkSplit(t, input, max(1, min(limit, 100)), silent, pieces)
	})
}

func TestValuesOfLines(t *testing.T) {
	tests := []struct {
		line, regex string
		asText      bool
		want        string // channel=value, "" for a line of no use
	}{
		{"21.5", "", false, "=21.5"},
		{" \x02+  12.340\x03", "", false, "=12.34"},
		{"-\t1", "", false, "=-\t1"},
		{"open", "", false, "=open"},
		{"0047", "", true, "=0047"},
		{"0047", "", false, "=47"},
		{strings.Repeat("é", 20), "", false, "=" + strings.Repeat("é", 7)},
		{"NaN", "", false, "= bad: not a finite number"},
		{"1e999", "", false, "=1e999"},
		{"\x02\x03", "", false, ""},
		{"21.5\xb0C", "", false, ""}, // Latin-1
		{"a\x00b", "", false, ""},
		{"21.5\xb0C", `([\d.]+)`, false, "=21.5"},
		{"T=21.5 H=40", `T=(?P<t>\S+) H=(?P<h>\S+)`, false, "t=21.5 h=40"},
		{"H=40", `T=(?P<t>\S+)|H=(?P<h>\S+)`, false, "h=40"},
		{"T=", `T=(?P<t>\S*)`, false, "t= bad: empty: regex matched a part of the line that holds nothing"},
		{"ST,GS,-  1.25kg", `([+-]? *[\d.]+)kg`, false, "=-1.25"},
		{"weight 12", `\d+`, false, "=12"},
		{"12 34", `(\d+) (\d+)`, false, "=12"},
		{"12", `(x)?\d+`, false, ""},
		{"weight", `\d+`, false, ""},
	}
	for _, tt := range tests {
		f := lineFraming{asText: tt.asText, maxTextBytes: 10, samples: ring.New[sensors.Sample](10)}
		if tt.regex != "" {
			f.regex = regexp.MustCompile(tt.regex)
		}
		useful := f.line([]byte(tt.line), arrival)
		samples, _, _ := f.take()
		var got []string
		for _, s := range samples {
			text := s.Channel + "=" + s.Value.String()
			if s.Quality != "" {
				text = fmt.Sprintf("%s= %s: %s", s.Channel, s.Quality, s.Reason)
			}
			if !s.Time.Equal(arrival) {
				t.Errorf("%q: the time is %v", tt.line, s.Time)
			}
			got = append(got, text)
		}
		if strings.Join(got, " ") != tt.want || useful != (tt.want != "") {
			t.Errorf("%q by %q: %q, useful %v; want %q", tt.line, tt.regex, got, useful, tt.want)
		}
	}
}

func FuzzLine(f *testing.F) {
	for _, line := range []string{"21.5", "T=1 H=2", "\x02+ 1\x03", "\xff\x00", "-", "+", "T= H="} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		if len(line) == 0 {
			return // the splitter gives none
		}
		for _, re := range []string{"", `T=(?P<t>\S*)|H=(?P<h>.*)`, `.(.?)`} {
			f := lineFraming{maxTextBytes: 10, samples: ring.New[sensors.Sample](4)}
			if re != "" {
				f.regex = regexp.MustCompile(re)
			}
			useful := f.line(line, arrival)
			samples, dropped, err := f.take()
			if useful != (len(samples) > 0) || dropped != 0 || err != nil {
				t.Fatalf("%q: useful %v, %+v, %d dropped, %v", re, useful, samples, dropped, err)
			}
			for _, s := range samples {
				text, _ := s.Value.Text()
				if (s.Value.Kind() == wire.None) != (s.Quality == wire.Bad) || len(text) > 10+utf8.UTFMax {
					t.Fatalf("%q: %+v", re, s)
				}
			}
		}
	})
}

func FuzzNMEA(f *testing.F) {
	for _, content := range []string{
		"GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,",
		"GPGGA,,,,,,0,00,99.99,,,,,,",
		"GNRMC,123519,A,4807.038,N,01131.000,E,022.4,084.4,230394,003.1,W,A",
		"GPVTG,220.86,T,,M,2.550,N,4.724,K,A",
		"GNGLL,4404.14012,N,12118.85993,W,001037.00,A,A",
		"GNGSA,A,2,80,71,73,79,69,,,,,,,,1.83,1.09,1.47",
		"PUBX,00", ",", "",
	} {
		f.Add([]byte(content), true)
	}
	f.Add([]byte("$GPVTG,220.86,T,,M,2.550,N,4.724,K,A*34"), false)
	f.Fuzz(func(t *testing.T, line []byte, framed bool) {
		if framed { // random bytes hardly ever have the right checksum
			line = []byte(sentence(string(line)))
		}
		g := &gps{}
		if useful := g.line(line, arrival); g.intact+g.damaged != 1 || useful && g.intact != 1 {
			t.Fatalf("useful %v, %d intact, %d damaged", useful, g.intact, g.damaged)
		}
		samples, _, _ := g.take()
		at := map[string]float64{}
		for _, s := range samples {
			number, isNumber := s.Value.Float()
			if isNumber == (s.Quality == wire.Bad) || s.Time.Sub(arrival).Abs() > clockTolerance {
				t.Fatalf("%+v", s)
			}
			at[s.Channel] = number
		}
		if lat, lon := at["latitude"], at["longitude"]; lat < -90 || lat > 90 || lon < -180 || lon > 180 {
			t.Fatalf("%v, %v", lat, lon)
		}
	})
}

func TestSeveralIsSteady(t *testing.T) {
	for n, want := range map[uint64]string{1: "lines came", 9: "lines came", 10: "10 lines or more came", 99: "10 lines or more came", 12345: "10000 lines or more came", 1<<64 - 1: "10000000000000000000 lines or more came"} {
		if got := several(n); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
}
