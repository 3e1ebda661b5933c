package gpio

import (
	"errors"
	"fmt"
	"strings"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/pyvorin/pyvorin-edge/sensors/internal/access"
)

// maxListed bounds the chips or lines that an error or an offer names.
const maxListed = 8

// source is the line that the config means, and how it is wanted.
type source struct {
	kernel kernel
	chip   string // label, or part of the device path; "" is any chip
	name   string // of the line; "" when offset says which
	offset int
	want   request
	log    zerolog.Logger
}

// found is a chip that is open, with the line that is meant.
type found struct {
	chip
	node   node
	offset int
}

// String names the chip in terms that config accepts.
func (f found) String() string { return chipName(f.label(), f.node) }

func chipName(label string, n node) string {
	if end := lastPart(n.device); end != "" && end != label {
		return label + " at " + end
	}
	return label
}

func lastPart(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

// isMeant reports whether want is empty or names the chip: by its label, or by
// whole names of its device path, such as 1-0020 or i2c-1/1-0020. They need not
// be the last ones, which the kernel counts up for some chips on USB.
func isMeant(want, label string, n node) bool {
	return want == "" || want == label || strings.Contains(n.device+"/", "/"+strings.Trim(want, "/")+"/")
}

// take finds the line and takes it for this process.
func (s *source) take() (*held, error) {
	f, err := s.find()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := &held{where: fmt.Sprintf("line %d of %s", f.offset, f)}
	if s.name != "" {
		h.where = fmt.Sprintf("line %s of %s", s.name, f)
	}
	want := s.want
	h.line, err = f.request(f.offset, want)
	if err != nil && want.debounce > 0 && !errors.Is(err, unix.EBUSY) {
		// The kernel debounces where the chip cannot, but not where the driver
		// refuses the time. Then it is done here, and that takes both edges.
		want.debounce, want.rising, want.falling = 0, true, true
		refusal := err
		if h.line, err = f.request(f.offset, want); err == nil {
			s.log.Info().Str("line", h.where).AnErr("refusal", refusal).Msg("debouncing taken over from the driver")
			if err = h.debounce(s.want); err != nil {
				h.Close()
			}
		}
	}
	if err != nil {
		return nil, s.explain(err, f, h.where)
	}
	return h, nil
}

// find returns the one line that the config means.
func (s *source) find() (match found, err error) {
	nodes, err := s.kernel.nodes()
	if err != nil {
		return found{}, fmt.Errorf("look for GPIO chips: %w", err)
	}
	var matches []found
	defer func() {
		for _, m := range matches {
			if m.chip != match.chip {
				m.Close()
			}
		}
	}()
	var others []string // chips that are not meant
	var unreadable error
	for _, n := range nodes {
		c, err := s.kernel.open(n)
		if err != nil {
			if !isGone(err) && unreadable == nil {
				unreadable = openError(n, err)
			}
			continue
		}
		f := found{chip: c, node: n, offset: s.offset}
		if !isMeant(s.chip, c.label(), n) {
			others = append(others, f.String())
			c.Close()
			continue
		}
		matches = append(matches, f)
	}
	switch {
	case len(matches) == 0 && unreadable != nil:
		return found{}, unreadable
	case len(nodes) == 0:
		return found{}, errors.New("absent: there is no GPIO chip; check that its driver is loaded or its overlay enabled (dmesg)")
	case len(matches) == 0:
		return found{}, fmt.Errorf("absent: no GPIO chip %q, only %s; check that it is plugged in and its driver loaded", s.chip, list(others))
	}
	if s.name == "" {
		return s.byOffset(matches)
	}
	match, err = s.byName(matches)
	if errors.Is(err, errNoName) && unreadable != nil {
		return found{}, unreadable // the line may be there
	}
	return match, err
}

func (s *source) byOffset(matches []found) (found, error) {
	if len(matches) > 1 {
		return found{}, fmt.Errorf("chip %q is ambiguous: %s; set it to a part of a device path, as readlink /sys/bus/gpio/devices/* shows them", s.chip, list(chips(matches)))
	}
	if m := matches[0]; s.offset >= m.lines() {
		return found{}, fmt.Errorf("line %d is not on chip %s: its lines are 0 to %d", s.offset, m, m.lines()-1)
	}
	return matches[0], nil
}

var errNoName = errors.New("absent")

func (s *source) byName(matches []found) (found, error) {
	var named []found
	for _, m := range matches {
		for offset := range m.lines() {
			info, err := m.info(offset)
			if isGone(err) {
				break
			}
			if err != nil {
				return found{}, infoError(m, err)
			}
			if info.name == s.name {
				m.offset = offset
				named = append(named, m)
			}
		}
	}
	switch {
	case len(named) == 0:
		return found{}, fmt.Errorf("%w: no line is called %q on %s; see gpioinfo for the names, or set chip and the number of the line", errNoName, s.name, list(chips(matches)))
	case len(named) == 1:
		return named[0], nil
	case named[0].chip == named[len(named)-1].chip:
		return found{}, fmt.Errorf("line %q is ambiguous: %s has several; set chip and the number of the line", s.name, named[0])
	}
	return found{}, fmt.Errorf("line %q is ambiguous: it is on %s; set chip", s.name, list(chips(named)))
}

// explain says why the line could not be taken, and what to do.
func (s *source) explain(err error, f found, where string) error {
	info, infoErr := f.info(f.offset)
	hasEdges := s.want.rising || s.want.falling
	switch {
	case isGone(infoErr):
		return fmt.Errorf("take %s: %w", where, gone(infoErr))
	case infoErr != nil:
		return infoError(f, infoErr)
	case info.used && strings.HasPrefix(info.consumer, consumerPrefix):
		return fmt.Errorf("%s is held by the sensor %q of a running agent: only one can have it", where, strings.TrimPrefix(info.consumer, consumerPrefix))
	case info.used && info.consumer != "":
		return fmt.Errorf("%s is held by %q: stop that, or take another line", where, info.consumer)
	case info.used:
		return fmt.Errorf("%s is held by the kernel: its pin has another function or is reserved; take another line", where)
	case hasEdges && errors.Is(err, unix.EBUSY):
		return fmt.Errorf("the interrupt of %s is in use; take another line, or mode = \"level\"", where)
	case hasEdges && (errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV)):
		return fmt.Errorf("%s has no interrupt, so no edges can be seen: connect the chip's interrupt pin, take another line, or mode = \"level\"", where)
	case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, errNotSupported):
		return fmt.Errorf("the driver of %s refuses %s: %w", where, s.want.describe(), err)
	}
	return fmt.Errorf("take %s: %w", where, err)
}

// errNotSupported is ENOTSUPP of the kernel, which was never meant to get out
// of it and does.
const errNotSupported = unix.Errno(524)

// describe tells what of a request a driver may refuse.
func (r request) describe() string {
	text := "to make it an input"
	if r.bias != "as-is" {
		text += " with bias = \"" + r.bias + "\""
	}
	switch {
	case r.rising && r.falling:
		text += " that tells both edges"
	case r.rising:
		text += " that tells rising edges only"
	case r.falling:
		text += " that tells falling edges only"
	}
	return text
}

func isGone(err error) bool { return errors.Is(err, unix.ENODEV) }

// gone words what the kernel says of a chip that is no longer there.
func gone(err error) error {
	if isGone(err) {
		return errors.New("the chip is gone: unplugged, or its driver unloaded")
	}
	return err
}

func openError(n node, err error) error {
	switch {
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("%s: permission denied: %s", n.path, access.Advice(n.path, "give it to a group by a udev rule"))
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%s: forbidden by the sandbox; the service needs DeviceAllow=char-gpiochip", n.path)
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("%s is missing though the kernel has the chip; give it to the container, or check udev", n.path)
	case errors.Is(err, unix.ENOTTY), errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%s is no GPIO chip", n.path)
	}
	return err
}

func infoError(f found, err error) error {
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTTY) {
		return errors.New("the kernel is too old: gpio needs Linux 5.10 or newer")
	}
	return fmt.Errorf("ask chip %s: %w", f, err)
}

func chips(fs []found) []string {
	var texts []string
	for _, f := range fs {
		texts = append(texts, f.String())
	}
	return texts
}

func list(texts []string) string {
	if more := len(texts) - maxListed; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(texts[:maxListed], ", "), more)
	}
	return strings.Join(texts, ", ")
}
