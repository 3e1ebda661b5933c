// Package gpio is the ingest type "gpio": lines of the kernel's GPIO character
// devices, to which doors, buttons, motion detectors and pulse meters are wired.
//
// The parties are the kernel, seen through three small interfaces; the source,
// which finds the line that the config means by names that survive a reboot
// and takes it; and a sensor for each mode. In mode level each read looks at
// the line. In mode edge Run waits for edges, which the kernel stamps, and
// keeps them in a bounded queue until they are read. In mode count nothing
// waits: the kernel numbers the edges of a line, so a read that takes what is
// left in its buffer knows how many there were, however many that buffer lost.
//
// A line has one holder. It is taken by the first read, or by Run, never by
// New, and given back by Close, or when Run returns; a failure gives it back
// too, so that a chip that was unplugged is found when it is there again.
//
// It needs version 2 of the kernel's interface, which Linux 5.10 brought, and
// of the library the definitions of that interface only: the library's own
// lines cannot set the size of the kernel's buffer, and when a chip is
// unplugged their watcher turns in a busy loop.
//
// Nothing is kept on disk: edges that were not read, and the count, are lost
// with the process.
package gpio

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/sensors/internal/ring"
)

// Options are the config keys of a gpio sensor.
type Options struct {
	Line            string  `toml:"line" required:"true" doc:"Name of the line as gpioinfo shows it, such as GPIO17; or, with chip, its number on the chip."`
	Chip            string  `toml:"chip" doc:"Label of the chip as gpiodetect shows it, such as pinctrl-bcm2711, or a part of its device path, such as 1-0020. Needed for a number, and for a name that several chips have."`
	Mode            string  `toml:"mode" enum:"level,edge,count" doc:"level reads the line's state at each poll, edge makes a reading of each edge, count counts edges."`
	Edge            string  `toml:"edge" enum:"rising,falling,both" doc:"edge, count: which edges; rising is from inactive to active. Without it edge takes both and count takes rising."`
	Bias            string  `toml:"bias" enum:"as-is,pull-up,pull-down,disabled" doc:"The resistor inside the chip. A driver that has none ignores this without a word."`
	ActiveLow       bool    `toml:"active_low" doc:"true takes the low level for the active one, as with a contact that pulls the line to ground."`
	DebounceSeconds float64 `toml:"debounce_seconds" min:"0" max:"60" doc:"edge, count: a new level must last this long to be an edge; 0 takes every edge."`
	RatePer         string  `toml:"rate_per" enum:"second,minute,hour" doc:"count: the time to which the channel rate refers."`
	BufferReadings  int     `toml:"buffer_readings" min:"1" max:"100000" doc:"edge: readings held until they are polled; beyond that the oldest are dropped and counted."`
}

// Type is the ingest type "gpio".
var Type = sensors.Type{
	Name: "gpio",
	Doc:  "Lines of a GPIO chip: doors, buttons and motion detectors, and pulses of meters.",
	Options: func() any {
		return &Options{Mode: "level", Bias: "as-is", RatePer: "second", BufferReadings: 1000}
	},
	New: New,
	Discover: func(ctx context.Context, env sensors.Env) []sensors.Offer {
		return discover(ctx, devices{env.Root()})
	},
}

// counted matches the names that the kernel counts up in the order of probing.
var counted = regexp.MustCompile(`^(/dev/)?gpiochip\d+$`)

// New makes a sensor; d.Options is an *Options.
func New(d config.Sensor, env sensors.Env) (sensors.Sensor, error) {
	return newSensor(d, env, devices{env.Root()})
}

func newSensor(d config.Sensor, env sensors.Env, k kernel) (sensors.Sensor, error) {
	o, ok := d.Options.(*Options)
	if !ok {
		return nil, fmt.Errorf("internal error: gpio options are %T", d.Options)
	}
	if o.Line == "" {
		return nil, config.Problemf("line", "is missing; it is required here")
	}
	if counted.MatchString(o.Chip) {
		return nil, config.Problemf("chip", "%q holds a number that changes between boots; use the label that gpiodetect shows in brackets", o.Chip)
	}
	src := source{
		kernel: k, chip: o.Chip, name: o.Line, log: env.Log,
		want: request{
			consumer: consumer(d.Name), bias: o.Bias, activeLow: o.ActiveLow,
			debounce: config.Seconds(o.DebounceSeconds),
		},
	}
	if isNumber(o.Line) {
		n, err := strconv.ParseUint(o.Line, 10, 16)
		if err != nil {
			return nil, config.Problemf("line", "%q is more than any chip has", o.Line)
		}
		if o.Chip == "" {
			return nil, config.Problemf("chip", "is needed for the number of a line; or use the line's name, which gpioinfo shows")
		}
		src.name, src.offset = "", int(n)
	}
	if o.Mode == "level" {
		switch {
		case o.Edge != "":
			return nil, config.Problemf("edge", `is for mode = "edge" or "count"; change mode or remove it`)
		case o.DebounceSeconds != 0:
			return nil, config.Problemf("debounce_seconds", `is for mode = "edge" or "count"; change mode or remove it`)
		}
		return &levelSensor{holder{source: src}}, nil
	}
	switch o.Edge {
	case "rising", "falling", "both":
		src.want.rising, src.want.falling = o.Edge != "falling", o.Edge != "rising"
	case "":
		src.want.rising, src.want.falling = true, o.Mode == "edge"
	default:
		return nil, config.Problemf("edge", "%q is none of rising, falling, both", o.Edge)
	}
	switch o.Mode {
	case "edge":
		return &edgeSensor{source: src, perPoll: d.MaxReadingsPerPoll, edges: ring.New[event](o.BufferReadings)}, nil
	case "count":
		per, ok := rates[o.RatePer]
		if !ok {
			return nil, config.Problemf("rate_per", "%q is none of second, minute, hour", o.RatePer)
		}
		if d.Offset != 0 {
			return nil, config.Problemf("offset", "would be added to the rate too; remove it")
		}
		return &countSensor{holder: holder{source: src}, per: per.time, rateUnit: rateUnit(d.Unit, per.symbol)}, nil
	}
	return nil, config.Problemf("mode", "%q is none of level, edge, count", o.Mode)
}

// isNumber reports whether line is the number of a line rather than a name.
func isNumber(line string) bool { return line != "" && strings.Trim(line, "0123456789") == "" }

// rates are the values of rate_per.
var rates = map[string]struct {
	time   time.Duration
	symbol string
}{
	"second": {time.Second, "s"},
	"minute": {time.Minute, "min"},
	"hour":   {time.Hour, "h"},
}

func rateUnit(unit, per string) string {
	if unit == "" {
		unit = "1"
	}
	return unit + "/" + per
}

// consumerPrefix begins what the kernel shows as the holder of our lines.
const consumerPrefix = "pyvorin-edge:"

// consumer returns what the kernel is to show as the holder of the line of the
// named sensor, within the bytes that it keeps of it.
func consumer(sensor string) string {
	name := strings.ReplaceAll(consumerPrefix+sensor, "\x00", "")
	if len(name) <= maxConsumerBytes {
		return name
	}
	end := maxConsumerBytes
	for end > 0 && !utf8.RuneStart(name[end]) {
		end--
	}
	return name[:end]
}
