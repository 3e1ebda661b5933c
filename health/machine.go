package health

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/sensors/system"
	"github.com/pyvorin/pyvorin-edge/wire"
)

const (
	sampleInterval = 5 * time.Second
	firstCPUSpan   = 100 * time.Millisecond // the span of the first cpu_percent
)

// machine samples the figures of this machine, with the sensor of ingest type
// system. What the machine cannot give, because it has no such thing or a
// sandbox hides it, stays absent.
type machine struct {
	sensor  sensors.Sensor
	current atomic.Pointer[wire.Metrics]
}

// newMachine measures the machine below root ("/" but in tests) and the file
// system that holds dir.
func newMachine(root, dir string) (*machine, error) {
	o := system.Type.Options().(*system.Options)
	o.Path = dir
	o.Metrics = []string{"cpu_percent", "memory_percent", "disk_percent", "load1", "temperature_celsius", "rss_bytes"}
	s, err := system.Type.New(config.Sensor{Name: "machine", Options: o}, sensors.Env{SysRoot: root})
	return &machine{sensor: s}, err
}

// metrics returns the latest sample.
func (m *machine) metrics() wire.Metrics {
	if latest := m.current.Load(); latest != nil {
		return *latest
	}
	return wire.Metrics{}
}

// first takes the samples that make every figure known.
func (m *machine) first(ctx context.Context) {
	m.sample(ctx)
	select {
	case <-ctx.Done():
	case <-time.After(firstCPUSpan):
		m.sample(ctx)
	}
}

// sample replaces the figures. Only one goroutine may call it.
func (m *machine) sample(ctx context.Context) {
	var s wire.Metrics
	samples, _ := m.sensor.Read(ctx) // what could not be read is absent
	for _, sample := range samples {
		f, ok := sample.Value.Float()
		if !ok {
			continue
		}
		rounded := round1(f)
		switch sample.Channel {
		case "cpu_percent":
			s.CPUPercent = &rounded
		case "memory_percent":
			s.MemoryPercent = &rounded
		case "disk_percent":
			s.DiskPercent = &rounded
		case "load1":
			s.Load1 = &rounded
		case "temperature_celsius":
			s.TemperatureCelsius = &rounded
		case "rss_bytes":
			s.RSSBytes = int64(f)
		}
	}
	m.current.Store(&s)
}
