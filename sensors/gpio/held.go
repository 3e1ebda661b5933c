package gpio

import (
	"fmt"
	"time"
)

// held is a line that this process holds, and what is known of its edges.
type held struct {
	line
	where  string     // for errors
	number uint32     // of the last event
	settle *debouncer // nil unless the driver refused to
}

// debounce begins debouncing here, as the driver should have. It keeps the
// edges that are wanted.
func (h *held) debounce(want request) error {
	active, err := h.value()
	if err != nil {
		return err
	}
	h.settle = &debouncer{period: want.debounce, rising: want.rising, falling: want.falling, level: active}
	return nil
}

// next returns the next edges, and waits for the first one as long as wait
// says; it may return without one before. lost is how many the kernel saw and
// could not keep. The slice is overwritten by the next call.
func (h *held) next(wait time.Duration) (edges []event, lost uint32, err error) {
	if h.settle != nil && wait > 0 {
		wait = max(time.Millisecond, min(wait, h.settle.remaining(time.Now())))
	}
	edges, err = h.events(wait)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", h.where, gone(err))
	}
	for _, e := range edges {
		// The kernel's number wraps around, and so does this. One that goes
		// back, which none should, is no loss of billions.
		if gap := e.number - h.number - 1; gap < 1<<31 {
			lost += gap
		}
		h.number = e.number
	}
	if h.settle != nil {
		edges = h.settle.filter(edges, time.Now())
	}
	return edges, lost, nil
}

// active tells whether the line is active, with an error that names it.
func (h *held) active() (bool, error) {
	v, err := h.value()
	if err != nil {
		return false, fmt.Errorf("%s: %w", h.where, gone(err))
	}
	return v, nil
}

// holder holds a line between reads, and takes it anew after a failure.
type holder struct {
	source source
	held   *held // nil while the line is not held
}

// hold returns the line; fresh says that it was taken just now.
func (h *holder) hold() (l *held, fresh bool, err error) {
	if h.held != nil {
		return h.held, false, nil
	}
	h.held, err = h.source.take()
	return h.held, true, err
}

// drop gives the line back. The error is of no use: the line is gone already
// or is so now.
func (h *holder) drop() { _ = h.Close() }

// Close gives the line back.
func (h *holder) Close() error {
	if h.held == nil {
		return nil
	}
	err := h.held.Close()
	h.held = nil
	return err
}
