// Package system reads the machine it runs on: processor, memory, disk, load,
// network, temperature, uptime and the agent's own size.
//
// Everything comes from /proc, /sys and system calls; nothing is started and
// nothing waits. Rates are over the time since the read before, so the first
// read has none. What a machine does not have (a temperature, an interface) is
// absent, and that is no failure.
package system

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/shirou/gopsutil/v3/common"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// Type is the ingest type "system".
var Type = sensors.Type{
	Name:    "system",
	Doc:     "This machine: processor, memory, disk, load, network, temperature.",
	Options: func() any { return &Options{Path: "/"} },
	New:     newSensor,
}

// Options are the type's own keys.
type Options struct {
	Metrics    []string `toml:"metrics" doc:"What is read, each a channel of its own; empty means all."`
	Path       string   `toml:"path" doc:"disk_percent is of the file system that holds this path."`
	Interfaces []string `toml:"interfaces" doc:"Globs of the network interfaces that count; empty means all but lo."`
}

// metrics lists what can be read, in the order of the channels. Those of one
// source are neighbours, so that it is asked once.
var metrics = []struct {
	name, kind, unit string
}{
	{"cpu_percent", "cpu", "%"},
	{"memory_percent", "memory", "%"},
	{"memory_used_bytes", "memory", "B"},
	{"disk_percent", "disk", "%"},
	{"load1", "load", ""},
	{"load5", "load", ""},
	{"load15", "load", ""},
	{"net_rx_bytes_per_second", "network", "B/s"},
	{"net_tx_bytes_per_second", "network", "B/s"},
	{"temperature_celsius", "temperature", "C"},
	{"uptime_seconds", "uptime", "s"},
	{"rss_bytes", "process", "B"},
}

type sensor struct {
	o      Options
	wanted map[string]bool
	root   string        // the parent of proc and sys
	env    common.EnvMap // tells gopsutil of it
	pid    int32

	// From the read before; zero before the first.
	lastCPU     cpuTimes
	lastTraffic map[string]traffic // of each interface
	lastAt      time.Time          // of lastTraffic
}

func newSensor(d config.Sensor, env sensors.Env) (sensors.Sensor, error) {
	o := *d.Options.(*Options)
	s := &sensor{o: o, wanted: map[string]bool{}, pid: int32(os.Getpid())}
	var names []string
	for _, m := range metrics {
		names = append(names, m.name)
		s.wanted[m.name] = len(o.Metrics) == 0
	}
	for i, name := range o.Metrics {
		if !slices.Contains(names, name) {
			return nil, config.Problemf(fmt.Sprintf("metrics[%d]", i), "unknown metric %q; there are %s", name, strings.Join(names, ", "))
		}
		s.wanted[name] = true
	}
	for i, pattern := range o.Interfaces {
		if _, err := path.Match(pattern, ""); err != nil {
			return nil, config.Problemf(fmt.Sprintf("interfaces[%d]", i), "%q is no valid pattern", pattern)
		}
	}
	s.root = env.Root()
	s.env = common.EnvMap{common.HostProcEnvKey: filepath.Join(s.root, "proc")}
	return s, nil
}

func (s *sensor) Read(ctx context.Context) ([]sensors.Sample, error) {
	ctx = context.WithValue(ctx, common.EnvKey, s.env)
	r := &reading{sensor: s, samples: make([]sensors.Sample, 0, len(metrics))}
	r.cpu(ctx)
	r.memory(ctx)
	r.disk(ctx)
	r.load(ctx)
	r.traffic(ctx)
	r.temperature()
	r.uptime(ctx)
	r.rss(ctx)
	return r.samples, errors.Join(r.failed...)
}

// reading gathers the samples of one read.
type reading struct {
	*sensor
	samples []sensors.Sample
	failed  []error
}

// wants reports whether any of the metrics is to be read.
func (r *reading) wants(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return r.wanted[name] })
}

func (r *reading) give(name string, v float64) {
	if !r.wanted[name] {
		return
	}
	for _, m := range metrics {
		if m.name == name {
			r.samples = append(r.samples, sensors.Sample{
				Channel: name, Type: m.kind, Unit: m.unit, Value: wire.NumberValue(v),
			})
		}
	}
}

func (r *reading) fail(what string, err error) {
	r.failed = append(r.failed, fmt.Errorf("read %s: %w", what, err))
}
