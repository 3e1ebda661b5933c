// Package sysfs reads what the kernel's own drivers measure: IIO, hwmon,
// 1-Wire and thermal devices, and single files that hold a number.
//
// The parties are a bus, which knows where its chips are and how their
// attributes become SI values, and the sensor, which picks one chip of it by
// something that survives a reboot and a replug: the driver's name, the
// device-tree label or the device path, but never a number the kernel counts
// up, such as hwmon2. The chip is looked for anew on every read, so one that
// is plugged in later is found, and one that is gone is reported absent.
//
// A channel that fails costs only itself: the others of its chip are read.
// Nothing is written, and every read is bounded in size. Discovery lists the
// chips that there are from names and labels alone, and opens no measurement.
package sysfs

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// Options are the config keys of a sysfs sensor.
type Options struct {
	Bus     string `toml:"bus" required:"true" enum:"iio,hwmon,w1,thermal,path" doc:"Which kernel interface the sensor is on; path reads one file."`
	Chip    string `toml:"chip" doc:"Which device: its name, device-tree label or device path such as 1-0040. Empty takes the only one there is."`
	Channel string `toml:"channel" doc:"iio, hwmon: which input, such as temp1 or in_voltage0. Empty reads all of the chip as channels."`
	Path    string `toml:"path" doc:"path: absolute name of a file that holds a number; its first 64 KiB are read."`
	Regex   string `toml:"regex" doc:"path: where in the file the number is: takes the first group, or the whole match; named groups become channels."`
}

// Type is the ingest type "sysfs".
var Type = sensors.Type{
	Name:    "sysfs",
	Doc:     "Chips with a kernel driver: IIO, hwmon, 1-Wire, thermal zones, or a file that holds a number.",
	Options: func() any { return &Options{} },
	New:     New,
	Bus:     busOf,

	Discover: discover,
}

// busOf puts all 1-Wire sensors on one bus: the kernel converts one at a time,
// and one that waits for the other would be charged with its time.
func busOf(d config.Sensor) string {
	if o, ok := d.Options.(*Options); ok && o.Bus == "w1" {
		return "sysfs w1"
	}
	return ""
}

// counted matches the names that the kernel counts up in the order of probing.
var counted = regexp.MustCompile(`^(hwmon|iio:device|thermal_zone)\d+$`)

// New makes a sensor; d.Options is an *Options.
func New(d config.Sensor, env sensors.Env) (sensors.Sensor, error) {
	o, ok := d.Options.(*Options)
	if !ok {
		return nil, fmt.Errorf("internal error: sysfs options are %T", d.Options)
	}
	if o.Bus == "path" {
		return newFileSensor(env.Root(), *o)
	}
	if o.Path != "" || o.Regex != "" {
		return nil, config.Problemf("bus", `must be "path" for path and regex; change it or remove them`)
	}
	b, ok := buses[o.Bus]
	if !ok {
		return nil, config.Problemf("bus", "%q is none of iio, hwmon, w1, thermal, path", o.Bus)
	}
	if counted.MatchString(o.Chip) {
		return nil, config.Problemf("chip", "%q is a number that changes between boots; use the content of its name file or its device path instead", o.Chip)
	}
	if b.single && o.Channel != "" {
		return nil, config.Problemf("channel", "a %s device has only one value; remove it", o.Bus)
	}
	return &chipSensor{
		bus: b, root: env.Root(), chip: o.Chip, channel: o.Channel,
		fillType: d.SensorType == "", fillUnit: d.Unit == "",
	}, nil
}

// bus is one kernel interface.
type bus struct {
	name   string
	class  string                               // folder of its devices under the root
	single bool                                 // every chip has exactly one value
	find   func(entry string) (c chip, ok bool) // a device of the class folder; false when it is none
	inputs func(c chip) ([]input, error)        // what the chip measures, by name
	hint   string                               // what to check when a chip is absent
}

var buses = map[string]bus{
	"iio":     {name: "iio", class: "sys/bus/iio/devices", find: iioChip, inputs: iioInputs, hint: "check that its overlay is enabled and its driver loaded (dmesg)"},
	"hwmon":   {name: "hwmon", class: "sys/class/hwmon", find: hwmonChip, inputs: hwmonInputs, hint: "check that its driver is loaded (dmesg)"},
	"w1":      {name: "1-Wire", class: "sys/bus/w1/devices", single: true, find: w1Chip, inputs: w1Inputs, hint: "check the wiring, the pull-up and that the w1-gpio overlay is enabled"},
	"thermal": {name: "thermal", class: "sys/class/thermal", single: true, find: thermalChip, inputs: thermalInputs, hint: "a machine may have none (see /sys/class/thermal/*/type)"},
}

// input is one thing that a chip measures.
type input struct {
	name     string // of the channel
	quantity quantity
	label    string // what the board calls it; "" when it does not say
	path     string // of the file that has to be read for it
	off      bool   // switched off in the chip, so it has no value
	read     func() (wire.Value, error)
}

// chipSensor reads one channel of a chip, or all of them.
type chipSensor struct {
	bus                bus
	root               string
	chip, channel      string
	fillType, fillUnit bool
}

func (s *chipSensor) Read(ctx context.Context) ([]sensors.Sample, error) {
	c, err := s.find()
	if err != nil {
		return nil, err
	}
	inputs, err := s.bus.inputs(c)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", c, err)
	}
	if s.channel != "" {
		i := slices.IndexFunc(inputs, func(in input) bool { return in.name == s.channel })
		if i < 0 {
			return nil, fmt.Errorf("absent: %s has no channel %q; it has %s", c, s.channel, names(inputs))
		}
		return s.readOne(ctx, c, inputs[i])
	}
	inputs = slices.DeleteFunc(inputs, func(in input) bool { return in.off })
	switch {
	case len(inputs) == 0:
		return nil, fmt.Errorf("absent: %s measures nothing", c)
	case s.bus.single:
		return s.readOne(ctx, c, inputs[0])
	}
	out := make([]sensors.Sample, 0, len(inputs))
	var missed error // of a chip whose inputs come in one transmission
	for _, in := range inputs {
		if err := ctx.Err(); err != nil {
			return out, fmt.Errorf("read %s: stopped before %s: %w", c, in.name, err)
		}
		sample := s.sample(c, in)
		sample.Channel = in.name
		v, err := wire.Value{}, missed
		if err == nil {
			v, err = c.read(ctx, in)
		}
		if err != nil {
			sample.Quality, sample.Reason = wire.Bad, err.Error()
		} else {
			sample.Value = v
		}
		if c.again > 0 && isMiss(err) {
			missed = err
		}
		out = append(out, sample)
	}
	return out, nil
}

func (s *chipSensor) readOne(ctx context.Context, c chip, in input) ([]sensors.Sample, error) {
	v, err := c.read(ctx, in)
	if err == nil {
		sample := s.sample(c, in)
		sample.Value = v
		return []sensors.Sample{sample}, nil
	}
	if errors.Is(err, errUnbelievable) {
		sample := s.sample(c, in)
		sample.Value, sample.Quality, sample.Reason = v, wire.Bad, err.Error()
		return []sensors.Sample{sample}, nil
	}
	return nil, fmt.Errorf("read %s: %w", c, err)
}

// sample is an empty sample of in. Type and unit stay empty where the config
// has its own: a scale and an offset there may have changed what they are.
func (s *chipSensor) sample(c chip, in input) sensors.Sample {
	var out sensors.Sample
	if s.fillType {
		out.Type = in.quantity.kind
	}
	if s.fillUnit {
		out.Unit = in.quantity.unit
	}
	if in.label != "" {
		out.Meta = map[string]wire.Value{"label": wire.TextValue(in.label)}
	}
	return out
}

// chips returns the devices of b below root.
func (b bus) chips(root string) ([]chip, error) {
	dir := filepath.Join(root, b.class)
	entries, err := listDir(dir)
	if err != nil {
		return nil, err
	}
	var all []chip
	for _, entry := range entries {
		if c, ok := b.find(filepath.Join(dir, entry)); ok {
			all = append(all, c)
		}
	}
	return all, nil
}

// find returns the one chip that the config means.
func (s *chipSensor) find() (chip, error) {
	all, err := s.bus.chips(s.root)
	if err != nil {
		return chip{}, fmt.Errorf("absent: this kernel has no %s devices (%w); %s", s.bus.name, err, s.bus.hint)
	}
	found := slices.DeleteFunc(slices.Clone(all), func(c chip) bool { return s.chip != "" && !c.is(s.chip) })
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1 && s.chip == "":
		return chip{}, fmt.Errorf("chip is needed: there are %s; set it to a name, or to a device path where names are equal", list(found))
	case len(found) > 1:
		return chip{}, fmt.Errorf("chip %q is ambiguous: %s; set it to a device path", s.chip, list(found))
	case len(all) == 0:
		return chip{}, fmt.Errorf("absent: no %s device at all; %s", s.bus.name, s.bus.hint)
	}
	return chip{}, fmt.Errorf("absent: no %s device %q, only %s; %s", s.bus.name, s.chip, list(all), s.bus.hint)
}

func list(chips []chip) string {
	texts := make([]string, len(chips))
	for i, c := range chips {
		texts[i] = c.String()
	}
	return strings.Join(texts, ", ")
}

func names(inputs []input) string {
	if len(inputs) == 0 {
		return "none"
	}
	texts := make([]string, len(inputs))
	for i, in := range inputs {
		texts[i] = in.name
	}
	return strings.Join(texts, ", ")
}
