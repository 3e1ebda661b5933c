package syncqueue

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/pyvorin/pyvorin-edge/internal/clock"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// clockMark is what is known of the timestamps in a row; never renumber.
type clockMark uint8

const (
	clockTrusted        clockMark = 0 // taken with a set and synchronized clock, not by our clock, or settled since
	clockUnsynchronized clockMark = 1 // plausible, but nothing disciplined the clock
	clockUnset          clockMark = 2 // the clock cannot have been right
)

const (
	// clockTolerance is the smallest error of a timestamp that is corrected.
	clockTolerance = 2 * time.Second

	// clockPatience is how long after Open rows with a clock that was not set
	// wait for it to be set, before they are delivered flagged.
	clockPatience = 10 * time.Minute
)

const reasonClockUnset = "the device's clock was not set"

func markOf(s clock.State) clockMark {
	switch {
	case !s.Set:
		return clockUnset
	case !s.Synchronized:
		return clockUnsynchronized
	}
	return clockTrusted
}

// ownClock reports whether this process took t from the machine's clock: only
// such a timestamp is wrong when that clock is.
func ownClock(t time.Time) bool { return t != t.Round(0) }

// clockStep returns how far the wall clock was set forward between taken and
// now, 0 unless both have a monotonic part.
func clockStep(taken, now time.Time) time.Duration {
	return now.Round(0).Sub(taken.Round(0)) - now.Sub(taken)
}

// corrected returns what has to be added to the timestamps of a row with the
// given mark and offset, and whether anything has.
func (m clockMark) corrected(boot string, offset int64, now clock.State) (time.Duration, bool) {
	if m == clockTrusted || boot != now.BootID {
		return 0, false
	}
	if !now.Synchronized && (m != clockUnset || !now.Set) {
		return 0, false
	}
	shift := now.Offset - time.Duration(offset)
	return shift, shift.Abs() >= clockTolerance
}

// held reports whether r has to wait for the clock to be set.
func (q *Queue) held(now time.Time, state clock.State) func(*row) bool {
	waiting := !state.Set && now.Sub(q.opened) < clockPatience
	return func(r *row) bool { return waiting && r.clock == clockUnset && r.thisBoot }
}

// settle returns r with the timestamps it is to travel with, and whether that
// changed anything: corrected when the clock is known by now, flagged when it
// was not set and never will be known.
func settle(r stored, now clock.State) (_ stored, shift time.Duration, changed bool, err error) {
	shift, correct := r.clock.corrected(r.boot, r.offset, now)
	flag := !correct && r.clock == clockUnset && !(r.boot == now.BootID && now.Set)
	if !correct && !flag {
		return r, 0, false, nil
	}
	lines, err := frameLines(r.encoding, r.payload)
	if err != nil {
		return r, 0, false, err
	}
	var raw []byte
	for _, line := range lines {
		var reading wire.Reading
		if err := json.Unmarshal(line, &reading); err != nil {
			return r, 0, false, fmt.Errorf("decode reading: %w", err)
		}
		if correct {
			reading.Timestamp = reading.Timestamp.Add(shift)
			reading.Clock = wire.ClockCorrected
		} else {
			flagUnset(&reading)
		}
		raw = append(reading.AppendJSON(raw), '\n')
	}
	r.payload, err = compress(nil, r.encoding, raw)
	r.clock, r.sum = clockTrusted, frameSum(r.first, r.n, r.encoding, r.payload)
	return r, shift, true, err
}

func flagUnset(r *wire.Reading) {
	r.Clock = wire.ClockUnset
	if r.Quality == wire.Good {
		r.Quality = wire.Uncertain
	}
	if r.Reason != "" {
		r.Reason += "; "
	}
	r.Reason += reasonClockUnset
}

// verifyFrame decodes r and makes sure that it holds its n readings.
func verifyFrame(r *stored) error {
	lines, err := frameLines(r.encoding, r.payload)
	if err != nil {
		return err
	}
	if len(lines) != int(r.n) {
		return fmt.Errorf("row %d has %d lines, not %d", r.first, len(lines), r.n)
	}
	for i, line := range lines {
		if !bytes.Contains(line, fmt.Appendf(nil, `,"seq":%d,`, r.first+uint64(i))) {
			return fmt.Errorf("line %d of row %d has another seq", i+1, r.first)
		}
	}
	return nil
}
