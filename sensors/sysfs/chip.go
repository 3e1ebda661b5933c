package sysfs

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pyvorin/pyvorin-edge/wire"
)

// chip is one device of a bus.
type chip struct {
	dir    string   // folder of its attributes
	ids    []string // what it may be called: name, labels
	device string   // real path of the hardware behind it; "" when there is none

	// again is after what pause a read that failed is worth a second try; 0 is
	// never. All inputs of such a chip come in one transmission.
	again time.Duration
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

// transmission is the longest that a chip with again takes to send, or not to.
const transmission = 1200 * time.Millisecond

// read reads in, and once more after a miss where c is worth it and ctx leaves
// the time.
func (c chip) read(ctx context.Context, in input) (wire.Value, error) {
	v, err := in.read()
	if c.again == 0 || !isMiss(err) {
		return v, err
	}
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < c.again+transmission {
		return v, err
	}
	select {
	case <-ctx.Done():
		return v, err
	case <-time.After(c.again):
		return in.read()
	}
}

// isMiss reports whether a driver heard nothing, or nothing it understood.
func isMiss(err error) bool {
	return errors.Is(err, unix.EIO) || errors.Is(err, unix.ETIMEDOUT)
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
