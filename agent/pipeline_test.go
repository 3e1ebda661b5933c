package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/health"
	"github.com/pyvorin/pyvorin-edge/privacy"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// fakeQueue takes readings unless it was told to refuse.
type fakeQueue struct {
	mu     sync.Mutex
	err    error
	names  []string
	calls  int
	onCall func()
}

func (q *fakeQueue) enqueue(_ context.Context, batch []privacy.Cleared) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.calls++
	if q.onCall != nil {
		q.onCall()
	}
	if q.err != nil {
		return q.err
	}
	for _, c := range batch {
		q.names = append(q.names, c.Name())
	}
	return nil
}

func (q *fakeQueue) refuse(err error) {
	q.mu.Lock()
	q.err = err
	q.mu.Unlock()
}

func (q *fakeQueue) called() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.calls
}

func (q *fakeQueue) taken() []string {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.names
}

func newTestPipeline(t *testing.T, q *fakeQueue, most int, rules ...config.Rule) *pipeline {
	t.Helper()
	filter, err := privacy.New(config.Privacy{Enabled: true, Rules: rules}, privacy.Options{Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	return newPipeline(filter, q.enqueue, func(privacy.Cleared) {}, most, zerolog.Nop())
}

func readings(from, to int) []sensors.Reading {
	var rs []sensors.Reading
	for i := from; i < to; i++ {
		rs = append(rs, sensors.Reading{Sensor: fmt.Sprintf("s%d", i), Value: wire.NumberValue(1), Quality: wire.Good, Time: time.Now()})
	}
	return rs
}

// runPipeline runs p inside a synctest bubble and returns what stops it and
// yields its error.
func runPipeline(t *testing.T, p *pipeline) (stop func() error) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.run(ctx, func() {}) }()
	return func() error {
		cancel()
		return <-done
	}
}

func wantTaken(t *testing.T, q *fakeQueue, from, to int) {
	t.Helper()
	got := q.taken()
	if len(got) != to-from {
		t.Fatalf("the queue has %d readings, want %d", len(got), to-from)
	}
	for i, name := range got {
		if want := fmt.Sprintf("s%d", from+i); name != want {
			t.Fatalf("reading %d is %s, want %s", i, name, want)
		}
	}
}

func TestPipelineHoldsWhatTheQueueRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &fakeQueue{err: errors.New("disk full")}
		p := newTestPipeline(t, q, 100)
		stop := runPipeline(t, p)
		p.accept(readings(0, 60))
		synctest.Wait()
		p.accept(readings(60, 90))
		time.Sleep(time.Minute)
		if n := q.called(); n < 10 || n > 700 {
			t.Errorf("the queue was asked %d times in a minute", n)
		}
		q.refuse(nil)
		time.Sleep(5 * time.Second)
		wantTaken(t, q, 0, 90)
		if err := stop(); err != nil || p.droppedTotal() != 0 {
			t.Errorf("%v, %d dropped", err, p.droppedTotal())
		}
	})
}

func TestPipelineDropsTheOldestBeyondItsBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &fakeQueue{err: errors.New("disk full")}
		p := newTestPipeline(t, q, 100)
		stop := runPipeline(t, p)
		for i := 0; i < 250; i += 10 {
			p.accept(readings(i, i+10))
			synctest.Wait()
		}
		q.refuse(nil)
		time.Sleep(5 * time.Second)
		wantTaken(t, q, 150, 250)
		if got := p.droppedTotal(); got != 150 {
			t.Errorf("%d dropped were counted, want 150", got)
		}
		stop()
	})
}

func TestPipelineHandsOverTheRestWhenItStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &fakeQueue{err: errors.New("not open yet")}
		p := newTestPipeline(t, q, 100)
		stop := runPipeline(t, p)
		p.accept(readings(0, 10))
		time.Sleep(time.Second)
		q.refuse(nil)
		if err := stop(); err != nil {
			t.Error(err)
		}
		wantTaken(t, q, 0, 10)
	})
}

func TestPipelineGivesUpOnAQueueThatRefusesTheStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &fakeQueue{err: errors.New("disk full")}
		p := newTestPipeline(t, q, 100)
		stop := runPipeline(t, p)
		p.accept(readings(0, 10))
		begun := time.Now()
		if err := stop(); err == nil || p.droppedTotal() != 10 {
			t.Errorf("ten readings were lost, and all it says is %v, %d dropped", err, p.droppedTotal())
		}
		if d := time.Since(begun); d > flushPatience+beatInterval {
			t.Errorf("the stop took %s", d)
		}
	})
}

// TestPipelineNeverQueuesTwice stops the pipeline in the middle of a commit.
func TestPipelineNeverQueuesTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &fakeQueue{onCall: func() { time.Sleep(3 * time.Second) }}
		p := newTestPipeline(t, q, 100)
		stop := runPipeline(t, p)
		p.accept(readings(0, 10))
		time.Sleep(time.Second)
		if err := stop(); err != nil {
			t.Error(err)
		}
		wantTaken(t, q, 0, 10)
	})
}

func TestPipelineLetsNothingPastTheRules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &fakeQueue{}
		shown := 0
		p := newTestPipeline(t, q, 100, config.Rule{SensorPattern: "s*", Action: "drop"})
		p.show = func(privacy.Cleared) { shown++ }
		stop := runPipeline(t, p)
		p.accept(readings(0, 10))
		p.accept([]sensors.Reading{{Sensor: "other", Time: time.Now()}})
		time.Sleep(time.Second)
		stop()
		if got := q.taken(); len(got) != 1 || got[0] != "other" || shown != 1 {
			t.Errorf("queued %q and showed %d readings, want only the one that no rule drops", got, shown)
		}
	})
}

// BenchmarkPipelineAccept is what one poll of 100 channels costs behind the
// poller, the status page's copy included.
func BenchmarkPipelineAccept(b *testing.B) {
	filter, err := privacy.New(config.Privacy{Enabled: true, Rules: []config.Rule{{SensorPattern: "*password*", Action: "drop"}}}, privacy.Options{Log: zerolog.Nop()})
	if err != nil {
		b.Fatal(err)
	}
	p := newPipeline(filter, nil, health.NewLive().Add, 1000, zerolog.Nop())
	rs := readings(0, 100)
	b.ReportAllocs()
	for b.Loop() {
		p.held = p.held[:0]
		p.accept(rs)
	}
}
