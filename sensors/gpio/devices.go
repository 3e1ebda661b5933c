package gpio

import (
	"cmp"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"github.com/warthog618/go-gpiocdev/uapi"
	"golang.org/x/sys/unix"
)

const (
	// kernelEvents is how many events the kernel is asked to buffer for a line;
	// it grants no more.
	kernelEvents = 1024

	eventBytes = int(unsafe.Sizeof(uapi.LineEvent{}))

	// batch is how many events one system call takes at most.
	batch = 64
)

// devices are the kernel's GPIO character devices below a root folder.
type devices struct{ root string }

func (d devices) nodes() ([]node, error) {
	dir := filepath.Join(d.root, "sys/bus/gpio/devices")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "gpiochip") {
			names = append(names, e.Name())
		}
	}
	slices.SortFunc(names, func(a, b string) int { // gpiochip2 before gpiochip10
		return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
	})
	nodes := make([]node, len(names))
	for i, name := range names {
		nodes[i].path = filepath.Join(d.root, "dev", name)
		if real, err := filepath.EvalSymlinks(filepath.Join(dir, name)); err == nil {
			nodes[i].device = filepath.Dir(real)
		}
	}
	return nodes, nil
}

func (d devices) open(n node) (chip, error) {
	f, err := os.OpenFile(n.path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := uapi.GetChipInfo(f.Fd())
	if err != nil {
		f.Close()
		return nil, &fs.PathError{Op: "ask", Path: n.path, Err: err}
	}
	return &deviceChip{f: f, name: uapi.BytesToString(info.Label[:]), n: int(info.Lines)}, nil
}

type deviceChip struct {
	f    *os.File
	name string
	n    int
}

func (c *deviceChip) label() string { return c.name }
func (c *deviceChip) lines() int    { return c.n }
func (c *deviceChip) Close() error  { return c.f.Close() }

func (c *deviceChip) info(offset int) (lineInfo, error) {
	i, err := uapi.GetLineInfoV2(c.f.Fd(), offset)
	if err != nil {
		return lineInfo{}, err
	}
	return lineInfo{
		name:     uapi.BytesToString(i.Name[:]),
		consumer: uapi.BytesToString(i.Consumer[:]),
		used:     i.Flags.IsUsed(),
		output:   i.Flags.IsOutput(),
	}, nil
}

func (c *deviceChip) request(offset int, r request) (line, error) {
	lr := uapi.LineRequest{Lines: 1}
	lr.Offsets[0] = uint32(offset)
	copy(lr.Consumer[:maxConsumerBytes], r.consumer)
	lr.Config.Flags = flags(r)
	if r.debounce > 0 {
		lr.Config.AddAttribute(uapi.LineConfigAttribute{Attr: uapi.DebouncePeriod(r.debounce).Encode(), Mask: 1})
	}
	hasEvents := r.rising || r.falling
	if hasEvents {
		lr.EventBufferSize = kernelEvents
	}
	if err := uapi.GetLine(c.f.Fd(), &lr); err != nil {
		return nil, err
	}
	return newDeviceLine(int(lr.Fd), hasEvents)
}

func flags(r request) uapi.LineFlagV2 {
	f := uapi.LineFlagV2Input
	if r.activeLow {
		f |= uapi.LineFlagV2ActiveLow
	}
	if r.rising {
		f |= uapi.LineFlagV2EdgeRising
	}
	if r.falling {
		f |= uapi.LineFlagV2EdgeFalling
	}
	switch r.bias {
	case "pull-up":
		f |= uapi.LineFlagV2BiasPullUp
	case "pull-down":
		f |= uapi.LineFlagV2BiasPullDown
	case "disabled":
		f |= uapi.LineFlagV2BiasDisabled
	}
	return f
}

// deviceLine is the file that the kernel gives for a line. Waiting for events
// is waiting for a file to be readable, and so costs no thread.
type deviceLine struct {
	f   *os.File
	fd  uintptr
	raw syscall.RawConn

	buf []byte // whole events as the kernel writes them; nil when there are none
	out []event

	mu          sync.Mutex
	interrupted bool // the deadline of f has passed and stays so
}

// newDeviceLine takes over the file descriptor of a line.
func newDeviceLine(fd int, hasEvents bool) (*deviceLine, error) {
	l := &deviceLine{fd: uintptr(fd)}
	if hasEvents {
		if err := unix.SetNonblock(fd, true); err != nil {
			unix.Close(fd)
			return nil, err
		}
		l.buf, l.out = make([]byte, batch*eventBytes), make([]event, 0, batch)
	}
	l.f = os.NewFile(uintptr(fd), "gpio line")
	raw, err := l.f.SyscallConn()
	if err != nil {
		l.f.Close()
		return nil, err
	}
	l.raw = raw
	return l, nil
}

func (l *deviceLine) value() (bool, error) {
	v := uapi.LineValues{Mask: 1}
	if err := uapi.GetLineValuesV2(l.fd, &v); err != nil {
		return false, err
	}
	return v.Get(0) == 1, nil
}

func (l *deviceLine) events(wait time.Duration) ([]event, error) {
	if wait > 0 {
		if err := l.setDeadline(wait); err != nil {
			return nil, err
		}
	}
	var n int
	var readErr error
	err := l.raw.Read(func(fd uintptr) (done bool) {
		n, readErr = unix.Read(int(fd), l.buf)
		return wait <= 0 || readErr != unix.EAGAIN
	})
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, nil
	case err != nil:
		return nil, err
	case readErr == unix.EAGAIN || readErr == unix.EINTR:
		return nil, nil
	case readErr != nil:
		return nil, readErr
	case n == 0:
		return nil, io.ErrUnexpectedEOF
	}
	return l.decode(l.buf[:n])
}

// decode reads whole events. The kernel stamps them with the monotonic clock,
// so they keep their distance when the wall clock is set.
func (l *deviceLine) decode(b []byte) ([]event, error) {
	var mono unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono); err != nil {
		return nil, err
	}
	now := time.Now()
	l.out = l.out[:0]
	for ; len(b) >= eventBytes; b = b[eventBytes:] {
		stamp := binary.NativeEndian.Uint64(b)
		age := max(0, time.Duration(mono.Nano()-int64(stamp)))
		l.out = append(l.out, event{
			at:     now.Add(-age),
			rising: uapi.LineEventID(binary.NativeEndian.Uint32(b[8:])) == uapi.LineEventRisingEdge,
			number: binary.NativeEndian.Uint32(b[16:]),
		})
	}
	return l.out, nil
}

func (l *deviceLine) setDeadline(wait time.Duration) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.interrupted {
		return nil
	}
	return l.f.SetReadDeadline(time.Now().Add(wait))
}

func (l *deviceLine) interrupt() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.interrupted = true
	// It fails on a closed file only, which has nobody waiting.
	_ = l.f.SetReadDeadline(time.Unix(1, 0))
}

func (l *deviceLine) Close() error { return l.f.Close() }
