package health

import "math"

// round1 rounds to one decimal, as the figures in the document are.
func round1(f float64) float64 { return math.Round(f*10) / 10 }

// clip returns at most n runes of s, with an ellipsis for the rest.
func clip(s string, n int) string {
	i := 0
	for at := range s {
		if i == n {
			return s[:at] + "…"
		}
		i++
	}
	return s
}
