package syncqueue_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/privacy"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/syncqueue"
	"github.com/pyvorin/pyvorin-edge/wire"
)

func seqsOf(readings []wire.Reading) []uint64 {
	seqs := make([]uint64, len(readings))
	for i, r := range readings {
		seqs[i] = r.Seq
	}
	return seqs
}

// rangeOf returns the seqs from first to last.
func rangeOf(first, last uint64) []uint64 {
	var seqs []uint64
	for s := first; s <= last; s++ {
		seqs = append(seqs, s)
	}
	return seqs
}

func TestSeqGrowsByOneOverRestartsAndAnEmptiedQueue(t *testing.T) {
	for _, e := range []syncqueue.Encoding{syncqueue.Plain, syncqueue.Gzip, syncqueue.Zstd} {
		t.Run(e.String(), func(t *testing.T) {
			o := options(t.TempDir())
			o.Encoding = e
			var got []uint64
			for range 4 {
				q := open(t, o)
				enqueue(t, q, 250, config.PriorityNormal)
				got = append(got, seqsOf(drain(t, q))...)
				if s := q.Stats(); s.Depth != 0 || s.Bytes != 0 || !s.OldestAt.IsZero() {
					t.Errorf("emptied queue: %+v", s)
				}
				shut(t, q)
			}
			if !slices.Equal(got, rangeOf(1, 1000)) {
				t.Errorf("seqs %v", got)
			}
		})
	}
}

func TestReadingsTravelAsTheyWere(t *testing.T) {
	q := open(t, options(t.TempDir()))
	at := time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC)
	r := reading(0, config.PriorityNormal)
	r.Sensor, r.Time, r.Value = "temp-01", at, wire.NumberValue(21.5)
	if err := q.Enqueue(context.Background(), cleared(t, r)); err != nil {
		t.Fatal(err)
	}
	b, _ := lease(t, q, syncqueue.Want{})
	lines, err := syncqueue.Lines(b)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"device_id":"FLEET-0123456789ab","seq":1,"sensor":"temp-01","type":"temperature","value":21.5,"unit":"C","timestamp":"2026-01-02T03:04:05.678Z","quality":"good"}`
	if string(lines[0]) != want {
		t.Errorf("got  %s\nwant %s", lines[0], want)
	}
	if s := q.Stats(); !s.OldestAt.Equal(at) {
		t.Errorf("oldest at %v", s.OldestAt)
	}
}

func TestRefusals(t *testing.T) {
	o := options(t.TempDir())
	q := open(t, o)
	ctx := context.Background()
	if err := q.Enqueue(ctx, make([]privacy.Cleared, 1)); err == nil {
		t.Error("a reading that no filter cleared was accepted")
	}
	huge := reading(0, config.PriorityNormal)
	huge.Value = wire.TextValue(string(bytes.Repeat([]byte{'x'}, 5<<20)))
	if err := q.Enqueue(ctx, cleared(t, huge)); err == nil {
		t.Error("a reading of 5 MiB was accepted")
	}
	over, cancel := context.WithCancel(ctx)
	cancel()
	if err := q.Enqueue(over, some(t, 1, config.PriorityNormal)); !errors.Is(err, context.Canceled) {
		t.Errorf("enqueue with an ended context: %v", err)
	}
	if d := q.Stats().Depth; d != 0 {
		t.Errorf("depth %d", d)
	}
	if _, err := syncqueue.Open(ctx, o); !errors.Is(err, syncqueue.ErrLocked) {
		t.Errorf("second open: %v", err)
	}
	shut(t, q)
	if err := q.Enqueue(ctx, some(t, 1, config.PriorityNormal)); !errors.Is(err, syncqueue.ErrClosed) {
		t.Errorf("enqueue after close: %v", err)
	}
}

func TestOpenFailsForWhatAnOperatorMustFix(t *testing.T) {
	dir := t.TempDir()
	o := options(dir)
	if err := os.Mkdir(o.Path, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]syncqueue.Options{"folder in the way": o, "no folder": options(filepath.Join(dir, "absent"))} {
		if _, err := syncqueue.Open(context.Background(), o); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}

func TestOneCommitIsCutByPriorityAndBatch(t *testing.T) {
	o := options(t.TempDir())
	o.BatchSize = 10
	q := open(t, o)
	var mixed []sensors.Reading
	for i := range 45 {
		mixed = append(mixed, reading(i, []config.Priority{config.PriorityLow, config.PriorityNormal, config.PriorityHigh}[i%3]))
	}
	if err := q.Enqueue(context.Background(), cleared(t, mixed...)); err != nil {
		t.Fatal(err)
	}
	var got []int
	next := uint64(1)
	for {
		b, ok := lease(t, q, syncqueue.Want{})
		if !ok {
			break
		}
		if b.First != next || int(b.Last-b.First)+1 != b.Count {
			t.Errorf("batch %d-%d of %d after %d", b.First, b.Last, b.Count, next-1)
		}
		next = b.Last + 1
		got = append(got, b.Count)
		decode(t, b)
	}
	// 15 high, then 15 normal and 15 low, which as live rows share batches.
	if want := []int{10, 5, 10, 5, 10, 5}; !slices.Equal(got, want) {
		t.Errorf("batches of %v, want %v", got, want)
	}
}

func TestLeaseOrder(t *testing.T) {
	o := options(t.TempDir())
	q := open(t, o)
	enqueue(t, q, 1, config.PriorityLow)    // 1
	enqueue(t, q, 1, config.PriorityNormal) // 2
	enqueue(t, q, 1, config.PriorityHigh)   // 3
	q.MarkBacklog()
	enqueue(t, q, 1, config.PriorityLow)    // 4
	enqueue(t, q, 1, config.PriorityNormal) // 5
	enqueue(t, q, 1, config.PriorityHigh)   // 6
	var got []uint64
	var backlog []bool
	for {
		b, ok := lease(t, q, syncqueue.Want{Readings: 1})
		if !ok {
			break
		}
		got, backlog = append(got, b.First), append(backlog, b.Backlog)
	}
	if want := []uint64{3, 6, 4, 5, 2, 1}; !slices.Equal(got, want) {
		t.Errorf("order %v, want %v", got, want)
	}
	if want := []bool{true, false, false, false, true, true}; !slices.Equal(backlog, want) {
		t.Errorf("backlog %v, want %v", backlog, want)
	}
}

func TestLeaseLimits(t *testing.T) {
	q := open(t, options(t.TempDir()))
	for range 10 {
		enqueue(t, q, 30, config.PriorityNormal)
	}
	b, _ := lease(t, q, syncqueue.Want{Readings: 100})
	if b.Count != 90 || len(b.Frames) != 3 {
		t.Errorf("100 readings wanted: %d in %d frames", b.Count, len(b.Frames))
	}
	b, _ = lease(t, q, syncqueue.Want{Readings: 10})
	if b.Count != 30 {
		t.Errorf("a batch has one row at least: %d", b.Count)
	}
	b, _ = lease(t, q, syncqueue.Want{Readings: 1000, Bytes: int64(2*len(b.Frames[0]) + 50)})
	if b.Count != 60 {
		t.Errorf("bytes for two rows wanted: %d readings", b.Count)
	}
}

func TestNackGivesTheSameBytesAgain(t *testing.T) {
	q := open(t, options(t.TempDir()))
	enqueue(t, q, 100, config.PriorityNormal)
	first, _ := lease(t, q, syncqueue.Want{})
	if _, ok := lease(t, q, syncqueue.Want{}); ok {
		t.Fatal("leased twice")
	}
	q.Nack(first)
	again, ok := lease(t, q, syncqueue.Want{})
	if !ok || again.First != first.First || !bytes.Equal(again.Frames[0], first.Frames[0]) {
		t.Errorf("got %+v after %+v", again, first)
	}
	ack(t, q, again)
	if err := q.Ack(context.Background(), again); err == nil {
		t.Error("acked twice")
	}
	if s := q.Stats(); s.Retries != 1 || s.SentToday != 100 || s.LastAckAt.IsZero() {
		t.Errorf("%+v", s)
	}
}

func TestPendingSignalsAFullBatchOrHighPriority(t *testing.T) {
	o := options(t.TempDir())
	o.BatchSize, o.Linger = 10, 50*time.Millisecond
	q := open(t, o)
	pending := func() bool {
		select {
		case <-q.Pending():
			return true
		default:
			return false
		}
	}
	if enqueue(t, q, 9, config.PriorityNormal); pending() {
		t.Error("signalled for 9 of 10")
	}
	if enqueue(t, q, 1, config.PriorityNormal); !pending() {
		t.Error("not signalled for a full batch")
	}
	drain(t, q)
	if enqueue(t, q, 1, config.PriorityHigh); !pending() {
		t.Error("not signalled for high priority")
	}
}

func TestHighPriorityDoesNotLinger(t *testing.T) {
	o := options(t.TempDir())
	o.Linger = time.Hour
	q := open(t, o)
	waits := make(chan error, 1)
	go func() { waits <- q.Enqueue(context.Background(), some(t, 1, config.PriorityNormal)) }()
	enqueue(t, q, 1, config.PriorityHigh)
	if got := q.Stats().Depth; got < 1 {
		t.Errorf("depth %d", got)
	}
	shut(t, q) // commits what lingers
	if err := <-waits; err != nil && !errors.Is(err, syncqueue.ErrClosed) {
		t.Errorf("the lingering caller: %v", err)
	}
}

func TestHurryEndsLingering(t *testing.T) {
	o := options(t.TempDir())
	o.Linger = time.Hour
	q := open(t, o)
	waits := make(chan error, 1)
	go func() { waits <- q.Enqueue(context.Background(), some(t, 1, config.PriorityNormal)) }()
	if err := q.Hurry(context.Background()); err != nil {
		t.Fatal(err)
	}
	enqueue(t, q, 1, config.PriorityNormal) // at once, from here on
	if err := <-waits; err != nil {
		t.Errorf("the caller that lingered: %v", err)
	}
	if got := q.Stats().Depth; got != 2 {
		t.Errorf("depth %d, want 2", got)
	}
}

func TestCancelledEnqueueReturnsWhileItLingers(t *testing.T) {
	o := options(t.TempDir())
	o.Linger = time.Hour
	q := open(t, o)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := q.Enqueue(ctx, some(t, 1, config.PriorityNormal)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestCallersShareCommits(t *testing.T) {
	o := options(t.TempDir())
	o.Linger = 2 * time.Millisecond
	q := open(t, o)
	one := some(t, 1, config.PriorityNormal)
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for range 20 {
				if err := q.Enqueue(context.Background(), one); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	b, _ := lease(t, q, syncqueue.Want{Readings: 64 * 20})
	if b.First != 1 || b.Last != 64*20 {
		t.Errorf("batch %d-%d", b.First, b.Last)
	}
	if len(b.Frames) > b.Count/4 {
		t.Errorf("%d frames for %d readings: callers do not share commits", len(b.Frames), b.Count)
	}
}

func TestConcurrentEnqueueLeaseAckNack(t *testing.T) {
	o := options(t.TempDir())
	o.BatchSize = 7
	q := open(t, o)
	const producers, calls, size = 4, 60, 5
	var producing, consuming sync.WaitGroup
	for i := range producers {
		readings := some(t, size, []config.Priority{config.PriorityLow, config.PriorityNormal, config.PriorityHigh}[i%3])
		producing.Go(func() {
			for range calls {
				if err := q.Enqueue(context.Background(), readings); err != nil {
					t.Error(err)
				}
			}
		})
	}
	var mu sync.Mutex
	seen := map[uint64]int{}
	stop := make(chan struct{})
	for range 3 {
		consuming.Go(func() {
			for turn := 0; ; turn++ {
				b, ok, err := q.Lease(context.Background(), syncqueue.Want{})
				if err != nil {
					t.Error(err)
					return
				}
				if !ok {
					select {
					case <-stop:
						return
					default:
						time.Sleep(time.Millisecond)
						continue
					}
				}
				if turn%5 == 0 {
					q.Nack(b)
					continue
				}
				mu.Lock()
				for s := b.First; s <= b.Last; s++ {
					seen[s]++
				}
				mu.Unlock()
				if err := q.Ack(context.Background(), b); err != nil {
					t.Error(err)
				}
			}
		})
	}
	producing.Wait()
	eventually(t, "an empty queue", func() bool { return q.Stats().Depth == 0 })
	close(stop)
	consuming.Wait()
	for s := uint64(1); s <= producers*calls*size; s++ {
		if seen[s] != 1 {
			t.Errorf("seq %d delivered %d times", s, seen[s])
		}
	}
}

func TestDeadLetters(t *testing.T) {
	o := options(t.TempDir())
	o.MaxDeadLetters = 3
	q := open(t, o)
	ctx := context.Background()
	enqueue(t, q, 10, config.PriorityNormal)
	b, _ := lease(t, q, syncqueue.Want{})
	for seq := uint64(3); seq <= 7; seq++ {
		if err := q.DeadLetter(ctx, b, seq, 400, "bad value"); err != nil {
			t.Fatal(err)
		}
	}
	if err := q.DeadLetter(ctx, b, 11, 400, ""); err == nil {
		t.Error("a seq outside the batch was accepted")
	}
	// The ack will delete its row: a retry now would lose it. So would one between
	// two tries of the batch, of which the second leaves the refused readings out.
	if n, err := q.DeadRetry(ctx, 5); n != 0 || err != nil {
		t.Errorf("retry of a leased reading: %d, %v", n, err)
	}
	q.Nack(b)
	if n, err := q.DeadRetry(ctx, 5); n != 0 || err != nil {
		t.Errorf("retry of a queued reading: %d, %v", n, err)
	}
	b, _ = lease(t, q, syncqueue.Want{})
	for seq := uint64(6); seq <= 7; seq++ {
		if err := q.DeadLetter(ctx, b, seq, 400, "bad value"); err != nil {
			t.Fatal(err)
		}
	}
	ack(t, q, b)
	if s := q.Stats(); s.DeadLetters != 3 || s.DeadEvicted != 2 || s.SentToday != 8 || s.Depth != 0 {
		t.Errorf("%+v", s)
	}
	shut(t, q)

	q = open(t, o)
	list, err := q.DeadList(ctx, 10)
	if err != nil || len(list) != 3 || list[1].Seq != 6 || list[2].Seq != 7 || list[0].Status != 400 || list[0].Reason != "bad value" {
		t.Fatalf("%+v, %v", list, err)
	}
	enqueue(t, q, 1, config.PriorityNormal)
	if n, err := q.DeadRetry(ctx); n != 3 || err != nil {
		t.Fatalf("retried %d, %v", n, err)
	}
	got := seqsOf(drain(t, q))
	slices.Sort(got)
	if !slices.Equal(got, []uint64{5, 6, 7, 11}) {
		t.Errorf("delivered %v", got)
	}
}

func TestCountersSurviveARestart(t *testing.T) {
	o := options(t.TempDir())
	q := open(t, o)
	enqueue(t, q, 20, config.PriorityNormal)
	b, _ := lease(t, q, syncqueue.Want{})
	q.Nack(b)
	drain(t, q)
	before := q.Stats()
	shut(t, q)
	q = open(t, o)
	if after := q.Stats(); after != before {
		t.Errorf("before %+v\nafter  %+v", before, after)
	}
	clock := o.Clock.(*fakeClock)
	clock.set(time.Now().Add(24*time.Hour), clock.State())
	if s := q.Stats(); s.SentToday != 0 || s.Retries != 1 {
		t.Errorf("the next day: %+v", s)
	}
}
