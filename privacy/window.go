package privacy

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

const (
	minWindow = time.Second
	maxWindow = 7 * 24 * time.Hour

	// maxOpenWindows bounds the memory of aggregates: a window is some 200
	// bytes. A sensor beyond it is dropped until another's window ended.
	maxOpenWindows = 1024
)

var (
	errNotANumber  = errors.New("aggregate applies to numbers")
	errManyWindows = fmt.Errorf("%d windows are open already", maxOpenWindows)
	errOverflow    = errors.New("the window's numbers are too large to aggregate")
)

func checkWindow(c config.Rule) error {
	if !(c.WindowMinutes >= minWindow.Minutes()) || c.WindowMinutes > maxWindow.Minutes() {
		return config.Problemf("window_minutes", "must be at least %.3f (%s) and at most %g for aggregate", minWindow.Minutes(), minWindow, maxWindow.Minutes())
	}
	switch c.Statistic {
	case "mean", "min", "max", "count":
		return nil
	}
	return config.Problemf("statistic", "%q is unknown: use mean, min, max or count", c.Statistic)
}

// windows holds the open windows of every aggregate rule.
//
// A window opens with a sensor's first usable reading and is over once its
// length passed on the monotonic clock: neither a step of the wall clock nor a
// timestamp that a sensor claims can shorten it. It leaves with the first
// reading after that which has to do with an aggregate rule. Windows live in
// memory only: a restart or a new set of rules loses the open ones, since half
// a window must not leave.
type windows struct {
	mu   sync.Mutex
	open map[windowKey]*window
}

// windowKey keeps sensors, and rules on one sensor, apart.
type windowKey struct {
	rule   *rule
	sensor string
}

type window struct {
	opened         time.Time // monotonic
	count          int64
	mean, min, max float64
	uncertain      bool            // one of the readings was
	last           sensors.Reading // for its time, unit and the like
}

// absorb takes r into its sensor's window and appends the windows that are over
// by now to dst.
func (w *windows) absorb(dst []Cleared, rule *rule, r *sensors.Reading) ([]Cleared, error) {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	key := windowKey{rule, r.Sensor}
	own := w.open[key]
	var err error
	if own == nil || now.Sub(own.opened) >= rule.window {
		dst, err = w.leave(dst, now)
		own = nil
	}
	counts, inapplicable := rule.counts(r)
	if !counts {
		return dst, cmp.Or(inapplicable, err)
	}
	if own == nil {
		if len(w.open) >= maxOpenWindows {
			return dst, errManyWindows
		}
		if w.open == nil {
			w.open = map[windowKey]*window{}
		}
		own = &window{opened: now, min: math.Inf(1), max: math.Inf(-1)}
		w.open[key] = own
	}
	f, _ := r.Value.Float()
	own.count++
	own.mean += (f - own.mean) / float64(own.count) // a sum could overflow, or lose what is small
	own.min, own.max = min(own.min, f), max(own.max, f)
	own.uncertain = own.uncertain || r.Quality == wire.Uncertain
	own.last = *r
	own.last.Value, own.last.Reason, own.last.Meta = wire.Value{}, "", nil
	return dst, err
}

// counts reports whether r has a part in its sensor's window. A bad reading has
// no value to count, and a stale one repeats an old one.
func (r *rule) counts(reading *sensors.Reading) (bool, error) {
	switch {
	case reading.Value.Kind() == wire.None || reading.Quality == wire.Bad || reading.Quality == wire.Stale:
		return false, nil
	case reading.Value.Kind() != wire.Number && r.spec.Statistic != "count":
		return false, errNotANumber
	}
	return true, nil
}

// leave appends every window that is over to dst and forgets it. One whose
// statistic overflowed is lost, with an error.
func (w *windows) leave(dst []Cleared, now time.Time) (_ []Cleared, err error) {
	for key, one := range w.open {
		if now.Sub(one.opened) < key.rule.window {
			continue
		}
		delete(w.open, key)
		r := one.reading(key.rule)
		if r.Value.Kind() == wire.None {
			err = errOverflow
			continue
		}
		dst = append(dst, Cleared{reading: r, ok: true})
	}
	return dst, err
}

// reading returns what leaves of the window: the statistic at the time of the
// last reading, and nothing of any single one beside that.
func (w *window) reading(rule *rule) sensors.Reading {
	r := w.last
	r.Quality = wire.Good
	if w.uncertain {
		r.Quality, r.Reason = wire.Uncertain, "a reading of the window was uncertain"
	}
	switch rule.spec.Statistic {
	case "min":
		r.Value = wire.NumberValue(w.min)
	case "max":
		r.Value = wire.NumberValue(w.max)
	case "count":
		r.Value, r.Unit = wire.NumberValue(float64(w.count)), ""
	default:
		r.Value = wire.NumberValue(w.mean)
	}
	r.Meta = map[string]wire.Value{
		"aggregate":      wire.TextValue(rule.spec.Statistic),
		"count":          wire.NumberValue(float64(w.count)),
		"window_seconds": wire.NumberValue(rule.window.Seconds()),
	}
	return r
}
