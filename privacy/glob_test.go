package privacy

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestGlob(t *testing.T) {
	for _, tt := range []struct {
		pattern, name string
		want          bool
	}{
		{"*password*", "room/password", true},
		{"*password*", "PassWord", true},
		{"*password*", "pass-word", false},
		{"*email*", "user_Email", true},
		{"a*c", "a/b.c", true},
		{"a*c", "a/b.cd", false},
		{"temp-0?", "temp-01", true},
		{"temp-0?", "temp-0", false},
		{"temp-0?", "temp-0é", true},
		{"größe", "GRÖSSE", false}, // ß has no simple upper case
		{"GRÖẞE", "größe", true},
		{"ΣΑΣ", "σας", true}, // three forms of sigma
		{"kelvin", "\u212aelvin", true},
		{"*", "", true},
		{"**", "anything", true},
		{"", "", true},
		{"", "a", false},
		{"?", "", false},
		{"a*b*c", "axxbxxbxc", true},
		{"*ab", "aab", true},
		{"[a]", "a", false},
		{"[a]", "[A]", true},
		{`a\*`, "ab", false},
		{"x?z", "x\xffz", true},
	} {
		if got := Match(tt.pattern, tt.name); got != tt.want {
			t.Errorf("Match(%q, %q) = %v, want %v", tt.pattern, tt.name, got, tt.want)
		}
	}
}

func TestGlobRefusesPatterns(t *testing.T) {
	for name, pattern := range map[string]string{
		"too long":      strings.Repeat("é", maxPatternRunes+1),
		"invalid UTF-8": "a\xff",
	} {
		if _, err := compileGlob(pattern); err == nil {
			t.Errorf("%s: compiled", name)
		}
	}
	if _, err := compileGlob(strings.Repeat("é", maxPatternRunes)); err != nil {
		t.Errorf("the longest pattern: %v", err)
	}
}

// The classic bad case of matchers that try every star again: it takes
// exponential time there, and microseconds here.
func TestGlobTakesBoundedTime(t *testing.T) {
	pattern := strings.Repeat("a*", maxPatternRunes/2-1) + "b"
	start := time.Now()
	if Match(pattern, strings.Repeat("a", maxNameBytes)) {
		t.Error("matched")
	}
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("took %s", d)
	}
}

// naiveMatch is what the pattern language means, with no thought of time.
func naiveMatch(pattern, name []rune) bool {
	if len(pattern) == 0 {
		return len(name) == 0
	}
	if pattern[0] == '*' {
		return naiveMatch(pattern[1:], name) || len(name) > 0 && naiveMatch(pattern, name[1:])
	}
	return len(name) > 0 && (pattern[0] == '?' || strings.EqualFold(string(pattern[0]), string(name[0]))) &&
		naiveMatch(pattern[1:], name[1:])
}

func TestGlobEqualsReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pattern := rapid.StringMatching(`[aAbB/.*?sSſßẞkKσςΣ]{0,12}`).Draw(t, "pattern")
		name := rapid.StringMatching(`[aAbB/.sSſßẞkKσςΣ]{0,14}`).Draw(t, "name")
		want := naiveMatch([]rune(pattern), []rune(name))
		if got := Match(pattern, name); got != want {
			t.Fatalf("Match(%q, %q) = %v, want %v", pattern, name, got, want)
		}
	})
}

func FuzzGlob(f *testing.F) {
	f.Add("*email*", "user_Email")
	f.Add("a?*b", "a\xff/b")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if len(name) > maxNameBytes {
			return
		}
		got := Match(pattern, name)
		// The reference is exponential in stars.
		if !utf8.ValidString(pattern) || len(pattern) > 16 || len(name) > 16 || strings.Count(pattern, "*") > 4 {
			return
		}
		if want := naiveMatch([]rune(pattern), []rune(name)); got != want {
			t.Errorf("Match(%q, %q) = %v, want %v", pattern, name, got, want)
		}
	})
}
