package privacy

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

func aggregateRule(pattern, statistic string, minutes float64) config.Rule {
	return newRule(func(r *config.Rule) {
		r.SensorPattern, r.Action, r.WindowMinutes, r.Statistic = pattern, "aggregate", minutes, statistic
	})
}

func power(v wire.Value) sensors.Reading {
	return sensors.Reading{
		Sensor: "power", Type: "power", Value: v, Unit: "W", Time: time.Now(), Quality: wire.Good,
		Priority: config.PriorityHigh, Tags: map[string]string{"room": "1"},
		Meta: map[string]wire.Value{"raw": v}, Reason: "secret",
	}
}

func TestAggregateSendsWindowsOnly(t *testing.T) {
	for statistic, want := range map[string]wire.Value{
		"mean": number(200), "min": number(100), "max": number(300), "count": number(3),
	} {
		t.Run(statistic, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFilter(t, aggregateRule("power", statistic, 15))
				var last time.Time
				for i, v := range []wire.Value{number(100), number(300), number(9000), number(200)} {
					r := power(v)
					if i == 2 {
						r.Quality = wire.Bad // out of range, say
					}
					last = r.Time
					if got := f.Clear(nil, r); len(got) != 0 {
						t.Fatalf("reading %d left: %+v", i, got[0].Wire())
					}
					time.Sleep(4 * time.Minute)
				}
				got := f.Clear(nil, power(number(999)))
				if len(got) != 1 || !got[0].Valid() {
					t.Fatalf("cleared %v after the window, want the window", got)
				}
				w := got[0].Wire()
				if w.Value != want || w.Sensor != "power" || w.Quality != wire.Good || w.Reason != "" ||
					!w.Timestamp.Equal(last) || w.Tags["room"] != "1" || got[0].Priority() != config.PriorityHigh {
					t.Errorf("window %+v, want %v at %v", w, want, last)
				}
				if len(w.Meta) != 3 || w.Meta["aggregate"] != text(statistic) || w.Meta["count"] != number(3) || w.Meta["window_seconds"] != number(900) {
					t.Errorf("metadata %v", w.Meta)
				}
				if s := f.Stats(); s.Aggregated != 5 || s.Evaluated != 5 || s.PerRule[0].Hits != 5 {
					t.Errorf("stats %+v", s)
				}
			})
		})
	}
}

// A reading just before the end of its window must not let it leave, and a
// wall clock or a sensor's timestamp that jumps must not shorten it.
func TestWindowFollowsTheMonotonicClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFilter(t, aggregateRule("power", "mean", 1))
		f.Clear(nil, power(number(1)))
		time.Sleep(time.Minute - time.Nanosecond)
		for _, jump := range []time.Duration{0, 1000 * time.Hour, -1000 * time.Hour} {
			r := power(number(1))
			r.Time = r.Time.Round(0).Add(jump)
			if got := f.Clear(nil, r); len(got) != 0 {
				t.Fatalf("a window left early after a jump of %s", jump)
			}
		}
		time.Sleep(time.Nanosecond)
		if got := f.Clear(nil, power(wire.Value{})); len(got) != 1 {
			t.Fatal("a failed read after the end did not let the window leave")
		}
		if len(f.windows.open) != 0 {
			t.Error("a failed read opened a window")
		}
	})
}

// The window of a sensor that fell silent leaves with another's reading.
func TestSilentSensorsWindowLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFilter(t, aggregateRule("a", "mean", 1), aggregateRule("b", "max", 10))
		f.Clear(nil, sensors.Reading{Sensor: "a", Value: number(5)})
		time.Sleep(time.Minute)
		got := f.Clear(nil, sensors.Reading{Sensor: "b", Value: number(7)})
		if len(got) != 1 || got[0].Name() != "a" || got[0].Wire().Value != number(5) {
			t.Errorf("cleared %v, want the window of a", got)
		}
	})
}

func TestUncertainReadingMakesTheWindowUncertain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFilter(t, aggregateRule("power", "mean", 1))
		doubtful := power(number(1))
		doubtful.Quality = wire.Uncertain
		f.Clear(nil, doubtful)
		f.Clear(nil, power(number(2)))
		time.Sleep(time.Minute)
		got := f.Clear(nil, power(number(3)))
		if len(got) != 1 || got[0].Wire().Quality != wire.Uncertain || got[0].Wire().Reason == "" || strings.Contains(line(got[0]), "secret") {
			t.Errorf("cleared %v, want an uncertain window with a reason of its own", got)
		}
	})
}

func TestDroppedReadingsStayOutOfWindows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFilter(t, aggregateRule("power", "max", 1),
			newRule(func(r *config.Rule) { r.Field, r.Action = "tainted", "drop" }))
		r := power(number(1000))
		r.Meta["tainted"] = truth(true)
		f.Clear(nil, r)
		f.Clear(nil, power(number(1)))
		time.Sleep(time.Minute)
		if got := f.Clear(nil, power(number(2))); len(got) != 1 || got[0].Wire().Value != number(1) {
			t.Errorf("cleared %v, want a window of the 1 alone", got)
		}
	})
}

func TestWindowsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFilter(t, aggregateRule("*", "mean", 1))
		for i := range maxOpenWindows + 1 {
			f.Clear(nil, sensors.Reading{Sensor: fmt.Sprint("s", i), Value: number(1)})
		}
		if s := f.Stats(); s.Aggregated != maxOpenWindows || s.Errors != 1 {
			t.Errorf("stats %+v, want one error", s)
		}
		time.Sleep(time.Minute)
		if got := f.Clear(nil, sensors.Reading{Sensor: "more", Value: number(1)}); len(got) != maxOpenWindows {
			t.Errorf("%d windows left, want %d", len(got), maxOpenWindows)
		}
		if n := len(f.windows.open); n != 1 {
			t.Errorf("%d windows are open, want 1", n)
		}
	})
}

func TestWindowThatOverflowsIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFilter(t, aggregateRule("power", "mean", 1))
		f.Clear(nil, power(number(math.MaxFloat64)))
		f.Clear(nil, power(number(-math.MaxFloat64)))
		time.Sleep(time.Minute)
		if got := f.Clear(nil, power(number(1))); len(got) != 0 {
			t.Errorf("cleared %v", got)
		}
		if s := f.Stats(); s.Errors != 1 {
			t.Errorf("stats %+v, want one error", s)
		}
	})
}

// count needs no numbers; a metadata field can be aggregated by no statistic.
func TestAggregateApplicability(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFilter(t, aggregateRule("door", "count", 1))
		f.Clear(nil, sensors.Reading{Sensor: "door", Value: text("open"), Unit: "state"})
		time.Sleep(time.Minute)
		got := f.Clear(nil, sensors.Reading{Sensor: "door", Value: text("shut"), Unit: "state"})
		if len(got) != 1 || got[0].Wire().Value != number(1) || got[0].Wire().Unit != "" {
			t.Errorf("cleared %v, want a count of 1", got)
		}
		if got := f.Clear(nil, sensors.Reading{Sensor: "hall", Meta: map[string]wire.Value{"door": text("open")}}); len(got) != 0 {
			t.Errorf("a metadata field that cannot be aggregated left: %+v", got[0].Wire())
		}
		if s := f.Stats(); s.Errors != 1 {
			t.Errorf("stats %+v, want one error", s)
		}
	})
}
