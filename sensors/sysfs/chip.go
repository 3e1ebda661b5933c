package sysfs

import (
	"path/filepath"
	"slices"
	"strings"
)

// chip is one device of a bus.
type chip struct {
	dir    string   // folder of its attributes
	ids    []string // what it may be called: name, labels
	device string   // real path of the hardware behind it; "" when there is none
}

// newChip returns the chip whose attributes are in dir. The class folders hold
// symbolic links, so the hardware's path is known only after following them.
func newChip(dir, device string, ids ...string) chip {
	c := chip{dir: dir}
	for _, id := range ids {
		if id != "" && !slices.Contains(c.ids, id) {
			c.ids = append(c.ids, id)
		}
	}
	if device != "" {
		if real, err := filepath.EvalSymlinks(device); err == nil {
			c.device = real
		}
	}
	return c
}

// is reports whether want names c: one of its names, or the end of its device
// path by whole parts, such as 1-0040 or i2c-1/1-0040.
func (c chip) is(want string) bool {
	return slices.Contains(c.ids, want) ||
		c.device != "" && strings.HasSuffix(c.device, "/"+strings.TrimPrefix(want, "/"))
}

// String names c for people in terms that config accepts.
func (c chip) String() string {
	name := "unnamed chip"
	if len(c.ids) > 0 {
		name = c.ids[0]
	}
	if base := filepath.Base(c.device); c.device != "" && base != name {
		return name + " at " + base
	}
	return name
}

// attr reads the attribute name of c as text, without the white space and the
// NUL with which device-tree strings end. Empty when it cannot be read.
func (c chip) attr(name string) string { return attr(filepath.Join(c.dir, name)) }

func attr(path string) string {
	text, err := readText(path)
	if err != nil {
		return ""
	}
	return text
}
