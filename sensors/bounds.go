package sensors

import (
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/pyvorin/pyvorin-edge/wire"
)

// What one sensor may make the agent hold and send, beyond the bounds that its
// config sets.
const (
	maxChannels     = 256  // channels of one sensor
	maxChannelBytes = 128  // a channel's name; cutting it could merge two channels
	maxLabelBytes   = 64   // a type or unit that a sample gives itself
	maxReasonBytes  = 256  // why a reading is not good
	maxMetaKeys     = 32   // metadata fields of one reading
	maxMetaBytes    = 4096 // the same, keys and texts together
)

// cut returns at most limit bytes of s as valid UTF-8. The result does not
// keep a larger s in memory.
func cut(s string, limit int) (text string, shortened, repaired bool) {
	if len(s) > limit {
		s, shortened = strings.Clone(s[:runeStart(s, limit)]), true
	}
	if utf8.ValidString(s) {
		return s, shortened, false
	}
	// A replacement is longer than the byte it replaces.
	if s = strings.ToValidUTF8(s, "\uFFFD"); len(s) > limit {
		s, shortened = s[:runeStart(s, limit)], true
	}
	return s, shortened, true
}

// runeStart returns the last index up to i at which a rune of s starts; of
// bytes that are no UTF-8 it returns i.
func runeStart(s string, i int) int {
	for back := range utf8.UTFMax {
		if i-back >= 0 && utf8.RuneStart(s[i-back]) {
			return i - back
		}
	}
	return i
}

// label bounds a text that is the same in all readings of a channel.
func label(s string) string {
	s, _, _ = cut(s, maxLabelBytes)
	return s
}

// reason bounds why a reading is not good.
func reason(s string) string {
	if s == "" {
		return "no reason given"
	}
	s, _, _ = cut(s, maxReasonBytes)
	return strings.ReplaceAll(s, "\n", "; ") // of joined errors
}

// boundMeta returns what of meta fits the bounds, in the order of its keys, so
// that the same fields survive in every reading.
func boundMeta(meta map[string]wire.Value) (bounded map[string]wire.Value, complete bool) {
	size := 0
	fits := func(key string, v wire.Value) bool {
		text, _ := v.Text()
		size += len(key) + len(text)
		return size <= maxMetaBytes && utf8.ValidString(key) && utf8.ValidString(text)
	}
	complete = len(meta) <= maxMetaKeys
	if complete {
		for key, v := range meta {
			complete = complete && fits(key, v)
		}
		if complete {
			return meta, true
		}
	}
	size = 0
	bounded = make(map[string]wire.Value, min(len(meta), maxMetaKeys))
	for _, key := range slices.Sorted(maps.Keys(meta)) {
		if len(bounded) == maxMetaKeys {
			break
		}
		if before := size; fits(key, meta[key]) {
			bounded[key] = meta[key]
		} else {
			size = before
		}
	}
	return bounded, false
}
