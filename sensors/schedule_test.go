package sensors

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestScheduleKeepsToItsPhase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &recorder{start: time.Now()}
		r := newRig(t, map[string]Sensor{"a": s})
		r.runFor(time.Minute)
		when := s.when()
		if len(when) < 59 || when[0] > firstGap {
			t.Fatalf("read %d times, first after %v", len(when), when[0])
		}
		if gap := when[1] - when[0]; gap < 500*time.Millisecond || gap > 1500*time.Millisecond {
			t.Errorf("second read %v after the first", gap)
		}
		want := phase("device", "a", time.Second)
		for _, at := range when[1:] {
			if at%time.Second != want {
				t.Errorf("read at %v, off the phase %v", at, want)
			}
		}
		if st := r.stats("a"); st.State != OK || st.Reads != uint64(len(when)) || st.Skipped != 0 {
			t.Errorf("%+v", st)
		}
	})
}

func TestWallClockDoesNotMoveTheSchedule(t *testing.T) {
	run := func(t *testing.T, wall func() time.Time) (when []time.Duration, readings int) {
		synctest.Test(t, func(t *testing.T) {
			s := &recorder{}
			r := newRig(t, map[string]Sensor{"a": s}, func(o *Options) {
				d := &o.Defaults.Devices[0]
				d.Reduce, d.WindowSeconds, d.StaleAfterSeconds = "mean", 10, 20
			})
			if wall != nil {
				r.now = wall
			}
			r.runFor(2 * time.Minute)
			when, readings = s.when(), len(r.of("a"))
		})
		return when, readings
	}
	steady, windows := run(t, nil)
	n := 0
	jumpy, jumpyWindows := run(t, func() time.Time {
		n++ // without a monotonic part, an hour to and fro, starting in 1970
		return time.Unix(int64(n%2)*3600, 0)
	})
	if !slices.Equal(steady, jumpy) || windows != jumpyWindows {
		t.Errorf("steady: %d reads, %d windows; jumpy: %d, %d", len(steady), windows, len(jumpy), jumpyWindows)
	}
	if len(steady) < 119 || windows < 11 {
		t.Errorf("%d reads, %d windows", len(steady), windows)
	}
}

func TestLateTicksAreNotMadeUpFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var began recorder
		slow := &fake{read: func(ctx context.Context) ([]Sample, error) {
			defer time.Sleep(3500 * time.Millisecond)
			return began.Read(ctx)
		}}
		r := newRig(t, map[string]Sensor{"a": slow}, func(o *Options) { o.Defaults.Devices[0].TimeoutSeconds = 1 })
		r.runFor(30 * time.Second)
		when := began.when()
		for i := 1; i < len(when); i++ {
			if gap := when[i] - when[i-1]; gap < 3500*time.Millisecond {
				t.Errorf("read again after %v", gap)
			}
		}
		if st := r.stats("a"); st.Skipped < 15 || len(when) < 5 {
			t.Errorf("%d reads, %+v", len(when), st)
		}
	})
}

func TestThousandSensors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fakes := map[string]Sensor{}
		var perSecond [60]atomic.Int32
		var perBus [1000]atomic.Int32
		start := time.Now()
		for i := range 1000 {
			fakes[fmt.Sprintf("s%04d", i)] = &fake{read: func(context.Context) ([]Sample, error) {
				perBus[i].Add(1)
				if since := time.Since(start); since < time.Minute {
					perSecond[since/time.Second].Add(1)
				}
				return []Sample{number(1)}, nil
			}}
		}
		r := newRig(t, fakes, func(o *Options) { o.Defaults.PollIntervalSeconds = 10 })
		r.runFor(time.Minute)
		if n := perSecond[0].Load(); n < 900 {
			t.Errorf("%d of 1000 were read in the first second", n)
		}
		for i := 15; i < 60; i++ {
			if n := perSecond[i].Load(); n < 50 || n > 150 {
				t.Errorf("%d reads in second %d: not spread", n, i)
			}
		}
		for i := range perBus {
			if n := perBus[i].Load(); n < 6 || n > 7 {
				t.Errorf("sensor %d was read %d times", i, n)
			}
		}
		if st := r.Stats(); st.Skipped != 0 || st.Failures != 0 {
			t.Errorf("skipped %d, failed %d", st.Skipped, st.Failures)
		}
	})
}

func TestBeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var last atomic.Int64 // seconds since start
		start := time.Now()
		blocked := make(chan struct{})
		block := sync.OnceFunc(func() { close(blocked) })
		release := make(chan struct{})
		r := newRig(t, map[string]Sensor{"a": &fake{read: reads(1)}}, func(o *Options) {
			o.Defaults.PollIntervalSeconds = 3600
			o.Beat = func() {
				now := int64(time.Since(start).Seconds())
				if now-last.Swap(now) > 5 {
					t.Errorf("a beat %d s after the one before", now-last.Load())
				}
			}
		})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		time.Sleep(time.Minute)
		synctest.Wait()
		if now := int64(time.Since(start).Seconds()); now-last.Load() > 5 {
			t.Errorf("the last beat was %d s ago", now-last.Load())
		}
		cancel()
		<-done

		// The schedule of a hung sensor hands readings on itself: one that gets
		// stuck there must not beat.
		last.Store(0)
		start = time.Now()
		hung := newRig(t, map[string]Sensor{"a": &fake{read: func(context.Context) ([]Sample, error) { <-release; return nil, nil }}}, func(o *Options) {
			o.Beat = func() { last.Store(int64(time.Since(start).Seconds())) }
			o.Sink = func(rs []Reading) {
				if strings.HasPrefix(rs[0].Reason, "hung") {
					block()
					<-release
				}
			}
		})
		ctx, cancel = context.WithCancel(context.Background())
		go func() { done <- hung.Run(ctx) }()
		<-blocked
		at := last.Load()
		time.Sleep(time.Minute)
		if last.Load() != at {
			t.Error("a stuck schedule beats")
		}
		close(release)
		cancel()
		<-done
	})
}

func TestNextTick(t *testing.T) {
	s := &polled{interval: 10 * time.Second, phase: 4 * time.Second}
	for now, want := range map[float64]float64{0: 14, 3: 14, 4: 14, 4.1: 14, 8.9: 14, 9: 24, 14: 24, 100.3: 114} {
		got := nextTick(s, time.Duration(now*float64(time.Second))).Seconds()
		if got != want {
			t.Errorf("after %g comes %g, want %g", now, got, want)
		}
	}
	s.phase = 9 * time.Second
	if got := nextTick(s, time.Second); got != 9*time.Second {
		t.Errorf("got %v", got)
	}
}

func TestPhaseIsStableAndSpread(t *testing.T) {
	// Receivers see a device's rhythm: it must not change with a release.
	if got := phase("FLEET-0123456789ab", "temp-01", time.Hour); got != 329401340035 {
		t.Errorf("the phase is %v", got)
	}
	var tenths [10]int
	for i := range 1000 {
		tenths[phase("d", fmt.Sprint(i), time.Second)/(100*time.Millisecond)]++
	}
	for i, n := range tenths {
		if n < 60 || n > 140 {
			t.Errorf("%d of 1000 in tenth %d", n, i)
		}
	}
}
