package config

import "strings"

// nearest returns the candidate that given most likely was meant to be, or ""
// when none is close.
func nearest(given string, candidates []string) string {
	const longest = 64 // no key is longer
	if given == "" || len(given) > longest {
		return ""
	}
	given = strings.ToLower(given)
	best, least := "", 1+max(1, len(given)/3)
	for _, c := range candidates {
		if d := distance(given, strings.ToLower(c)); d < least || (d == least && best != "" && c < best) {
			best, least = c, d
		}
	}
	return best
}

// distance counts the insertions, deletions, replacements and swaps of
// neighbours that turn a into b (optimal string alignment).
func distance(a, b string) int {
	before, row, next := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		next[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			next[j] = min(row[j]+1, next[j-1]+1, row[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				next[j] = min(next[j], before[j-2]+1)
			}
		}
		before, row, next = row, next, before
	}
	return row[len(b)]
}
