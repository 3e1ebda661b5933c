package syncqueue_test

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/internal/clock"
	"github.com/pyvorin/pyvorin-edge/privacy"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/syncqueue"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// fakeClock is a Clock that tests set.
type fakeClock struct {
	mu    sync.Mutex
	now   time.Time // zero: the machine's
	state clock.State
}

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now.IsZero() {
		return time.Now()
	}
	return c.now
}

func (c *fakeClock) State() clock.State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

func (c *fakeClock) set(now time.Time, state clock.State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now, c.state = now, state
}

// goodClock is the machine's clock, trusted.
func goodClock() *fakeClock {
	return &fakeClock{state: clock.State{BootID: "boot-1", Set: true, Synchronized: true}}
}

func options(dir string) syncqueue.Options {
	return syncqueue.Options{
		Path: filepath.Join(dir, "sync_queue.db"), DeviceID: "FLEET-0123456789ab", Encoding: syncqueue.Zstd,
		BatchSize: 100, Clock: goodClock(), Log: zerolog.Nop(),
	}
}

// open opens a queue that the test closes at its end unless it did so itself.
func open(t testing.TB, o syncqueue.Options) *syncqueue.Queue {
	t.Helper()
	q, err := syncqueue.Open(context.Background(), o)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { shut(t, q) })
	return q
}

func shut(t testing.TB, q *syncqueue.Queue) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := q.Close(ctx); err != nil {
		t.Errorf("close: %v", err)
	}
}

// cleared makes readings as the privacy rules let them pass.
func cleared(t testing.TB, readings ...sensors.Reading) []privacy.Cleared {
	t.Helper()
	f, err := privacy.New(config.Privacy{Enabled: true}, privacy.Options{Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	var out []privacy.Cleared
	for _, r := range readings {
		out = f.Clear(out, r)
	}
	if len(out) != len(readings) {
		t.Fatalf("%d of %d readings were cleared", len(out), len(readings))
	}
	return out
}

// some makes n readings of one priority.
func some(t testing.TB, n int, p config.Priority) []privacy.Cleared {
	t.Helper()
	readings := make([]sensors.Reading, n)
	for i := range readings {
		readings[i] = reading(i, p)
	}
	return cleared(t, readings...)
}

func reading(i int, p config.Priority) sensors.Reading {
	return sensors.Reading{
		Sensor: fmt.Sprintf("temp-%02d", i%40), Type: "temperature", Ingest: "simulator", Unit: "C",
		Value: wire.NumberValue(20 + float64(uint32(i)*2654435761%10_000)/1000), Time: time.Now().Add(time.Duration(i%100) * time.Millisecond), Quality: wire.Good, Priority: p,
	}
}

func enqueue(t testing.TB, q *syncqueue.Queue, n int, p config.Priority) {
	t.Helper()
	if err := q.Enqueue(context.Background(), some(t, n, p)); err != nil {
		t.Fatalf("enqueue: %v", err)
	}
}

func lease(t testing.TB, q *syncqueue.Queue, w syncqueue.Want) (syncqueue.Batch, bool) {
	t.Helper()
	b, ok, err := q.Lease(context.Background(), w)
	if err != nil {
		t.Fatalf("lease: %v", err)
	}
	return b, ok
}

func ack(t testing.TB, q *syncqueue.Queue, b syncqueue.Batch) {
	t.Helper()
	if err := q.Ack(context.Background(), b); err != nil {
		t.Fatalf("ack: %v", err)
	}
}

// decode returns the readings in b.
func decode(t testing.TB, b syncqueue.Batch) []wire.Reading {
	t.Helper()
	lines, err := syncqueue.Lines(b)
	if err != nil {
		t.Fatalf("lines: %v", err)
	}
	out := make([]wire.Reading, len(lines))
	for i, line := range lines {
		if err := json.Unmarshal(line, &out[i]); err != nil {
			t.Fatalf("line %s: %v", line, err)
		}
		if want := b.First + uint64(i); out[i].Seq != want {
			t.Fatalf("line %d of batch %d-%d has seq %d", i, b.First, b.Last, out[i].Seq)
		}
	}
	return out
}

// drain delivers everything and returns it in order of delivery.
func drain(t testing.TB, q *syncqueue.Queue) []wire.Reading {
	t.Helper()
	var all []wire.Reading
	for {
		b, ok := lease(t, q, syncqueue.Want{})
		if !ok {
			return all
		}
		all = append(all, decode(t, b)...)
		ack(t, q, b)
	}
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !cond(); {
		if time.Now().After(deadline) {
			t.Fatalf("gave up waiting for: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
