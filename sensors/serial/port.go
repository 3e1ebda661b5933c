package serial

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"time"

	"go.bug.st/serial"
	"golang.org/x/sys/unix"

	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/sensors/internal/access"
	"github.com/pyvorin/pyvorin-edge/sensors/internal/port"
)

const (
	// reopenGap is how often a port that is not there is looked for: soon
	// enough for a plug that was put back, and cheap, because an absent device
	// is one failed lookup.
	reopenGap = time.Second

	// lookUp is how long the port is waited for at once, which bounds the end
	// of Run.
	lookUp = 200 * time.Millisecond
)

var errGone = errors.New("the device is gone: unplugged, reset or without power")

// Run listens on the port until ctx ends, and opens it again whenever it was
// lost. It does not leave that to the poller, whose pause grows to a minute.
func (s *sensor) Run(ctx context.Context, wake func()) error {
	if counted.MatchString(s.o.Device) {
		s.log.Warn().Str("device", s.o.Device).Msg("another device may have this name after a reboot; use the one below /dev/serial/by-id")
	}
	s.begin()
	defer s.end()
	for {
		err := s.session(ctx, wake)
		if ctx.Err() != nil {
			return nil
		}
		if s.lose(err) {
			wake()
		}
		pause := time.NewTimer(s.reopen)
		select {
		case <-ctx.Done():
			pause.Stop()
			return nil
		case <-pause.C:
		}
	}
}

func (s *sensor) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = false
}

func (s *sensor) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
}

// lose notes why the port is not open. It reports whether that is news.
func (s *sensor) lose(err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	news := s.link == nil || s.link.Error() != err.Error()
	s.link = err
	return news
}

// session opens the port and listens until ctx ends or the port is lost. The
// port is used by this goroutine alone: the library closes the descriptor under
// a read that is on its way, which might then read from whatever is opened next.
func (s *sensor) session(ctx context.Context, wake func()) error {
	release, err := port.Claim(s.path, s.name)
	if err != nil {
		return s.explain(err)
	}
	defer release()
	unlock, err := lock(s.path)
	if err != nil {
		return s.explain(err)
	}
	defer unlock()
	p, err := serial.Open(s.path, &s.mode)
	if err != nil {
		return s.explain(err)
	}
	defer func() {
		p.ResetOutputBuffer() // closing waits for what was not sent, up to 30 s
		p.Close()
		s.closed()
	}()
	s.opened()
	return s.listen(ctx, p, wake)
}

// lock keeps those off the port who ask for this lock: picocom, and the sensor
// of another process, as when somebody calls `sensors read` beside the agent.
// The library opens the port for itself alone, but that keeps no root off, and
// of two readers each gets some of the bytes.
func lock(path string) (unlock func(), err error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return func() { unix.Close(fd) }, nil
}

func (s *sensor) opened() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.link = nil
	s.heard = heard{since: time.Now(), tooLong: s.heard.tooLong}
}

func (s *sensor) closed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log.Debug().Uint64("lines", s.heard.lines).Uint64("of_no_use", s.heard.allUseless).Msg("port closed")
}

// listen takes what comes until ctx ends, when it returns nil, or the port
// fails.
func (s *sensor) listen(ctx context.Context, p serial.Port, wake func()) error {
	split := splitter{limit: s.o.MaxLineBytes}
	chunk := make([]byte, 4096)
	next := time.Now().Add(lookUp) // when the request is due; by then a silent device is known as one
	for ctx.Err() == nil {
		wait := lookUp
		if s.o.Request != "" {
			now := time.Now()
			if !now.Before(next) {
				if err := s.request(p); err != nil {
					return err
				}
				next = now.Add(s.interval)
			}
			wait = min(wait, next.Sub(now))
		}
		if err := p.SetReadTimeout(wait); err != nil {
			return err
		}
		n, err := p.Read(chunk)
		if err != nil {
			return errGone
		}
		if n == 0 {
			split.silent()
		}
		if s.took(&split, chunk[:n]) {
			wake()
		}
	}
	return nil
}

// request asks the device for a value. What was not sent of the last request
// is thrown away first: a device that takes nothing must not fill the buffer
// of the port, where a write would wait for ever.
func (s *sensor) request(p serial.Port) error {
	if err := p.ResetOutputBuffer(); err != nil {
		return errGone
	}
	if _, err := p.Write([]byte(s.o.Request)); err != nil {
		return errGone
	}
	return nil
}

// took hands the bytes to the framing, line by line. It reports whether to
// wake the poller: for each line that gave a value, but of a GPS only when its
// first values are complete.
func (s *sensor) took(split *splitter, p []byte) (wake bool) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	h := &s.heard
	if len(p) > 0 {
		h.last = now
	}
	tooLong := split.tooLong
	split.feed(p, func(line []byte) {
		useful := s.framing.line(line, now)
		h.line(useful, now)
		wake = wake || useful
	})
	h.tooLong += sensors.Dropped(split.tooLong - tooLong)
	if s.settle > 0 {
		wake = !h.woken && s.settled(now)
		h.woken = h.woken || wake
	}
	return wake
}

// explain says in plain words why the port cannot be opened.
func (s *sensor) explain(err error) error {
	var code serial.PortErrorCode = -1
	var portError *serial.PortError
	if errors.As(err, &portError) {
		code = portError.Code()
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("absent: it is not plugged in, or has another name (ls -l /dev/serial/by-id)")
	case code == serial.PermissionDenied || errors.Is(err, syscall.EACCES):
		return errors.New("permission denied: " + whoMay(s.path))
	case errors.Is(err, syscall.EPERM):
		return errors.New("forbidden by the sandbox of the service: add DeviceAllow= for this device to its unit")
	case code == serial.PortBusy || errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.EWOULDBLOCK):
		return errors.New("another program has it open (fuser -v tells which); when that is the agent, stop it first")
	case errors.Is(err, syscall.EISDIR) || code == serial.InvalidSerialPort && strings.Contains(err.Error(), syscall.ENOTTY.Error()):
		return errors.New("not a serial port: check device")
	case errors.Is(err, syscall.ENXIO), errors.Is(err, syscall.ENODEV), strings.Contains(err.Error(), syscall.EIO.Error()):
		return errors.New("no hardware answers behind it: check device, and that its UART is enabled")
	case code == serial.InvalidSerialPort:
		return fmt.Errorf("it does not do baud_rate %d with %d data bits, parity %s and %d stop bits: %w", s.o.BaudRate, s.o.DataBits, s.o.Parity, s.o.StopBits, err)
	}
	return fmt.Errorf("cannot be opened: %w", err)
}

// whoMay says what lets a user open the port at path.
func whoMay(path string) string {
	return access.Advice(path, "end the login console that runs on it")
}
