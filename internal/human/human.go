// Package human writes figures and texts the way people read them, the same on
// every page and terminal.
package human

import (
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Bytes formats a size in binary units with at most one decimal: "1.5 KiB".
func Bytes(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return strconv.FormatInt(n, 10) + " B"
	}
	f, unit := float64(n)/1024, 0
	for f >= 1024 && unit < len(units)-1 {
		f, unit = f/1024, unit+1
	}
	return Figure(f) + " " + units[unit:unit+1] + "iB"
}

// Figure formats f with at most one decimal.
func Figure(f float64) string {
	return strconv.FormatFloat(math.Round(f*10)/10, 'f', -1, 64)
}

// Duration formats d in its largest whole unit: "90 s", "5 min". What is
// negative is "0 s".
func Duration(d time.Duration) string {
	switch {
	case d < time.Second:
		return "0 s"
	case d < 2*time.Minute:
		return strconv.Itoa(int(d/time.Second)) + " s"
	case d < 2*time.Hour:
		return strconv.Itoa(int(d/time.Minute)) + " min"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d/time.Hour)) + " h"
	}
	return strconv.Itoa(int(d/(24*time.Hour))) + " days"
}

// Exact formats d without rounding, for what somebody chose: "2 h 30 min",
// "0.5 s". What is negative is "0 s".
func Exact(d time.Duration) string {
	var parts []string
	for _, u := range []struct {
		size time.Duration
		name string
	}{{time.Hour, " h"}, {time.Minute, " min"}} {
		if n := d / u.size; n > 0 {
			parts = append(parts, strconv.Itoa(int(n))+u.name)
			d %= u.size
		}
	}
	if d > 0 || parts == nil {
		parts = append(parts, strconv.FormatFloat(max(0, d.Seconds()), 'f', -1, 64)+" s")
	}
	return strings.Join(parts, " ")
}

// Ago says how long before now t was: "5 min ago", "-" for the zero time. A
// clock that was set may put t into the future, which is said.
func Ago(t, now time.Time) string {
	switch d := now.Sub(t); {
	case t.IsZero():
		return "-"
	case d < -time.Minute:
		return "in the future"
	case d < time.Second:
		return "now"
	default:
		return Duration(d) + " ago"
	}
}

// Quantity formats a measured number and its unit. Bytes get binary units,
// anything else up to six digits and no exponent where one can be avoided.
func Quantity(f float64, unit string) string {
	if per, isBytes := strings.CutPrefix(unit, "B"); isBytes && (per == "" || per[0] == '/') && math.Abs(f) < 1<<62 {
		sign := ""
		if f < 0 {
			sign, f = "-", -f
		}
		return sign + Bytes(int64(f)) + per
	}
	format, precision := byte('g'), 6
	if abs := math.Abs(f); abs >= 1e5 && abs < 1e15 {
		format, precision = 'f', 0
	}
	return strings.TrimSpace(strconv.FormatFloat(f, format, precision, 64) + " " + unit)
}

// Plain escapes what is not printable in s: a text from elsewhere could hold
// line ends, or sequences that a terminal obeys.
func Plain(s string) string {
	var b strings.Builder
	for _, c := range s {
		if unicode.IsPrint(c) {
			b.WriteRune(c)
			continue
		}
		quoted := strconv.QuoteRune(c)
		b.WriteString(quoted[1 : len(quoted)-1])
	}
	return b.String()
}

// Cut shortens s to at most so many characters, the last of which then is "…".
func Cut(s string, most int) string {
	if runes := []rune(s); len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return s
}
