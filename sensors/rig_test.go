package sensors

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/pyvorin/pyvorin-edge/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a sensor made of functions.
type fake struct {
	read  func(ctx context.Context) ([]Sample, error)
	close func() error
}

func (f *fake) Read(ctx context.Context) ([]Sample, error) { return f.read(ctx) }

func (f *fake) Close() error {
	if f.close == nil {
		return nil
	}
	return f.close()
}

// fakeListener is one that listens too.
type fakeListener struct {
	fake
	run func(ctx context.Context, wake func()) error
}

func (f *fakeListener) Run(ctx context.Context, wake func()) error { return f.run(ctx, wake) }

func reads(v float64) func(context.Context) ([]Sample, error) {
	return func(context.Context) ([]Sample, error) { return []Sample{number(v)}, nil }
}

// rig is a poller over fakes, and what it did.
type rig struct {
	*Poller
	t       *testing.T
	start   time.Time
	log     bytes.Buffer
	options Options

	mu       sync.Mutex
	readings []Reading
	observed []error
}

// newRig makes a poller that reads each fake every second with a timeout of
// half a second. Names that share the part before a dash share a bus.
func newRig(t *testing.T, fakes map[string]Sensor, change ...func(*Options)) *rig {
	t.Helper()
	r := &rig{t: t, start: time.Now()}
	r.options = Options{
		Defaults: config.Sensors{PollIntervalSeconds: 1, TimeoutSeconds: 0.5},
		Types: []Type{{
			Name: "fake",
			New:  func(d config.Sensor, _ Env) (Sensor, error) { return fakes[d.Name], nil },
			Bus: func(d config.Sensor) string {
				bus, _, shared := strings.Cut(d.Name, "-")
				if !shared {
					return ""
				}
				return bus
			},
		}},
		Env: Env{Log: zerolog.New(&r.log), DeviceID: "device"},
		Sink: func(rs []Reading) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.readings = append(r.readings, rs...)
		},
		Observe: func(_ time.Duration, err error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.observed = append(r.observed, err)
		},
	}
	for name := range fakes {
		r.options.Defaults.Devices = append(r.options.Defaults.Devices, testSensor(func(d *config.Sensor) { d.Name = name }))
	}
	slices.SortFunc(r.options.Defaults.Devices, func(a, b config.Sensor) int { return strings.Compare(a.Name, b.Name) })
	for _, c := range change {
		c(&r.options)
	}
	p, err := NewPoller(r.options)
	if err != nil {
		t.Fatal(err)
	}
	r.Poller = p
	return r
}

// runFor lets the poller run for d and stops it.
func (r *rig) runFor(d time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	if err := r.Run(ctx); err != nil {
		r.t.Error(err)
	}
}

// of returns the readings of one sensor.
func (r *rig) of(name string) []Reading {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(r.readings), func(x Reading) bool { return x.Sensor != name })
}

func (r *rig) stats(name string) SensorStats {
	all := r.Stats().Sensors
	i := slices.IndexFunc(all, func(s SensorStats) bool { return s.Name == name })
	if i < 0 {
		r.t.Fatalf("no stats of %s", name)
	}
	return all[i]
}

// recorder is a sensor that writes down when it was read, as time since its
// first read.
type recorder struct {
	mu    sync.Mutex
	start time.Time
	at    []time.Duration
}

func (r *recorder) Read(context.Context) ([]Sample, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.start.IsZero() {
		r.start = time.Now()
	}
	r.at = append(r.at, time.Since(r.start))
	return []Sample{number(1)}, nil
}

func (r *recorder) when() []time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.at)
}
