package serial

import (
	"fmt"
	"strings"
	"time"

	"github.com/pyvorin/pyvorin-edge/sensors"
)

// heard is what came over the port since it was opened.
type heard struct {
	since   time.Time       // the last useful line, or the opening; zero before the first
	last    time.Time       // the last byte; zero when there was none
	first   time.Time       // the first useful line; zero when there was none
	useless uint64          // lines that were of no use, since the last one that was
	woken   bool            // a read was asked for
	tooLong sensors.Dropped // lines, since the last read

	lines, allUseless uint64 // since the opening
}

// line notes one that came at now.
func (h *heard) line(useful bool, now time.Time) {
	h.lines++
	if !useful {
		h.useless++
		h.allUseless++
		return
	}
	h.since, h.useless = now, 0
	if h.first.IsZero() {
		h.first = now
	}
}

// settled reports whether what gathered may be handed on: a GPS receiver tells
// its channels one sentence after the other, and a first reading of half of
// them would look like a receiver that has no more. mu is held.
func (s *sensor) settled(now time.Time) bool {
	return s.stopped || s.settle == 0 || !s.heard.first.IsZero() && now.Sub(s.heard.first) >= s.settle
}

// complaint says why nothing of use came for too long, nil when it did. The
// text is the same as long as the fault is. mu is held.
func (s *sensor) complaint(now time.Time) error {
	h := &s.heard
	if h.since.IsZero() {
		return nil // never open yet
	}
	patience, silence := s.patience, s.silence
	if s.stopped {
		// A single read has no patience. It is told of what came instead of a
		// value, but not of silence, which the poller words itself.
		patience, silence = 0, 0
		if !h.first.IsZero() {
			return nil
		}
	}
	quietSince := h.since
	if h.last.After(quietSince) {
		quietSince = h.last
	}
	switch useless := h.last.Sub(h.since); {
	case silence > 0 && now.Sub(quietSince) >= silence && s.o.Request != "":
		return fmt.Errorf("no answer to request: check it, the wiring and baud_rate (%d), and that the device is on", s.o.BaudRate)
	case silence > 0 && now.Sub(quietSince) >= silence:
		return fmt.Errorf("nothing comes: check that the device is on, its wiring (its TX to this RX) and baud_rate (%d)", s.o.BaudRate)
	case useless <= 0 || useless < patience:
		return nil
	case h.useless == 0:
		return fmt.Errorf("what comes has no end of line: check baud_rate (%d), data_bits and parity, and that the device sends text", s.o.BaudRate)
	}
	return s.framing.complaint(several(h.useless))
}

// several says that n lines came, in words that stay the same while n grows to
// ten times as many: a reason that differs at each read would be news each time.
func several(n uint64) string {
	round := uint64(1)
	for n/round >= 10 {
		round *= 10
	}
	if round == 1 {
		return "lines came"
	}
	return fmt.Sprintf("%d lines or more came", round)
}

// lost is how much bounds have cost since the last read.
type lost struct {
	buffered sensors.Dropped // samples
	tooLong  sensors.Dropped // lines
}

func (l lost) Error() string {
	var reasons []string
	if l.buffered > 0 {
		reasons = append(reasons, "older readings were dropped: buffer_readings was reached; poll more often or raise it")
	}
	if l.tooLong > 0 {
		reasons = append(reasons, "a line was longer than max_line_bytes and dropped: raise it, or check baud_rate")
	}
	return strings.Join(reasons, "; ")
}

// Unwrap lets the poller count them.
func (l lost) Unwrap() error { return l.buffered + l.tooLong }
