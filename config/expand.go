package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// maxExpandedBytes bounds the text of all strings together after substitution.
const maxExpandedBytes = 4 << 20

// variable matches what follows the dollar sign.
var variable = regexp.MustCompile(`^\{([A-Za-z_][A-Za-z0-9_]*)(?:(:-)([^}]*))?\}`)

// expander replaces ${NAME} and ${NAME:-default} in the strings of a tree.
type expander struct {
	d         *document
	lookup    func(string) (string, bool)
	overrides []Override
	bytes     int
}

// tree replaces in place. A value from the environment is never itself
// searched for references.
func (e *expander) tree(n *node, path string) {
	switch n.kind {
	case tableKind:
		for _, key := range n.keys() {
			e.tree(n.table[key], join(path, key))
		}
	case listKind:
		for i, child := range n.list {
			e.tree(child, index(path, i))
		}
	case stringKind:
		if strings.Contains(n.text, "$") {
			e.text(n, path)
		}
	}
}

func (e *expander) text(n *node, path string) {
	var out strings.Builder
	for rest := n.text; rest != ""; {
		before, after, found := strings.Cut(rest, "$")
		out.WriteString(before)
		switch {
		case !found:
			rest = ""
		case strings.HasPrefix(after, "$"):
			out.WriteByte('$')
			rest = after[1:]
		case strings.HasPrefix(after, "{"):
			m := variable.FindStringSubmatch(after)
			if m == nil {
				e.d.fail(n.at, path, "a ${ is not followed by NAME} or NAME:-default}; write $${ for the characters themselves")
				return
			}
			value, set, err := e.value(m[1], m[2] != "", m[3], path)
			if err != nil {
				e.d.fail(n.at, path, "%v", err)
				return
			}
			out.WriteString(value)
			rest = after[len(m[0]):]
			n.env = n.env || set
			n.fallback = n.fallback || !set
		default:
			out.WriteByte('$')
			rest = after
		}
		if e.bytes+out.Len() > maxExpandedBytes {
			e.d.fail(n.at, path, "the values of the environment make the config larger than %d bytes", maxExpandedBytes)
			return
		}
	}
	e.bytes += out.Len()
	n.text = out.String()
}

// value returns what stands for one reference, and whether that came from the
// environment. As in a shell, :- replaces an empty variable too.
func (e *expander) value(name string, hasFallback bool, fallback, path string) (value string, set bool, err error) {
	value, set = e.lookup(name)
	if hasFallback && value == "" {
		return fallback, false, nil
	}
	if !set {
		return "", false, fmt.Errorf("the environment variable %s is not set; set it, or write ${%s:-default}", name, name)
	}
	for _, o := range slices.Backward(e.overrides) {
		if o.Key != path {
			break
		}
		if o.Variable == name {
			return value, true, nil
		}
	}
	e.overrides = append(e.overrides, Override{Key: path, Variable: name})
	return value, true, nil
}
