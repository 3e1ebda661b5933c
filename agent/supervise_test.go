package agent

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
)

func TestAPartThatFailsIsStartedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var runs atomic.Int64
		p := &part{name: "flaky", check: "queue", run: func(ctx context.Context, _ func()) error {
			switch runs.Add(1) {
			case 1:
				return errors.New("no such device")
			case 2:
				panic("a bug")
			case 3:
				return nil // ending without being asked to is a failure too
			}
			<-ctx.Done()
			return nil
		}}
		g := &group{log: zerolog.Nop()}
		g.start(p)
		for _, want := range []string{"no such device", "panicked: a bug", "ended without being asked to"} {
			waitFault(t, p, want)
		}
		time.Sleep(restartMax + provenAfter)
		if f, faulty, _ := p.status(time.Now()); faulty || runs.Load() != 4 {
			t.Errorf("after %d runs the fault is still %q", runs.Load(), f.Reason)
		}
		g.stop()
		if len(g.running()) != 0 {
			t.Error("a stopped part still counts as running")
		}
	})
}

// waitFault waits until p's fault begins with want and no stack is in it.
func waitFault(t *testing.T, p *part, want string) {
	t.Helper()
	for range int(2 * restartMax / time.Millisecond) {
		f, _, _ := p.status(time.Now())
		if strings.HasPrefix(f.Reason, want) {
			if f.Check != "queue" || f.Component != "flaky" || strings.Contains(f.Reason, "\n") {
				t.Errorf("the fault is %+v", f)
			}
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("the fault never became %q", want)
}

// TestRestartsSlowDown holds a part that always fails to a few starts a minute.
func TestRestartsSlowDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runs := 0
		g := &group{log: zerolog.Nop()}
		g.start(&part{name: "broken", run: func(context.Context, func()) error {
			runs++
			return errors.New("always")
		}})
		time.Sleep(time.Hour)
		g.stop()
		if runs < 40 || runs > 150 {
			t.Errorf("%d starts in an hour", runs)
		}
	})
}

func TestAStalledPartIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		p := &part{name: "hanging", run: func(ctx context.Context, beat func()) error {
			for range 100 {
				time.Sleep(5 * time.Second)
				beat()
			}
			<-hang
			return nil
		}}
		g := &group{log: zerolog.Nop()}
		g.start(p)
		time.Sleep(500 * time.Second)
		if _, _, stalled := p.status(time.Now()); stalled {
			t.Error("a part that beats counts as stalled")
		}
		time.Sleep(stallLimit + 6*time.Second)
		if _, _, stalled := p.status(time.Now()); !stalled {
			t.Error("a part that stands still is not noticed")
		}
		begun := time.Now()
		g.stop() // does not wait for ever
		if d := time.Since(begun); d > stopPatience {
			t.Errorf("the stop took %s", d)
		}
		close(hang)
	})
}

func TestPartsStopInReverse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var order []string
		g := &group{log: zerolog.Nop()}
		for _, name := range []string{"queue", "uplink", "poller"} {
			g.start(&part{name: name, run: func(ctx context.Context, _ func()) error {
				<-ctx.Done()
				time.Sleep(time.Second) // so that a stop that does not wait would show
				order = append(order, name)
				return nil
			}})
		}
		g.stop()
		if !slices.Equal(order, []string{"poller", "uplink", "queue"}) {
			t.Errorf("stopped in the order %v", order)
		}
	})
}
