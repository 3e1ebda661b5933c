package uplink

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
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

// With the real queue, several sensors at work, and a receiver that fails in
// every way it can: each reading is taken or, if it is poison, a dead letter,
// and no retry changed what its key stands for.
func TestRealQueueBadReceiver(t *testing.T) {
	q, err := syncqueue.Open(t.Context(), syncqueue.Options{
		Path: filepath.Join(t.TempDir(), "sync_queue.db"), DeviceID: device, Encoding: syncqueue.Zstd,
		BatchSize: 50, Clock: clock.System(time.Time{}), Log: zerolog.Nop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := q.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	poison := func(seq uint64) bool { return seq%97 == 0 }
	random := rand.New(rand.NewPCG(1, 2))
	var mu sync.Mutex
	refuse := refusing(poison)
	rc := newReceiver(func(w http.ResponseWriter, r request) bool {
		mu.Lock()
		fault := random.IntN(10)
		mu.Unlock()
		switch {
		case fault == 0:
			w.WriteHeader(http.StatusServiceUnavailable)
			return false
		case fault == 1:
			panic(http.ErrAbortHandler) // hangs up without a word
		case len(r.seqs) > 30:
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			return false
		case !refuse(w, r):
			return false
		case fault == 2:
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				conn.Close() // took them, and could not say so
			}
		}
		return true
	})
	o := options(q, serve(t, rc).URL)
	o.BatchSize, o.FlushInterval = 50, 10*time.Millisecond
	o.RetryMin, o.RetryMax = time.Millisecond, 4*time.Millisecond
	_, stop := start(t, o)

	const sources, each = 4, 500
	var sensing sync.WaitGroup
	for source := range sources {
		sensing.Go(func() { enqueue(t, q, source, each) })
	}
	sensing.Wait()
	const readings = sources * each
	eventually(t, "the queue is empty", func() bool { return q.Stats().Depth == 0 })
	stop()

	dead, err := q.DeadList(t.Context(), readings)
	if err != nil {
		t.Fatal(err)
	}
	isDead := map[uint64]bool{}
	for _, d := range dead {
		isDead[d.Seq] = true
	}
	for seq := uint64(1); seq <= readings; seq++ {
		taken := rc.got[seq] > 0
		if taken == poison(seq) || isDead[seq] != poison(seq) {
			t.Errorf("reading %d: poison %v, taken %v, dead letter %v", seq, poison(seq), taken, isDead[seq])
		}
	}
	bodies := map[string]request{}
	for _, r := range rc.seen() {
		if before, ok := bodies[r.key]; ok && !slices.Equal(before.body, r.body) {
			t.Errorf("%s stood for different bytes", r.key)
		}
		bodies[r.key] = r
	}
}

// enqueue queues n readings in groups, of every priority.
func enqueue(t *testing.T, q *syncqueue.Queue, source, n int) {
	filter, err := privacy.New(config.Privacy{}, privacy.Options{Log: zerolog.Nop()})
	if err != nil {
		t.Error(err)
		return
	}
	priorities := []config.Priority{config.PriorityNormal, config.PriorityNormal, config.PriorityLow, config.PriorityHigh}
	for done := 0; done < n; {
		var cleared []privacy.Cleared
		for range min(25, n-done) {
			cleared = filter.Clear(cleared, sensors.Reading{
				Sensor: fmt.Sprintf("source-%d", source), Type: "count", Value: wire.NumberValue(float64(done)),
				Time: time.Now(), Quality: wire.Good, Priority: priorities[done/25%len(priorities)],
			})
			done++
		}
		if err := q.Enqueue(t.Context(), cleared); err != nil {
			t.Error(err)
			return
		}
	}
}
