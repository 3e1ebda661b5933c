package syncqueue_test

import (
	"testing"
	"time"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/syncqueue"
)

func TestEvictionBySizeIsAnnounced(t *testing.T) {
	o := options(t.TempDir())
	o.Encoding, o.MaxBytes = syncqueue.Plain, 100_000
	q := open(t, o)
	enqueue(t, q, 50, config.PriorityHigh)
	held, _ := lease(t, q, syncqueue.Want{}) // never evicted
	for range 40 {
		enqueue(t, q, 50, config.PriorityNormal)
		enqueue(t, q, 50, config.PriorityLow)
	}
	eventually(t, "eviction", func() bool { return q.Stats().Bytes <= o.MaxBytes })
	s := q.Stats()
	shut(t, q)

	// What is not announced yet is remembered over a restart.
	q = open(t, o)
	enqueue(t, q, 1, config.PriorityHigh)
	out := deliverAll(t, q)
	if len(out.readings) < 200 || held.First != 1 {
		t.Errorf("%d readings left", len(out.readings))
	}
	var announced float64
	for _, r := range out.lost {
		n, _ := r.Value.Float()
		announced += n
		if reason, _ := r.Meta["reason"].Text(); r.Type != "evicted" || r.Unit != "1" || reason == "" {
			t.Errorf("announced %+v", r)
		}
	}
	if int64(announced) < s.Evicted || len(out.lost) > 3 {
		t.Errorf("%v announced by %d readings, %d evicted", announced, len(out.lost), s.Evicted)
	}
	total := uint64(50+80*50) + uint64(len(out.lost)) + 1
	for seq := uint64(1); seq <= total-1; seq++ {
		_, ok := out.readings[seq]
		if !ok && !out.covers(seq) && !isAnnouncement(out, seq) {
			t.Fatalf("reading %d is missing and not announced", seq)
		}
	}
	for seq := uint64(1); seq <= 50; seq++ {
		if _, ok := out.readings[seq]; !ok {
			t.Fatalf("leased reading %d of high priority was evicted", seq)
		}
	}
}

func isAnnouncement(o outcome, seq uint64) bool {
	for _, r := range o.lost {
		if r.Seq == seq {
			return true
		}
	}
	return false
}

func TestEvictionByAge(t *testing.T) {
	o := options(t.TempDir())
	o.MaxAge = time.Hour
	clock := o.Clock.(*fakeClock)
	q := open(t, o)
	enqueue(t, q, 10, config.PriorityHigh)
	clock.set(time.Now().Add(2*time.Hour), clock.State())
	enqueue(t, q, 1, config.PriorityNormal) // taken two hours ago: as old
	eventually(t, "eviction", func() bool { return q.Stats().Evicted == 11 })
	unknown := clock.State()
	unknown.Set = false
	clock.set(time.Now().Add(4*time.Hour), unknown)
	enqueue(t, q, 1, config.PriorityNormal)
	enqueue(t, q, 1, config.PriorityHigh)
	if s := q.Stats(); s.Evicted != 11 {
		t.Errorf("evicted by a clock that is not set: %+v", s)
	}
}
