package uplink

import (
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pyvorin/pyvorin-edge/syncqueue"
)

// refusing answers 400 to every request with a reading for which poison is true.
func refusing(poison func(uint64) bool) func(http.ResponseWriter, request) bool {
	return func(w http.ResponseWriter, r request) bool {
		if slices.ContainsFunc(r.seqs, poison) {
			http.Error(w, "not a reading", http.StatusBadRequest)
			return false
		}
		return true
	}
}

// Whatever readings are refused and whenever the server is down in between: all
// the others get through, and no other becomes a dead letter.
func TestBisectFindsThePoison(t *testing.T) {
	rc := newReceiver(nil)
	url := serve(t, rc).URL
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 60).Draw(rt, "readings")
		batch := rapid.IntRange(1, 40).Draw(rt, "batch size")
		poison := rapid.SliceOfNDistinct(rapid.Uint64Range(1, uint64(n)), 0, n, rapid.ID).Draw(rt, "poison")
		outage := rapid.IntRange(0, 40).Draw(rt, "outage at request")
		slices.Sort(poison)
		isPoison := func(seq uint64) bool { return slices.Contains(poison, seq) }

		var requests atomic.Int32
		refuse := refusing(isPoison)
		rc.mu.Lock()
		rc.requests, rc.got = nil, map[uint64]int{}
		rc.mu.Unlock()
		rc.setAnswer(func(w http.ResponseWriter, r request) bool {
			if int(requests.Add(1)) == outage {
				w.WriteHeader(http.StatusBadGateway)
				return false
			}
			return refuse(w, r)
		})
		q := newFakeQueue(n)
		q.encoding = rapid.SampledFrom([]syncqueue.Encoding{syncqueue.Plain, syncqueue.Zstd}).Draw(rt, "encoding")
		o := options(q, url)
		o.BatchSize, o.RetryMin, o.RetryMax = batch, time.Millisecond, time.Millisecond
		u, err := New(o)
		if err != nil {
			rt.Fatal(err)
		}
		stop := run(t, u)
		defer stop()
		// Where nothing but poison is left, the server looks as if it refused
		// everything, and the rest is rightly kept.
		eventually(rt, "every good reading is taken", func() bool {
			return rc.distinct() == n-len(poison) && (q.depth() == 0 || u.Stats().Paused != "")
		})
		stop()
		dead := q.deadSeqs()
		if q.depth() == 0 && !slices.Equal(dead, poison) {
			rt.Fatalf("dead letters %v, poison %v", dead, poison)
		}
		for _, seq := range dead {
			if !isPoison(seq) {
				rt.Fatalf("good reading %d became a dead letter", seq)
			}
		}
		for seq := range rc.got {
			if isPoison(seq) {
				rt.Fatalf("poison reading %d was taken", seq)
			}
		}
	})
}

// A bisect that is interrupted goes on where it was, with the same keys.
func TestBisectGoesOnAfterAFailure(t *testing.T) {
	q := newFakeQueue(8)
	var requests atomic.Int32
	refuse := refusing(func(seq uint64) bool { return seq == 6 })
	rc := newReceiver(func(w http.ResponseWriter, r request) bool {
		if requests.Add(1) == 3 { // 1-8, 1-4, then 5-8
			w.WriteHeader(http.StatusBadGateway)
			return false
		}
		return refuse(w, r)
	})
	u, _ := start(t, options(q, serve(t, rc).URL))
	eventually(t, "the outage is noticed", func() bool { return u.Stats().LastError != "" })
	if err := flush(t, u); err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, r := range rc.seen() {
		keys = append(keys, r.key[len(device)+1:])
	}
	want := []string{"1-8", "1-4", "5-8", "5-8", "5-6", "5-5", "6-6", "7-8"}
	if !slices.Equal(keys, want) {
		t.Errorf("keys %v, want %v", keys, want)
	}
	if got := q.deadSeqs(); !slices.Equal(got, []uint64{6}) {
		t.Errorf("dead letters %v, want [6]", got)
	}
}

// A server that refuses everything is not believed: few dead letters, the rest
// kept, one request per probe, and all of it delivered once the server is well.
func TestServerRefusesEverything(t *testing.T) {
	q := newFakeQueue(300)
	rc := newReceiver(refusing(func(uint64) bool { return true }))
	u, _ := start(t, options(q, serve(t, rc).URL))
	eventually(t, "delivery pauses", func() bool { return u.Stats().Paused != "" })
	wantText(t, "Paused", u.Stats().Paused, "refuses every reading", "400", "not a reading", "cloud.format")
	for range 20 {
		before := len(rc.seen())
		if err := flush(t, u); err == nil {
			t.Fatal("a refused probe passed for a delivery")
		}
		if n := len(rc.seen()) - before; n != 1 {
			t.Fatalf("a probe took %d requests", n)
		}
	}
	if dead := q.deadSeqs(); len(dead) != maxRefused || q.depth() != 300 {
		t.Fatalf("%d dead letters and %d queued, want %d and 300", len(dead), q.depth(), maxRefused)
	}
	rc.setAnswer(nil)
	if err := flush(t, u); err != nil {
		t.Fatal(err)
	}
	if q.depth() != 0 || rc.distinct() != 300-maxRefused || len(q.dead) != maxRefused {
		t.Errorf("%d queued, %d taken, %d dead", q.depth(), rc.distinct(), len(q.dead))
	}
}

// A long run of refused readings must not hide the good ones behind it.
func TestRefusedRunDoesNotBlock(t *testing.T) {
	q := newFakeQueue(200)
	rc := newReceiver(refusing(func(seq uint64) bool { return seq <= 35 }))
	o := options(q, serve(t, rc).URL)
	o.RetryMin, o.RetryMax = time.Millisecond, time.Millisecond
	start(t, o)
	eventually(t, "every good reading is taken", func() bool { return rc.distinct() == 165 })
}

// A receiver with a limit on the size of a request gets what it takes, and is
// not asked to refuse each batch anew.
func TestTooLarge(t *testing.T) {
	q := newFakeQueue(2000)
	rc := newReceiver(func(w http.ResponseWriter, r request) bool {
		if len(r.seqs) > 30 || slices.Contains(r.seqs, 7) {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			return false
		}
		return true
	})
	u, _ := start(t, options(q, serve(t, rc).URL))
	if err := flush(t, u); err != nil {
		t.Fatal(err)
	}
	if q.depth() != 0 || rc.distinct() != 1999 || q.dead[7].status != http.StatusRequestEntityTooLarge {
		t.Errorf("%d queued, %d taken, dead %v", q.depth(), rc.distinct(), q.dead)
	}
	refused := 0
	for _, r := range rc.seen() {
		if len(r.seqs) > 30 {
			refused++
		}
	}
	if refused > 20 {
		t.Errorf("%d requests were larger than the server had already refused", refused)
	}
}

func TestBatchSizeRecovers(t *testing.T) {
	u, err := New(options(newFakeQueue(0), "http://localhost"))
	if err != nil {
		t.Fatal(err)
	}
	l := &loop{Uplink: u, size: 100}
	l.shrink(100)
	l.shrink(50)
	if l.size != 25 {
		t.Fatalf("size %d after two 413s, want 25", l.size)
	}
	for range calmBatches - 1 {
		l.grow()
	}
	if l.size != 25 {
		t.Fatalf("size %d before %d batches passed", l.size, calmBatches)
	}
	for range 2*calmBatches + 1 {
		l.grow()
	}
	if l.size != 100 {
		t.Fatalf("size %d in the end, want 100", l.size)
	}
}
