package human

import (
	"strings"
	"testing"
	"time"
)

func TestBytesAndDuration(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.5 KiB", 256 << 20: "256 MiB", 1 << 62: "4 EiB"} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		-time.Hour: "0 s", 0: "0 s", 90 * time.Second: "90 s", 2 * time.Minute: "2 min", 119 * time.Minute: "119 min",
		2 * time.Hour: "2 h", 47 * time.Hour: "47 h", 48 * time.Hour: "2 days",
	} {
		if got := Duration(d); got != want {
			t.Errorf("Duration(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestExact(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0 s", 0: "0 s", 500 * time.Millisecond: "0.5 s", 15 * time.Second: "15 s", 90 * time.Second: "1 min 30 s",
		15 * time.Minute: "15 min", 150 * time.Minute: "2 h 30 min", 48 * time.Hour: "48 h",
	} {
		if got := Exact(d); got != want {
			t.Errorf("Exact(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestPlainAndCut(t *testing.T) {
	for in, want := range map[string]string{
		`{"error":"no \ files"}`: `{"error":"no \ files"}`,
		"grün":                   "grün",
		"\x1b[2Jgone":            `\x1b[2Jgone`,
		"a\tb\n":                 `a\tb\n`,
		"broken \xff":            "broken \uFFFD",
	} {
		if got := Plain(in); got != want {
			t.Errorf("Plain(%q) = %q, want %q", in, got, want)
		}
	}
	long := strings.Repeat("é", 60)
	if got := Cut(long, 60); got != long {
		t.Errorf("60 characters were cut to %q", got)
	}
	if got := Cut(long+"é", 60); got != strings.Repeat("é", 59)+"…" {
		t.Errorf("61 characters were cut to %q", got)
	}
}

func TestAgo(t *testing.T) {
	now := time.Now()
	for d, want := range map[time.Duration]string{
		-time.Hour: "in the future", -time.Second: "now", 0: "now", 59 * time.Second: "59 s ago",
		5 * time.Minute: "5 min ago", 3 * time.Hour: "3 h ago", 100 * time.Hour: "4 days ago",
	} {
		if got := Ago(now.Add(-d), now); got != want {
			t.Errorf("Ago(%v before) = %q, want %q", d, got, want)
		}
	}
	if got := Ago(time.Time{}, now); got != "-" {
		t.Errorf("Ago(never) = %q", got)
	}
}

func TestQuantity(t *testing.T) {
	for _, tt := range []struct {
		f    float64
		unit string
		want string
	}{
		{21.5, "C", "21.5 C"},
		{0.1 + 0.2, "V", "0.3 V"},
		{496484352, "B", "473.5 MiB"},
		{-2048, "B", "-2 KiB"},
		{1536.7, "B/s", "1.5 KiB/s"},
		{1e300, "B", "1e+300 B"},
		{1234567.8, "Pa", "1234568 Pa"},
		{1e-9, "m", "1e-09 m"},
		{3, "", "3"},
		{5, "Bq", "5 Bq"},
	} {
		if got := Quantity(tt.f, tt.unit); got != tt.want {
			t.Errorf("Quantity(%v, %q) = %q, want %q", tt.f, tt.unit, got, tt.want)
		}
	}
}
