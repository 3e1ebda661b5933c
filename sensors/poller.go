package sensors

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/pyvorin/pyvorin-edge/config"
)

const (
	// minInterval keeps a typing error from turning into a busy loop.
	minInterval = 10 * time.Millisecond

	// stopTimeout is how long Run waits, once ctx ended, for reads to return
	// and for sensors to close. What is later is left behind.
	stopTimeout = 2 * time.Second
)

// Options are what a Poller needs.
type Options struct {
	Defaults config.Sensors // the [sensors] section, its devices included
	Types    []Type
	Env      Env

	// Sink takes the readings of one read; they belong to it. It is called
	// from several goroutines at once and never blocks.
	Sink func([]Reading)

	// Observe is told of each finished or abandoned read: how long it took,
	// and why it failed. May be nil.
	Observe func(d time.Duration, err error)

	// Beat is called at least every 5 s while the schedule turns, and not when
	// it is stuck. May be nil.
	Beat func()
}

// Poller reads the configured sensors, each at its interval.
type Poller struct {
	o       Options
	sensors []*polled // the enabled ones, in the order of the config
	buses   []*bus
	wakes   chan *polled // each sensor is in it at most once
	now     func() time.Time
}

// NewPoller makes the sensors that are enabled. It does no I/O. The error is
// a *config.Error with the key of each sensor that cannot be made, or of what is
// wrong in it.
func NewPoller(o Options) (*Poller, error) {
	if o.Observe == nil {
		o.Observe = func(time.Duration, error) {}
	}
	if o.Beat == nil {
		o.Beat = func() {}
	}
	o.Env.Shared = &Shared{}
	p := &Poller{o: o, now: time.Now}
	var problems []config.Problem
	names := map[string]bool{}
	buses := map[string]*bus{}
	for i, d := range o.Defaults.Devices {
		key := fmt.Sprintf("sensors.devices[%d]", i)
		if names[d.Name] {
			err := config.Problemf("name", "another sensor has this name: readings could not be told apart")
			problems = append(problems, config.Under(key, err))
			continue
		}
		names[d.Name] = true
		if !d.Enabled {
			continue
		}
		s, err := o.newPolled(d)
		if err != nil {
			problems = append(problems, config.Under(key, err))
			continue
		}
		s.bus = buses[s.stats.Bus]
		if s.bus == nil {
			s.bus = &bus{}
			p.buses = append(p.buses, s.bus)
			if s.stats.Bus != "" {
				buses[s.stats.Bus] = s.bus
			}
		}
		s.bus.sensors++
		p.sensors = append(p.sensors, s)
	}
	if len(problems) > 0 {
		return nil, &config.Error{Problems: problems}
	}
	for _, b := range p.buses {
		b.due = make(chan *polled, b.sensors)
	}
	p.wakes = make(chan *polled, len(p.sensors))
	return p, nil
}

// newPolled makes one sensor and what surrounds it.
func (o *Options) newPolled(d config.Sensor) (*polled, error) {
	i := slices.IndexFunc(o.Types, func(t Type) bool { return t.Name == d.IngestType })
	if i < 0 {
		return nil, config.Problemf("ingest_type", "%q is unknown (see 'pyvorin-edge sensors list --types')", d.IngestType)
	}
	t := &o.Types[i]
	interval, timeout := o.timing(d)
	if interval < minInterval {
		return nil, config.Problemf("poll_interval_seconds", "is less than %g", minInterval.Seconds())
	}
	process, err := newProcessor(d, interval)
	if err != nil {
		return nil, err
	}
	d.PollIntervalSeconds, d.TimeoutSeconds = interval.Seconds(), timeout.Seconds()
	env := o.Env
	env.Log = env.Log.With().Str("sensor", d.Name).Logger()
	sensor, err := t.New(d, env)
	if err != nil {
		return nil, err
	}
	s := &polled{
		sensor: sensor, interval: interval, timeout: timeout,
		phase:   phase(o.Env.DeviceID, d.Name, interval),
		log:     env.Log,
		process: process,
		closed:  make(chan struct{}),
		stats: SensorStats{
			Name: d.Name, Ingest: d.IngestType, Type: d.SensorType, Unit: d.Unit,
			Interval: interval, Timeout: timeout, State: Waiting,
		},
	}
	s.users.Store(1)
	if t.Bus != nil {
		s.stats.Bus = t.Bus(d)
	}
	return s, nil
}

// timing returns how often d is read and how long one read may take.
func (o *Options) timing(d config.Sensor) (interval, timeout time.Duration) {
	interval, timeout = seconds(o.Defaults.PollIntervalSeconds), seconds(o.Defaults.TimeoutSeconds)
	if d.PollIntervalSeconds > 0 {
		interval = seconds(d.PollIntervalSeconds)
	}
	if d.TimeoutSeconds > 0 {
		timeout = seconds(d.TimeoutSeconds)
	}
	return interval, min(timeout, interval)
}

// Run polls until ctx ends, and closes the sensors. It leaves no goroutine
// behind but the reads that do not return. It is called once.
func (p *Poller) Run(ctx context.Context) error {
	start := time.Now()
	var running sync.WaitGroup
	for _, b := range p.buses {
		running.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case s := <-b.due:
					p.poll(ctx, s, start)
				}
			}
		})
	}
	for _, s := range p.sensors {
		if l, ok := s.sensor.(Listener); ok {
			s.users.Add(1)
			go p.listen(ctx, s, l)
		}
	}
	p.schedule(ctx, start)
	running.Wait()

	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	for _, s := range p.sensors {
		s.release()
	}
	for _, s := range p.sensors {
		s.waitClosed(stop)
	}
	return nil
}

// moment returns the present; start is when Run was called.
func (p *Poller) moment(start time.Time) moment {
	return moment{since: time.Since(start), wall: p.now()}
}

// bus is what several sensors share; its worker reads one after the other.
type bus struct {
	sensors int
	due     chan *polled // holds each of its sensors at most once
}
