package ring

import (
	"math"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/pyvorin/pyvorin-edge/sensors"
)

// A ring does what a slice would do that keeps its newest elements.
func TestRingEqualsNaiveModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 40).Draw(t, "limit")
		r := New[int](limit)
		var model []int
		dropped, next := 0, 0
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				var in []int
				for range rapid.IntRange(0, 50).Draw(t, "n") {
					next++
					in = append(in, next)
				}
				r.Add(in...)
				model = append(model, in...)
				if over := len(model) - limit; over > 0 {
					model, dropped = model[over:], dropped+over
				}
			},
			"lose": func(t *rapid.T) {
				n := rapid.IntRange(0, 9).Draw(t, "n")
				r.Lose(uint64(n))
				dropped += n
			},
			"take": func(t *rapid.T) {
				most := rapid.IntRange(0, 30).Draw(t, "most")
				n := len(model)
				if most > 0 {
					n = min(n, most)
				}
				got, lost := r.Take(most)
				if !slices.Equal(got, model[:n]) || int(lost) != dropped {
					t.Fatalf("took %v and %d dropped, want %v and %d", got, lost, model[:n], dropped)
				}
				model, dropped = model[n:], 0
			},
			"": func(t *rapid.T) {
				if r.n != len(model) || len(r.ring) > limit {
					t.Fatalf("%d elements, %d of memory, want %d of at most %d", r.n, len(r.ring), len(model), limit)
				}
			},
		})
	})
}

// What was taken is not kept in memory, and what is not counted at once on a
// machine of 32 bits is counted later.
func TestNothingIsKept(t *testing.T) {
	r := New[*int](100)
	r.Add(make([]*int, 50)...)
	r.Add(new(int))
	if r.Take(50); len(r.ring) == 0 {
		t.Fatal("the last element is lost")
	}
	for i, e := range r.ring {
		if (e == nil) == (i == 50) {
			t.Errorf("place %d holds %v", i, e)
		}
	}
	if r.Take(0); r.ring != nil {
		t.Error("an empty ring holds memory")
	}
	r.Lose(math.MaxInt32 + 2)
	for _, want := range []sensors.Dropped{math.MaxInt32, 2, 0} {
		if _, got := r.Take(0); got != want {
			t.Errorf("%d dropped, want %d", got, want)
		}
	}
}

// Whatever is added is either taken or counted, whoever does what at once.
func TestNothingIsLostUncounted(t *testing.T) {
	const writers, each = 4, 20_000
	r := New[int](64)
	var writing sync.WaitGroup
	for range writers {
		writing.Go(func() {
			for i := range each {
				r.Add(i)
			}
		})
	}
	written := make(chan struct{})
	go func() { writing.Wait(); close(written) }()
	total := 0
	take := func() {
		got, dropped := r.Take(10)
		total += len(got) + int(dropped)
	}
	for done := false; !done; take() {
		select {
		case <-written:
			done = true
		default:
		}
	}
	for r.n > 0 {
		take()
	}
	if total != writers*each {
		t.Errorf("%d of %d are accounted for", total, writers*each)
	}
}
