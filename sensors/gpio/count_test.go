package gpio

import (
	"errors"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// readCount returns what a read of a count gave, NaN for what it did not.
func readCount(t *testing.T, s sensors.Sensor) (pulses, rate float64, err error) {
	t.Helper()
	got, err := s.Read(t.Context())
	pulses, rate = math.NaN(), math.NaN()
	for _, g := range got {
		f, ok := g.Value.Float()
		switch {
		case !ok:
			t.Errorf("%+v is no number", g)
		case g.Channel == "pulses":
			pulses = f
		case g.Channel == "rate":
			rate = f
		}
	}
	return pulses, rate, err
}

// The kernel keeps 1024 edges, and five times as many come between two polls.
func TestNoPulseIsMissedByTheCount(t *testing.T) {
	const perSecond, polls = 1000, 12
	synctest.Test(t, func(t *testing.T) {
		k := board()
		r := poll(t, k, Options{Line: "GPIO17", Mode: "count"}, func(d *config.Sensor) { d.Unit = "L" })
		defer r.stop()
		time.Sleep(time.Second)
		l := k.chips[0].line(1)
		before, _ := l.seen()
		for range perSecond * 5 * polls {
			l.edge(true)
			time.Sleep(time.Second / perSecond)
		}
		time.Sleep(5 * time.Second)
		var last float64
		var full int
		for _, g := range r.taken() {
			f, _ := g.Value.Float()
			switch {
			case g.Quality != wire.Good:
				t.Errorf("%+v", g)
			case g.Sensor == "door.pulses" && g.Unit == "L":
				last = f
			case g.Sensor == "door.rate" && g.Unit == "L/s":
				if math.Abs(f-perSecond) < 1 {
					full++
				}
			default:
				t.Errorf("%+v", g)
			}
		}
		if last != perSecond*5*polls || full < polls-2 {
			t.Errorf("%v pulses of %d, %d full rates of %d", last, perSecond*5*polls, full, polls)
		}
		if calls, _ := l.seen(); calls-before > (polls+3)*(kernelEvents/batch+2) {
			t.Errorf("%d calls for %d polls", calls-before, polls)
		}
	})
}

func TestRates(t *testing.T) {
	for _, tt := range []struct {
		per, unit, wantUnit string
		want                float64
	}{
		{"second", "", "1/s", 2},
		{"minute", "L", "L/min", 120},
		{"hour", "kWh", "kWh/h", 7200},
	} {
		synctest.Test(t, func(t *testing.T) {
			k := board()
			s, err := newSensor(config.Sensor{Unit: tt.unit, Options: filled(Options{Line: "GPIO17", Mode: "count", RatePer: tt.per})}, sensors.Env{}, k)
			if err != nil {
				t.Fatal(err)
			}
			if pulses, rate, err := readCount(t, s); pulses != 0 || !math.IsNaN(rate) || err != nil {
				t.Errorf("first: %v, %v, %v", pulses, rate, err)
			}
			for range 20 {
				k.chips[0].line(1).edge(true)
			}
			time.Sleep(10 * time.Second)
			got, err := s.Read(t.Context())
			if f, _ := got[1].Value.Float(); err != nil || len(got) != 2 || f != tt.want || got[1].Unit != tt.wantUnit || got[0].Unit != "" {
				t.Errorf("per %s: %+v, %v", tt.per, got, err)
			}
			time.Sleep(10 * time.Second)
			if pulses, rate, err := readCount(t, s); pulses != 20 || rate != 0 || err != nil {
				t.Errorf("silence: %v, %v, %v", pulses, rate, err)
			}
		})
	}
}

// The count goes on after the chip was away; a rate over that time would be
// wrong.
func TestTheCountOutlivesTheChip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := board()
		s := makeSensor(t, k, Options{Line: "GPIO17", Mode: "count"})
		readCount(t, s)
		c := k.chips[0]
		for range 5 {
			c.line(1).edge(true)
		}
		readCount(t, s)
		l := c.line(1)
		k.unplug(c)
		_, _, err := readCount(t, s)
		wantError(t, "unplugged", err, "the chip is gone")
		if l.closings != 1 {
			t.Error("the line was not given back")
		}
		_, _, err = readCount(t, s)
		wantError(t, "still unplugged", err, "absent")
		k.plug(c)
		if pulses, rate, err := readCount(t, s); pulses != 5 || !math.IsNaN(rate) || err != nil {
			t.Errorf("%v, %v, %v", pulses, rate, err)
		}
		c.line(1).edge(true)
		time.Sleep(time.Second)
		if pulses, rate, err := readCount(t, s); pulses != 6 || rate != 1 || err != nil {
			t.Errorf("%v, %v, %v", pulses, rate, err)
		}
	})
}

// On older kernels an empty buffer of a chip that is gone is no error.
func TestTheCountLooksWhetherTheChipIsThere(t *testing.T) {
	k := board()
	s := makeSensor(t, k, Options{Line: "GPIO17", Mode: "count"})
	readCount(t, s)
	k.chips[0].line(1).valueErr = unix.ENODEV
	_, _, err := readCount(t, s)
	wantError(t, "gone", err, "the chip is gone")
}

func TestTheKernelsNumberWrapsAround(t *testing.T) {
	k := board()
	s := makeSensor(t, k, Options{Line: "GPIO17", Mode: "count"})
	readCount(t, s)
	l := k.chips[0].line(1)
	l.number = math.MaxUint32 - 2
	s.(*countSensor).held.number = l.number
	for range 2 * kernelEvents {
		l.edge(true)
	}
	if pulses, _, err := readCount(t, s); pulses != 2*kernelEvents || err != nil {
		t.Errorf("%v, %v", pulses, err)
	}
	l.number -= 10
	l.edge(true)
	if pulses, _, err := readCount(t, s); pulses != 2*kernelEvents+1 || err != nil {
		t.Errorf("a number that went back: %v, %v", pulses, err)
	}
}

func TestDebouncedPulses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := board()
		k.chips[0].refuse = func(r request) error {
			if r.debounce != 0 {
				return unix.EINVAL
			}
			return nil
		}
		s := makeSensor(t, k, Options{Line: "GPIO17", Mode: "count", DebounceSeconds: 0.1})
		readCount(t, s)
		l := k.chips[0].line(1)
		if !l.want.rising || !l.want.falling {
			t.Errorf("one edge is not enough to debounce: %+v", l.want)
		}
		pulse := func() {
			for _, level := range []bool{true, false} {
				for range 3 {
					l.edge(!level)
					l.edge(level)
					time.Sleep(time.Millisecond)
				}
				time.Sleep(time.Second)
			}
		}
		for range 10 {
			pulse()
		}
		if pulses, _, err := readCount(t, s); pulses != 10 || err != nil {
			t.Errorf("%v, %v", pulses, err)
		}
		for range kernelEvents {
			l.edge(true)
			l.edge(false)
		}
		_, _, err := readCount(t, s)
		var dropped sensors.Dropped
		if !errors.As(err, &dropped) || dropped != kernelEvents {
			t.Errorf("%v, %d dropped", err, dropped)
		}
		pulse()
		if pulses, _, err := readCount(t, s); pulses != 11 || err != nil {
			t.Errorf("after the flood: %v, %v", pulses, err)
		}
	})
}
