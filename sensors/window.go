package sensors

import (
	"fmt"
	"strconv"
	"time"

	"github.com/pyvorin/pyvorin-edge/wire"
)

// window sums up the readings of one channel between two instants. It opens
// with its first reading, and later windows follow it without a gap.
type window struct {
	open   bool
	opened time.Duration

	good           int // usable readings, doubtful ones included
	doubtful, bad  int
	min, max, mean float64
	last           Reading
	reason         string // of the last reading that was not good
}

func needsNumbers(reduce string) bool { return reduce != "last" && reduce != "count" }

func (w *window) add(r Reading, now time.Duration) {
	if !w.open {
		*w = window{open: true, opened: now}
	}
	if r.Quality != wire.Good {
		w.reason = r.Reason
	}
	if !isUsable(r.Quality) {
		w.bad++
		return
	}
	if r.Quality == wire.Uncertain {
		w.doubtful++
	}
	w.good++
	w.last = r
	v, _ := r.Value.Float()
	if w.good == 1 {
		w.min, w.max, w.mean = v, v, v
		return
	}
	w.min, w.max = min(w.min, v), max(w.max, v)
	// Two divisions, since the difference of two finite numbers may not be finite.
	n := float64(w.good)
	w.mean += v/n - w.mean/n
}

func (w *window) empty() bool { return w.good+w.bad == 0 }

// ended reports whether the window is over, and when that was.
func (w *window) ended(length, now time.Duration) (at time.Duration, ok bool) {
	return w.opened + length, w.open && now-w.opened >= length
}

// restart begins the window that now falls into, on the same grid.
func (w *window) restart(length, now time.Duration) {
	elapsed := now - w.opened
	*w = window{open: true, opened: now - elapsed%length}
}

// meanDigits are the significant digits of a mean: what division leaves beyond
// them was not measured, and would only make readings longer.
const meanDigits = 12

// roundedMean stays between the least and the greatest value, so that equal
// values have themselves as their mean.
func (w *window) roundedMean() float64 {
	rounded, err := strconv.ParseFloat(strconv.FormatFloat(w.mean, 'g', meanDigits, 64), 64)
	if err != nil { // rounded up beyond what a float can hold
		rounded = w.mean
	}
	return max(w.min, min(rounded, w.max))
}

// reduce fills in r from the window.
func (w *window) reduce(r *Reading, how string) {
	if w.good == 0 {
		r.Quality, r.Reason = wire.Bad, "no good sample in the window"
		if w.reason != "" {
			r.Reason = reason(r.Reason + ": " + w.reason)
		}
		return
	}
	r.Type, r.Unit = w.last.Type, w.last.Unit
	switch how {
	case "min":
		r.Value = wire.NumberValue(w.min)
	case "max":
		r.Value = wire.NumberValue(w.max)
	case "mean":
		r.Value = wire.NumberValue(w.roundedMean())
	case "last":
		r.Value, r.Meta = w.last.Value, w.last.Meta
	case "count":
		r.Value, r.Unit = wire.NumberValue(float64(w.good)), ""
	}
	if total := w.good + w.bad; w.bad > 0 {
		worsen(r, wire.Uncertain, reason(fmt.Sprintf("%d of %d samples bad: %s", w.bad, total, w.reason)))
	} else if w.doubtful > 0 {
		worsen(r, wire.Uncertain, reason(fmt.Sprintf("%d of %d samples uncertain: %s", w.doubtful, total, w.reason)))
	}
}
