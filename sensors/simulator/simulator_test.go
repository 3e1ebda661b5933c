package simulator

import (
	"context"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// device returns a simulator's config, read each second, after changes.
func device(name string, change func(*Options)) config.Sensor {
	o := defaults
	if change != nil {
		change(&o)
	}
	var d config.Sensor
	d.SetDefaults()
	d.Name, d.IngestType, d.Options = name, Type.Name, &o
	d.PollIntervalSeconds = 1
	return d
}

// values returns what n reads give; a failed one is NaN.
func values(t *testing.T, d config.Sensor, n int) []float64 {
	t.Helper()
	s, err := Type.New(d, sensors.Env{})
	if err != nil {
		t.Fatal(err)
	}
	all := make([]float64, n)
	for i := range all {
		samples, err := s.Read(t.Context())
		all[i] = math.NaN()
		if err == nil {
			all[i], _ = samples[0].Value.Float()
		}
	}
	return all
}

func TestWaveforms(t *testing.T) {
	tests := map[string][]float64{ // of eight polls, from 0 to 8 over eight seconds
		"sine":     {4, 6.828, 8, 6.828, 4, 1.172, 0, 1.172},
		"square":   {8, 8, 8, 8, 0, 0, 0, 0},
		"sawtooth": {0, 1, 2, 3, 4, 5, 6, 7},
		"triangle": {0, 2, 4, 6, 8, 6, 4, 2},
		"constant": {4, 4, 4, 4, 4, 4, 4, 4},
	}
	for waveform, want := range tests {
		got := values(t, device("s", func(o *Options) {
			o.Waveform, o.Min, o.Max, o.PeriodSeconds, o.Noise = waveform, 0, 8, 8, 0
		}), 16)
		if !slices.Equal(got, append(want, want...)) {
			t.Errorf("%s: %v", waveform, got)
		}
	}
}

func TestRandomWalkStaysInRange(t *testing.T) {
	got := values(t, device("s", func(o *Options) { o.Waveform, o.Min, o.Max, o.Noise = "random_walk", -1, 1, 0 }), 5000)
	low, high := slices.Min(got), slices.Max(got)
	if low < -1 || high > 1 || high-low < 1 {
		t.Errorf("walked from %g to %g", low, high)
	}
}

func TestValuesFollowFromSeedAndCount(t *testing.T) {
	same := func(a, b []float64) bool { return slices.Equal(a, b) }
	first := values(t, device("a", nil), 100)
	if !same(first, values(t, device("a", nil), 100)) {
		t.Error("one config gives different values")
	}
	if same(first, values(t, device("b", nil), 100)) {
		t.Error("another name gives the same values")
	}
	if same(first, values(t, device("a", func(o *Options) { o.Seed = 1 }), 100)) {
		t.Error("another seed gives the same values")
	}
	faulty := values(t, device("a", func(o *Options) { o.FaultRate = 0.2 }), 100)
	failed := 0
	for i, v := range faulty {
		if math.IsNaN(v) {
			failed++
		} else if v != first[i] {
			t.Fatalf("a fault changed the value of read %d", i)
		}
	}
	if failed < 10 || failed > 35 {
		t.Errorf("%d of 100 reads failed at a rate of 0.2", failed)
	}
}

func TestRefusesConfig(t *testing.T) {
	if _, err := Type.New(device("s", func(o *Options) { o.Min = 99 }), sensors.Env{}); err == nil {
		t.Error("min above max was taken")
	}
}

// TestFaultsCostOnlyTheirSensor plays each fault to a real poller beside a
// sensor that is fine.
func TestFaultsCostOnlyTheirSensor(t *testing.T) {
	type outcome struct {
		state   sensors.State
		quality wire.Quality
		reason  string
	}
	tests := map[string]outcome{
		"error":     {sensors.Failing, wire.Bad, "simulated fault"},
		"hang":      {sensors.Hung, wire.Bad, "timed out"},
		"flood":     {sensors.OK, wire.Good, ""},
		"nan":       {sensors.Failing, wire.Bad, "no value"},
		"huge_text": {sensors.OK, wire.Uncertain, "text cut"},
		"bad_utf8":  {sensors.OK, wire.Uncertain, "invalid UTF-8"},
		"panic":     {sensors.Failing, wire.Bad, "panicked"},
	}
	for fault, want := range tests {
		t.Run(fault, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				got := map[string][]sensors.Reading{}
				p, err := sensors.NewPoller(sensors.Options{
					Defaults: config.Sensors{PollIntervalSeconds: 1, TimeoutSeconds: 0.5, Devices: []config.Sensor{
						device("bad", func(o *Options) { o.Fault, o.FaultRate, o.HangSeconds = fault, 1, 3600 }),
						device("good", nil),
					}},
					Types: []sensors.Type{Type},
					Env:   sensors.Env{Log: zerolog.Nop()},
					Sink: func(rs []sensors.Reading) {
						mu.Lock()
						defer mu.Unlock()
						got[rs[0].Sensor] = append(got[rs[0].Sensor], rs...)
					},
				})
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				if err := p.Run(ctx); err != nil {
					t.Fatal(err)
				}
				all := p.Stats().Sensors
				time.Sleep(time.Hour) // until a hung read is back
				if bad := all[0]; bad.State != want.state {
					t.Errorf("%+v", bad)
				}
				if fault == "flood" && (all[0].Dropped < 9*(floodSamples-1000) || all[0].Readings > 11*1000) {
					t.Errorf("flood: %+v", all[0])
				}
				if good := all[1]; good.Reads < 9 || good.Failures > 0 || good.Skipped > 0 || len(got["good"]) < 9 {
					t.Errorf("good: %+v", good)
				}
				r := got["bad"][0]
				if r.Quality != want.quality || !strings.HasPrefix(r.Reason, want.reason) {
					t.Errorf("reading of quality %s: %s", r.Quality, r.Reason)
				}
				if text, _ := r.Value.Text(); len(text) > 4096 {
					t.Errorf("a text of %d bytes", len(text))
				}
				if want.quality == wire.Bad && r.Value.Kind() != wire.None {
					t.Errorf("a failed read has the value %v", r.Value)
				}
			})
		})
	}
}
