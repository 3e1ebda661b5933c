package modbus

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pyvorin/pyvorin-edge/sensors/internal/port"
)

// leastGap is the silence that ends a disturbance; USB adapters hand on what
// they received only every 16 ms.
const leastGap = 20 * time.Millisecond

// line is a serial port beside the library's own descriptor of it: it keeps
// other sensors and programs out, and reaches what the library does not, the
// bytes that came unasked. A nil line, that of a network connection, does
// nothing.
type line struct {
	path    string
	fd      int
	gap     time.Duration // longer than any inside a frame
	release func()
}

// taken is the error of a port that another sensor has.
type taken struct{ error }

func openLine(path, owner string, baudRate int) (*line, error) {
	release, err := port.Claim(path, owner)
	var absent *fs.PathError
	if err != nil && !errors.As(err, &absent) {
		return nil, taken{fmt.Errorf("%w, or the same url to those of one bus", err)}
	}
	if err != nil {
		return nil, err
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		release()
		return nil, err
	}
	const characters = 4
	// TIOCEXCL, below and in other programs, does not keep root off.
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		unix.Close(fd)
		release()
		return nil, unix.EBUSY
	}
	l := &line{
		path: path, fd: fd, release: release,
		gap: max(leastGap, characters*bitsPerByte*time.Second/time.Duration(baudRate)),
	}
	if _, err := unix.IoctlGetTermios(fd, unix.TCGETS); err != nil {
		l.close()
		return nil, errNotSerial
	}
	return l, nil
}

// lock keeps other programs from opening the port, unless they are root's.
func (l *line) lock() {
	if l != nil {
		unix.IoctlSetInt(l.fd, unix.TIOCEXCL, 0)
	}
}

func (l *line) close() {
	if l != nil {
		unix.IoctlSetInt(l.fd, unix.TIOCNXCL, 0)
		unix.Close(l.fd)
		l.release()
	}
}

// flush throws away what was received and not read.
func (l *line) flush() {
	if l != nil {
		unix.IoctlSetInt(l.fd, unix.TCFLSH, unix.TCIFLUSH)
	}
}

// gone reports whether the device behind the port was removed. The library
// takes that for silence.
func (l *line) gone() bool {
	if l == nil {
		return false
	}
	fds := []unix.PollFd{{Fd: int32(l.fd)}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
}

// awaitSilence throws away what comes until nothing more does.
func (l *line) awaitSilence(ctx context.Context, limit time.Duration) error {
	for end := time.Now().Add(limit); ; {
		l.flush()
		if err := sleep(ctx, l.gap); err != nil {
			return err
		}
		// An error is that of a port that is gone; the request will say so.
		if waiting, err := unix.IoctlGetInt(l.fd, unix.TIOCINQ); err != nil || waiting == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("port %s: the line is never quiet: check for another master on it, baud_rate, wiring and termination", l.path)
		}
	}
}
