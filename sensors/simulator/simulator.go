// Package simulator is a sensor that needs no hardware: a waveform with noise
// for demonstrations and load, and on request the faults that real sensors
// have, so that what the agent does about them can be seen.
//
// What it gives depends on its seed and on how often it was read, never on the
// clock: two runs with one config give the same values.
package simulator

import (
	"context"
	"errors"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

const (
	floodSamples  = 100_000
	hugeTextBytes = 10 << 20
)

// Type is the ingest type "simulator".
var Type = sensors.Type{
	Name:    "simulator",
	Doc:     "A waveform with noise, and on request the faults of real sensors; needs no hardware.",
	Options: func() any { o := defaults; return &o },
	New:     newSensor,
}

// Options are the type's own keys.
type Options struct {
	Waveform      string  `toml:"waveform" enum:"sine,square,sawtooth,triangle,random_walk,constant" doc:"Shape of the values; constant is the middle of min and max."`
	Min           float64 `toml:"min" doc:"Lowest value of the waveform, before noise."`
	Max           float64 `toml:"max" doc:"Highest value of the waveform, before noise."`
	PeriodSeconds float64 `toml:"period_seconds" min:"0.001" doc:"Length of one wave, counted in polls times the interval."`
	Noise         float64 `toml:"noise" min:"0" doc:"Standard deviation of the noise added to each value."`
	Seed          int64   `toml:"seed" doc:"Where chance begins; 0 takes it from the sensor's name."`
	FaultRate     float64 `toml:"fault_rate" min:"0" max:"1" doc:"Share of reads that go wrong."`
	Fault         string  `toml:"fault" enum:"error,hang,flood,nan,huge_text,bad_utf8,panic" doc:"What happens then."`
	HangSeconds   float64 `toml:"hang_seconds" min:"0" doc:"How long a hanging read ignores its timeout."`
}

var defaults = Options{
	Waveform: "sine", Min: 18, Max: 24, PeriodSeconds: 300, Noise: 0.05, Fault: "error", HangSeconds: 60,
}

type sensor struct {
	o      Options
	step   float64 // of a wave, per poll
	polls  float64
	walk   float64 // position of the random walk between 0 and 1
	chance *rand.Rand
	digits float64 // power of ten that values are rounded to
}

func newSensor(d config.Sensor, _ sensors.Env) (sensors.Sensor, error) {
	o := *d.Options.(*Options)
	if o.Min > o.Max {
		return nil, config.Problemf("min", "is above max (%g)", o.Max)
	}
	seed := uint64(o.Seed)
	if seed == 0 {
		h := fnv.New64a()
		h.Write([]byte(d.Name))
		seed = h.Sum64()
	}
	return &sensor{
		o: o, step: d.PollIntervalSeconds / o.PeriodSeconds,
		walk: 0.5, chance: rand.New(rand.NewPCG(seed, 0)), digits: resolution(o.Max - o.Min),
	}, nil
}

// resolution returns the power of ten that leaves a range about four digits,
// as a real sensor would.
func resolution(span float64) float64 {
	if span <= 0 {
		return 1000
	}
	return math.Pow10(int(max(0, min(12, 3-math.Floor(math.Log10(span))))))
}

func (s *sensor) Read(context.Context) ([]sensors.Sample, error) {
	// The draws are the same in number whatever comes of them: the values of
	// good reads do not depend on the faults between them.
	fault := s.chance.Float64() < s.o.FaultRate
	noise := s.chance.NormFloat64() * s.o.Noise
	s.walk = bounce(s.walk + s.chance.NormFloat64()/50)
	_, cycle := math.Modf(s.polls * s.step)
	s.polls++
	if fault {
		return s.misbehave()
	}
	v := s.o.Min + (s.o.Max-s.o.Min)*s.shape(cycle) + noise
	if rounded := math.Round(v*s.digits) / s.digits; !math.IsInf(rounded, 0) {
		v = rounded
	}
	return one(wire.NumberValue(v)), nil
}

// shape returns the waveform between 0 and 1 at a point of its cycle, which is
// in [0, 1).
func (s *sensor) shape(cycle float64) float64 {
	switch s.o.Waveform {
	case "sine":
		return 0.5 + 0.5*math.Sin(2*math.Pi*cycle)
	case "square":
		if cycle < 0.5 {
			return 1
		}
		return 0
	case "sawtooth":
		return cycle
	case "triangle":
		return 1 - math.Abs(2*cycle-1)
	case "random_walk":
		return s.walk
	}
	return 0.5
}

// bounce keeps a random walk between 0 and 1.
func bounce(x float64) float64 {
	x = math.Mod(math.Abs(x), 2)
	return min(x, 2-x)
}

func (s *sensor) misbehave() ([]sensors.Sample, error) {
	switch s.o.Fault {
	case "hang":
		time.Sleep(config.Seconds(s.o.HangSeconds))
	case "flood":
		flood := make([]sensors.Sample, floodSamples)
		for i := range flood {
			flood[i].Value = wire.NumberValue(float64(i))
		}
		return flood, nil
	case "nan":
		return one(wire.NumberValue(math.NaN())), nil
	case "huge_text":
		return one(wire.TextValue(strings.Repeat("x", hugeTextBytes))), nil
	case "bad_utf8":
		return one(wire.TextValue("bad \xff\xfe text \xc3")), nil
	case "panic":
		panic("simulated fault")
	}
	return nil, errors.New("simulated fault")
}

func one(v wire.Value) []sensors.Sample { return []sensors.Sample{{Value: v}} }
