package health

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// TestWindowAgainstModel compares the Window with one that keeps everything.
func TestWindowAgainstModel(t *testing.T) {
	type operation struct {
		slot   int64
		d      time.Duration
		failed bool
	}
	rapid.Check(t, func(t *rapid.T) {
		w := NewWindow()
		var all []operation
		slot := int64(0)
		for range rapid.IntRange(1, 200).Draw(t, "operations") {
			slot += int64(rapid.SampledFrom([]int{0, 0, 0, 1, 5, 29, 30, 31, 100}).Draw(t, "slots later"))
			o := operation{slot, time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "duration")), rapid.Bool().Draw(t, "failed")}
			w.observe(o.slot, o.d, o.failed)
			all = append(all, o)

			var durations []time.Duration
			failed := 0
			for _, o := range all {
				if o.slot > slot-windowSlots {
					durations = append(durations, o.d)
					if o.failed {
						failed++
					}
				}
			}
			slices.Sort(durations)
			exact := durations[(len(durations)*95+99)/100-1]
			rate, p95 := w.stats(slot)
			if want := 100 * float64(failed) / float64(len(durations)); rate != want {
				t.Fatalf("error rate %v, want %v", rate, want)
			}
			if diff := (p95 - exact).Abs(); diff > exact*7/100+2*time.Microsecond {
				t.Fatalf("p95 %v, exactly %v", p95, exact)
			}
		}
	})
}

func TestWindowForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := NewWindow()
		w.Observe(20*time.Millisecond, errors.New("refused"))
		w.Observe(20*time.Millisecond, nil)
		if rate, p95 := w.Stats(); rate != 50 || p95 < 18*time.Millisecond || p95 > 22*time.Millisecond {
			t.Errorf("50 %% and 20 ms became %v and %v", rate, p95)
		}
		time.Sleep(4 * time.Minute)
		if rate, _ := w.Stats(); rate != 50 {
			t.Errorf("after 4 minutes the rate is %v", rate)
		}
		time.Sleep(time.Minute)
		if rate, p95 := w.Stats(); rate != 0 || p95 != 0 {
			t.Errorf("after 5 minutes there is still %v and %v", rate, p95)
		}
	})
}

func TestWindowExtremes(t *testing.T) {
	for _, d := range []time.Duration{-time.Hour, 0, 1, 1 << 62} {
		w := NewWindow()
		w.Observe(d, nil) // must not be out of range
		if _, p95 := w.Stats(); p95 < 0 {
			t.Errorf("p95 of %v is %v", d, p95)
		}
	}
}

func TestWindowConcurrently(t *testing.T) {
	w := NewWindow()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				w.Observe(time.Millisecond, errors.New("x"))
				w.Stats()
			}
		})
	}
	wg.Wait()
	if rate, _ := w.Stats(); rate != 100 {
		t.Errorf("rate %v", rate)
	}
}

func BenchmarkWindowObserve(b *testing.B) {
	w := NewWindow()
	b.ReportAllocs()
	for b.Loop() {
		w.Observe(time.Millisecond, nil)
	}
}
