package health

import (
	"math/bits"
	"sync"
	"time"
)

// The window is a ring of slots, each with a histogram of durations on a
// scale that is logarithmic with eight steps an octave: from 1 µs to more than
// a minute, to within 7 %, in 26 KiB for ever.
const (
	windowSlots   = 30
	windowSlot    = 10 * time.Second
	stepsPerOct   = 8
	windowOctaves = 27
	windowBins    = windowOctaves * stepsPerOct
)

// Window holds how the operations of the last five minutes went: polls,
// deliveries and probes. Its memory is fixed; it is safe for concurrent use,
// and Observe costs tens of nanoseconds.
type Window struct {
	start time.Time // carries the monotonic clock: setting the time moves nothing

	mu    sync.Mutex
	slots [windowSlots]windowCounts
}

// windowCounts are the operations of one slot.
type windowCounts struct {
	number int64 // slots since start; tells a slot of now from one of a round ago
	total  uint32
	errors uint32
	bins   [windowBins]uint32
}

// NewWindow returns an empty Window.
func NewWindow() *Window { return &Window{start: time.Now()} }

// Observe counts one operation that took d and failed with err, or nil.
func (w *Window) Observe(d time.Duration, err error) { w.observe(w.slot(), d, err != nil) }

// Stats returns the share of failed operations in percent and the 95th
// percentile of all durations; both are 0 when there were none.
func (w *Window) Stats() (errorRatePercent float64, p95 time.Duration) { return w.stats(w.slot()) }

func (w *Window) slot() int64 { return int64(time.Since(w.start) / windowSlot) }

func (w *Window) observe(slot int64, d time.Duration, failed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := &w.slots[slot%windowSlots]
	if c.number != slot {
		*c = windowCounts{number: slot}
	}
	c.total++
	if failed {
		c.errors++
	}
	c.bins[binOf(d)]++
}

func (w *Window) stats(slot int64) (errorRatePercent float64, p95 time.Duration) {
	var total, errors uint64
	var bins [windowBins]uint64
	w.mu.Lock()
	for i := range w.slots {
		c := &w.slots[i]
		if c.number <= slot-windowSlots || c.total == 0 {
			continue
		}
		total += uint64(c.total)
		errors += uint64(c.errors)
		for b, n := range c.bins {
			bins[b] += uint64(n)
		}
	}
	w.mu.Unlock()
	if total == 0 {
		return 0, 0
	}
	rank := (total*95 + 99) / 100 // the smallest duration that 95 % do not exceed
	for b, n := range bins {
		if n >= rank {
			p95 = binMiddle(b)
			break
		}
		rank -= n
	}
	return 100 * float64(errors) / float64(total), p95
}

// binOf returns the histogram bin of d; what is out of range falls into the
// first or last one.
func binOf(d time.Duration) int {
	us := uint64(max(d.Microseconds(), 0))
	if us < stepsPerOct {
		return int(us) // exact: the steps of the first octaves are below 1 µs
	}
	octave := bits.Len64(us) - 4 // us>>octave is in 8..15
	return min(octave*stepsPerOct+int(us>>octave), windowBins-1)
}

// binMiddle returns the middle of a bin.
func binMiddle(b int) time.Duration {
	if b < 2*stepsPerOct {
		return time.Duration(b) * time.Microsecond
	}
	octave := b/stepsPerOct - 1
	low := uint64(b%stepsPerOct+stepsPerOct) << octave
	return time.Duration(low+(1<<octave)/2) * time.Microsecond
}
