package sensors

import (
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/wire"
)

func TestReduceEqualsNaiveModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		how := rapid.SampledFrom([]string{"min", "max", "mean", "last", "count"}).Draw(t, "reduce")
		window := rapid.IntRange(5, 60).Draw(t, "window")
		p := newTestProcessor(t, func(d *config.Sensor) { d.Reduce, d.WindowSeconds = how, float64(window) })
		type sample struct {
			at int
			v  float64
		}
		var all []sample
		var got []Reading
		now := rapid.IntRange(0, 100).Draw(t, "start")
		opened := now
		for _, v := range rapid.SliceOfN(rapid.Float64Range(-1e6, 1e6), 1, 100).Draw(t, "values") {
			rs, _ := p.finished(nil, []Sample{number(v)}, nil, at(float64(now)))
			got = append(got, rs...)
			all = append(all, sample{now, v})
			now += rapid.IntRange(1, 2*window).Draw(t, "gap")
		}
		rs, _ := p.finished(nil, nil, nil, at(float64(now+window)))
		got = append(got, rs...)

		var want []float64
		for from := opened; from <= all[len(all)-1].at; from += window {
			var in []float64
			for _, s := range all {
				if s.at >= from && s.at < from+window {
					in = append(in, s.v)
				}
			}
			if len(in) > 0 {
				want = append(want, naive(how, in))
			}
		}
		// Windows without a sample are bad, and close only when there is a next read.
		i := 0
		for _, r := range got {
			if r.Quality == wire.Bad {
				continue
			}
			v, _ := r.Value.Float()
			tolerance := 0.0
			if how == "mean" { // what rounding takes, and adding up a hundred values as large as these
				tolerance = math.Abs(v)/1e11 + 1e-7
			}
			if i == len(want) || math.Abs(v-want[i]) > tolerance {
				t.Fatalf("%s of window %d is %g\nall: %s\nwant %v", how, i, v, show(got), want)
			}
			i++
		}
		if i != len(want) {
			t.Fatalf("%d windows, want %d", i, len(want))
		}
	})
}

func naive(how string, in []float64) float64 {
	sum, low, high := 0.0, in[0], in[0]
	for _, v := range in {
		sum, low, high = sum+v, min(low, v), max(high, v)
	}
	return map[string]float64{"min": low, "max": high, "mean": sum / float64(len(in)), "last": in[len(in)-1], "count": float64(len(in))}[how]
}

func TestMeanIsShort(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{20, 21, 21}, 20.6666666667},
		{[]float64{0.1, 0.2, 0.3}, 0.2},
		{[]float64{48.1234567890123, 48.1234567890123}, 48.1234567890123}, // what was measured is not rounded
		{[]float64{123456789012, 123456789013}, 123456789012},             // half to even
		{[]float64{math.MaxFloat64, math.MaxFloat64}, math.MaxFloat64},
		{[]float64{-math.MaxFloat64, math.MaxFloat64}, 0},
		{[]float64{1e-9, 2e-9, 2e-9}, 1.66666666667e-9},
	} {
		var w window
		for _, v := range c.values {
			w.add(Reading{Value: wire.NumberValue(v), Quality: wire.Good}, 0)
		}
		if got := w.roundedMean(); got != c.want {
			t.Errorf("mean of %v is %v, want %v", c.values, got, c.want)
		}
	}
}
