package privacy

import (
	"fmt"
	"unicode"
	"unicode/utf8"
)

// maxPatternRunes bounds the work of one match: it takes at most
// len(pattern) × len(name) steps, so with bounded patterns and names it takes
// bounded time, whatever both hold.
const maxPatternRunes = 256

// glob is a pattern on a name. * stands for any run of characters, also across
// / and dots, ? for exactly one; everything else stands for itself, whatever
// its case. There is no escaping and no character class: fewer rules leave less
// to get wrong in a pattern that guards something.
type glob []rune

// compileGlob folds the pattern's case and joins neighbouring stars.
func compileGlob(pattern string) (glob, error) {
	if !utf8.ValidString(pattern) {
		return nil, fmt.Errorf("the pattern is not valid UTF-8")
	}
	if n := utf8.RuneCountInString(pattern); n > maxPatternRunes {
		return nil, fmt.Errorf("the pattern has %d characters, the most is %d", n, maxPatternRunes)
	}
	g := make(glob, 0, len(pattern))
	for _, r := range pattern {
		if r == '*' && len(g) > 0 && g[len(g)-1] == '*' {
			continue
		}
		g = append(g, fold(r))
	}
	return g, nil
}

// Match reports whether name matches pattern as it would in a rule. Nothing
// matches a pattern that a rule may not have.
func Match(pattern, name string) bool {
	g, err := compileGlob(pattern)
	return err == nil && g.match(name)
}

// matchesAll reports whether g is a lone star, which says nothing of a name.
func (g glob) matchesAll() bool { return len(g) == 1 && g[0] == '*' }

// match reports whether all of s matches. On a mismatch only the last star is
// tried again, one character further: an earlier star never needs another try,
// because the later one can take up whatever it would have.
func (g glob) match(s string) bool {
	p, i := 0, 0
	star, retry := -1, 0
	for i < len(s) {
		if p < len(g) && g[p] == '*' {
			star, retry = p, i
			p++
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if p < len(g) && (g[p] == '?' || g[p] == fold(r)) {
			p++
			i += size
			continue
		}
		if star < 0 {
			return false
		}
		_, size = utf8.DecodeRuneInString(s[retry:])
		retry += size
		p, i = star+1, retry
	}
	return p == len(g) || p == len(g)-1 && g[p] == '*'
}

// fold returns the least of the characters that differ from r only in case, so
// that such characters fold to the same one.
func fold(r rune) rune {
	if r < utf8.RuneSelf {
		if 'a' <= r && r <= 'z' {
			return r - 'a' + 'A'
		}
		return r
	}
	least := r
	for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
		least = min(least, next)
	}
	return least
}
