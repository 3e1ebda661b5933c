package syncqueue_test

import (
	"bytes"
	"context"
	"testing"
	"time"
	"unsafe"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/internal/clock"
	"github.com/pyvorin/pyvorin-edge/privacy"
	"github.com/pyvorin/pyvorin-edge/syncqueue"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// in1970 is a time shortly after the epoch that carries a monotonic part, as
// time.Now returns it on a board whose clock is not set.
func in1970() time.Time {
	now := time.Now()
	return now.Add(-now.Sub(time.Unix(0, 0)) + 100*time.Second)
}

// stepped returns t as if the wall clock had been set forward by d since: Add
// moves the monotonic part too, so the wall part (seconds above 30 bits of
// nanoseconds) is changed where it lies.
func stepped(t time.Time, d time.Duration) time.Time {
	wall := (*uint64)(unsafe.Pointer(&t))
	*wall += uint64(int64(d/time.Second)) << 30
	return t
}

func takenAt(t *testing.T, at time.Time) []privacy.Cleared {
	r := reading(0, config.PriorityNormal)
	r.Time = at
	return cleared(t, r)
}

func TestTimestampsFollowTheClock(t *testing.T) {
	year1970 := in1970()
	offset1970 := 90 * time.Second // the wall clock said 100 s, 10 s after boot
	step := 56 * 365 * 24 * time.Hour
	unset := clock.State{BootID: "one", Offset: offset1970}
	set := func(boot string, by time.Duration, sync bool) clock.State {
		return clock.State{BootID: boot, Offset: offset1970 + by, Set: true, Synchronized: sync}
	}
	recent := time.Now()
	for name, c := range map[string]struct {
		taken       time.Time
		then, later clock.State
		after       time.Duration // since Open
		restart     bool
		held        bool
		want        time.Time
		clock       wire.Clock
		quality     wire.Quality
	}{
		"trusted then, whatever comes":         {taken: recent, then: set("one", step, true), later: set("one", step+time.Hour, true), want: recent, quality: wire.Good},
		"not set, set since":                   {taken: year1970, then: unset, later: set("one", step, false), want: year1970.Add(step), clock: wire.ClockCorrected, quality: wire.Good},
		"not set, set since, after a restart":  {taken: year1970, then: unset, later: set("one", step, true), restart: true, want: year1970.Add(step), clock: wire.ClockCorrected, quality: wire.Good},
		"not set yet":                          {taken: year1970, then: unset, later: unset, after: 9 * time.Minute, held: true},
		"not set for ten minutes":              {taken: year1970, then: unset, later: unset, after: 11 * time.Minute, want: year1970, clock: wire.ClockUnset, quality: wire.Uncertain},
		"not set in another boot":              {taken: year1970, then: unset, later: set("two", step, true), restart: true, want: year1970, clock: wire.ClockUnset, quality: wire.Uncertain},
		"not set in another boot, nor in this": {taken: year1970, then: unset, later: clock.State{BootID: "two"}, restart: true, want: year1970, clock: wire.ClockUnset, quality: wire.Uncertain},
		"unsynchronized, still so":             {taken: recent, then: set("one", step, false), later: set("one", step+time.Hour, false), want: recent, quality: wire.Good},
		"unsynchronized, an hour fast":         {taken: recent, then: set("one", step, false), later: set("one", step-time.Hour, true), want: recent.Add(-time.Hour), clock: wire.ClockCorrected, quality: wire.Good},
		"unsynchronized, right to a second":    {taken: recent, then: set("one", step, false), later: set("one", step+time.Second, true), want: recent, quality: wire.Good},
		"unsynchronized, of another boot":      {taken: recent, then: set("one", step, false), later: set("two", step+time.Hour, true), restart: true, want: recent, quality: wire.Good},
		"not by the machine's clock":           {taken: year1970.Round(0), then: unset, later: set("one", step, true), want: year1970, quality: wire.Good},
	} {
		t.Run(name, func(t *testing.T) {
			o := options(t.TempDir())
			o.MaxAge = time.Hour // the age of a reading with an unset clock is not known
			at := &fakeClock{now: year1970, state: c.then}
			if c.then.Set {
				at.now = recent
			}
			o.Clock = at
			q := open(t, o)
			if err := q.Enqueue(context.Background(), takenAt(t, c.taken)); err != nil {
				t.Fatal(err)
			}
			if c.restart {
				shut(t, q)
				at.set(at.now, c.later)
				q = open(t, o)
			}
			at.set(at.now.Add(c.after), c.later)
			b, ok := lease(t, q, syncqueue.Want{})
			if ok == c.held {
				t.Fatalf("leased: %v", ok)
			}
			if c.held {
				return
			}
			r := decode(t, b)[0]
			if !r.Timestamp.Equal(c.want.Truncate(time.Millisecond)) || r.Clock != c.clock || r.Quality != c.quality || (r.Reason != "") != (c.quality != wire.Good) {
				t.Errorf("got %v, clock %q, %s (%s); want %v, %q, %s", r.Timestamp, r.Clock, r.Quality, r.Reason, c.want.UTC(), c.clock, c.quality)
			}
			// The same bytes again, also when the clock is corrected once more and
			// the agent restarted.
			q.Nack(b)
			shut(t, q)
			q = open(t, o)
			c.later.Offset += 5 * time.Second
			c.later.Set, c.later.Synchronized = true, c.later.Synchronized || c.clock != ""
			at.set(at.now, c.later)
			again, _ := lease(t, q, syncqueue.Want{})
			if c.clock != "" && !bytes.Equal(again.Frames[0], b.Frames[0]) {
				t.Errorf("a retry sent\n%s\nafter\n%s", decode(t, again)[0].AppendJSON(nil), r.AppendJSON(nil))
			}
		})
	}
}

func TestReadingInMemoryWhileTheClockIsSet(t *testing.T) {
	for name, step := range map[string]time.Duration{"forward by years": 20 * 365 * 24 * time.Hour, "back an hour": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			taken := time.Now()
			o := options(t.TempDir())
			o.Clock = &fakeClock{now: stepped(time.Now(), step), state: clock.State{BootID: "one", Set: true, Synchronized: true}}
			if got := syncqueue.ClockStep(taken, o.Clock.Now()).Round(time.Second); got != step {
				t.Fatalf("step of %v seen as %v", step, got)
			}
			q := open(t, o)
			if err := q.Enqueue(context.Background(), takenAt(t, taken)); err != nil {
				t.Fatal(err)
			}
			r := drain(t, q)[0]
			if d := r.Timestamp.Sub(taken.Add(step)).Abs(); d > 10*time.Millisecond || r.Clock != wire.ClockCorrected {
				t.Errorf("taken at %v, sent as %v, clock %q", taken.UTC(), r.Timestamp, r.Clock)
			}
		})
	}
}
