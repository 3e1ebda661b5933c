package config

import (
	"strconv"
	"strings"
)

// leastHidden is the length of a value below which hiding it in a message would
// only break words that happen to hold it.
const leastHidden = 4

// checkParts records what the parts found, each problem at the place of its
// key. What they say of an entry that has problems already is left out: it may
// only follow from them.
func checkParts(d *document, err error) {
	bad, ok := Join(err).(*Error)
	if !ok {
		return
	}
	before := d.problems.list
	root := place{d: d, n: d.root}
	for _, p := range bad.Problems {
		if broken(before, p.Key) {
			continue
		}
		at := root.descend(p.Key)
		message := p.Message
		if n := at.n; (n.env || n.secret) && len(n.text) >= leastHidden {
			quoted := strings.Trim(strconv.Quote(n.text), `"`)
			message = strings.NewReplacer(n.text, hidden, quoted, hidden).Replace(message)
		}
		d.problems.add(at.n.at, p.Key, message)
	}
	d.problems.uncounted += bad.Omitted
}

// broken reports whether one of the problems is in the same entry of a list, or
// else the same section, as key.
func broken(problems []found, key string) bool {
	entry, _, _ := strings.Cut(key, ".")
	if i := strings.IndexByte(key, ']'); i >= 0 {
		entry = key[:i+1]
	}
	for _, f := range problems {
		if within(f.key, entry) || within(entry, f.key) {
			return true
		}
	}
	return false
}

// within reports whether key is the key outer or one below it.
func within(key, outer string) bool {
	rest, ok := strings.CutPrefix(key, outer)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

// descend returns the place of a key below p such as devices[3].regex. Where
// the file does not have it, that is the place of the nearest table around it.
func (p place) descend(key string) place {
	for key != "" {
		if inList, ok := strings.CutPrefix(key, "["); ok {
			number, rest, _ := strings.Cut(inList, "]")
			i, err := strconv.Atoi(number)
			if err != nil || i < 0 {
				return p
			}
			p, key = p.item(i), rest
			continue
		}
		key = strings.TrimPrefix(key, ".")
		name, _, _ := strings.Cut(key, ".")
		name, _, _ = strings.Cut(name, "[")
		p, key = p.key(name), key[len(name):]
	}
	return p
}
