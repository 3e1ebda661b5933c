package sensors

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pyvorin/pyvorin-edge/wire"
)

func TestListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		arrived := make(chan float64, 1000)
		var woken recorder
		l := &fakeListener{run: func(ctx context.Context, wake func()) error {
			for i := range 100 { // a message each 10 ms, then silence
				arrived <- float64(i)
				wake()
				wake()
				time.Sleep(10 * time.Millisecond)
			}
			<-ctx.Done()
			return ctx.Err()
		}}
		l.read = func(ctx context.Context) (all []Sample, err error) {
			woken.Read(ctx)
			for len(arrived) > 0 {
				all = append(all, number(<-arrived))
			}
			return all, nil
		}
		r := newRig(t, map[string]Sensor{"a": l}, func(o *Options) { o.Defaults.PollIntervalSeconds = 10 })
		r.runFor(5 * time.Second)
		if got := r.of("a"); len(got) != 100 {
			t.Errorf("%d readings of 100 messages", len(got))
		}
		when := woken.when()
		if len(when) < 15 || len(when) > 25 {
			t.Errorf("%d reads", len(when))
		}
		for i := 2; i < len(when); i++ {
			if gap := when[i] - when[i-1]; gap < wakeGap {
				t.Errorf("woken again after %v", gap)
			}
		}
		if st := r.stats("a"); st.State != OK {
			t.Errorf("%+v", st)
		}
	})
}

func TestListenerIsStartedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var starts atomic.Int32
		l := &fakeListener{
			fake: fake{read: func(context.Context) ([]Sample, error) { return nil, nil }},
			run: func(ctx context.Context, _ func()) error {
				switch n := starts.Add(1); {
				case n == 1:
					panic("first")
				case n < 6:
					return errors.New("no broker")
				}
				<-ctx.Done()
				return nil
			},
		}
		r := newRig(t, map[string]Sensor{"a": l})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		if st := r.stats("a"); st.State != Failing || st.LastError != "panicked" {
			t.Errorf("after the panic: %+v", st)
		}
		time.Sleep(4 * time.Second)
		synctest.Wait()
		if st := r.stats("a"); st.State != Failing || st.LastError != "no broker" || starts.Load() > 4 {
			t.Errorf("after %d starts: %+v", starts.Load(), st)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if st := r.stats("a"); starts.Load() != 6 || st.State != Waiting || st.LastError != "" {
			t.Errorf("after %d starts: %+v", starts.Load(), st)
		}
		cancel()
		<-done
	})
}

// TestWakeDuringARead has a value arrive after the read looked for one.
func TestWakeDuringARead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var arrived atomic.Bool
		l := &fakeListener{run: func(ctx context.Context, wake func()) error {
			time.Sleep(100 * time.Millisecond)
			arrived.Store(true)
			wake()
			<-ctx.Done()
			return nil
		}}
		l.read = func(context.Context) ([]Sample, error) {
			there := arrived.Load()
			time.Sleep(300 * time.Millisecond)
			if !there {
				return nil, nil
			}
			return []Sample{number(1)}, nil
		}
		r := newRig(t, map[string]Sensor{"a": l}, func(o *Options) { o.Defaults.PollIntervalSeconds = 3600 })
		r.runFor(time.Second)
		if got := r.of("a"); len(got) != 1 {
			t.Errorf("got %s", show(got))
		}
	})
}

func TestListenerIsFineOnceSomethingCame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var starts atomic.Int32
		var arrived atomic.Bool
		l := &fakeListener{run: func(ctx context.Context, wake func()) error {
			if starts.Add(1) == 1 {
				return errors.New("no broker")
			}
			arrived.Store(true)
			wake()
			<-ctx.Done()
			return nil
		}}
		l.read = func(context.Context) ([]Sample, error) {
			if arrived.Swap(false) {
				return []Sample{number(1)}, nil
			}
			return nil, nil
		}
		r := newRig(t, map[string]Sensor{"a": l})
		r.runFor(5 * time.Second)
		if st := r.stats("a"); st.State != OK || st.LastError != "" {
			t.Errorf("%+v", st)
		}
		if got := r.of("a"); len(got) != 2 || got[0].Reason != "no broker" || got[1].Quality != wire.Good {
			t.Errorf("got %s", show(got))
		}
	})
}
