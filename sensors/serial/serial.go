// Package serial is the ingest type "serial": it listens on a serial port and
// makes readings of the lines that a device sends (scales, meters, barcode
// scanners, microcontrollers) or of the NMEA sentences of a GPS receiver.
//
// The parties are Run, the only one that touches the port: it keeps others off
// it, opens it, writes the request where there is one, splits what comes into
// lines, and opens it again when the device was unplugged and came back under
// the same name; the framing, which makes values of the lines; and Read, which
// takes what gathered in between and says what is wrong when nothing of use did.
//
// Everything is bounded: the length of a line, and the number of readings that
// wait, of which the oldest are dropped and counted. Nothing that came over the
// port is in an error, a reason or the log. Nothing is kept on disk: a power cut
// loses what was not yet read.
package serial

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"go.bug.st/serial"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/sensors/internal/ring"
)

// Options are the config keys of a serial sensor.
type Options struct {
	Device         string  `toml:"device" required:"true" doc:"Absolute path of the port: best one below /dev/serial/by-id, because ttyUSB0 may be another device after a reboot."`
	BaudRate       int     `toml:"baud_rate" min:"50" max:"4000000" doc:"Speed, as the device's manual has it. A port may quietly take another when it cannot do this one."`
	DataBits       int     `toml:"data_bits" min:"5" max:"8" doc:"Bits of a character."`
	Parity         string  `toml:"parity" enum:"none,odd,even,mark,space" doc:"Parity bit of a character."`
	StopBits       int     `toml:"stop_bits" min:"1" max:"2" doc:"Stop bits of a character."`
	Framing        string  `toml:"framing" enum:"line,nmea" doc:"What comes: line for lines of text, nmea for the sentences of a GPS receiver."`
	Regex          string  `toml:"regex" doc:"line: takes the first group, or the whole match; named groups become channels. Lines that it does not match are left out. Empty takes the whole line."`
	AsText         bool    `toml:"as_text" doc:"line: true keeps texts that look like numbers as they are, such as barcodes."`
	Request        string  `toml:"request" doc:"line: is written to the device once an interval, for those that answer on demand, such as \"SI\\r\\n\"."`
	MaxLineBytes   int     `toml:"max_line_bytes" min:"16" max:"32768" doc:"A longer line is dropped and counted."`
	BufferReadings int     `toml:"buffer_readings" min:"1" max:"100000" doc:"line: readings held until they are polled; beyond that the oldest are dropped and counted."`
	SilenceSeconds float64 `toml:"silence_seconds" min:"0" max:"31536000" doc:"When nothing came for this long, and for three intervals, reads fail. 0 is off: for devices that speak only when something happens."`
}

// Type is the ingest type "serial".
var Type = sensors.Type{
	Name: "serial",
	Doc:  "A serial port: lines of scales, meters and microcontrollers, or the NMEA sentences of a GPS.",
	Options: func() any {
		return &Options{
			BaudRate: 9600, DataBits: 8, Parity: "none", StopBits: 1,
			Framing: "line", MaxLineBytes: 1024, BufferReadings: 1000, SilenceSeconds: 60,
		}
	},
	New:      New,
	Discover: discover,
}

const (
	// minPatience is how long a device may send what is of no use before that
	// is a failure: some tell much else between two values.
	minPatience = 15 * time.Second

	// maxRequestBytes bounds what is written at once, so that it always fits
	// into the buffer of the port.
	maxRequestBytes = 256
)

// framing makes values of lines. Its methods are called with the sensor's lock
// held.
type framing interface {
	// line takes one that is not empty and came at now. It reports whether the
	// line was of use.
	line(line []byte, now time.Time) bool

	// take returns what gathered since the last call, how many samples a bound
	// has cost, and what is wrong although something of use came.
	take() (samples []sensors.Sample, dropped sensors.Dropped, err error)

	// complaint says why no line was of use since the last one that was; lines
	// tells how many came.
	complaint(lines string) error
}

// sensor is a sensors.Listener.
type sensor struct {
	o        Options
	name     string
	path     string // of the device, below the root
	mode     serial.Mode
	interval time.Duration
	patience time.Duration
	silence  time.Duration // 0 is off
	reopen   time.Duration // between two tries to open the port
	settle   time.Duration // from the first useful line of a port to when all channels have come by
	log      zerolog.Logger

	mu      sync.Mutex
	framing framing
	link    error // why the port is not open; nil while it is, and before the first try
	heard   heard
	stopped bool // Run has returned
}

// counted matches the names that the kernel gives in the order of plugging in.
var counted = regexp.MustCompile(`^/dev/tty(USB|ACM)\d+$`)

var parities = map[string]serial.Parity{
	"none": serial.NoParity, "odd": serial.OddParity, "even": serial.EvenParity,
	"mark": serial.MarkParity, "space": serial.SpaceParity,
}

var stopBits = map[int]serial.StopBits{1: serial.OneStopBit, 2: serial.TwoStopBits}

// New makes a sensor; d.Options is an *Options.
func New(d config.Sensor, env sensors.Env) (sensors.Sensor, error) {
	o, ok := d.Options.(*Options)
	if !ok {
		return nil, fmt.Errorf("internal error: serial options are %T", d.Options)
	}
	if !filepath.IsAbs(o.Device) {
		return nil, config.Problemf("device", "must be an absolute path, such as one below /dev/serial/by-id")
	}
	interval := config.Seconds(d.PollIntervalSeconds)
	s := &sensor{
		o: *o, name: d.Name,
		path: filepath.Join(env.Root(), o.Device),
		mode: serial.Mode{
			BaudRate: o.BaudRate, DataBits: o.DataBits,
			Parity: parities[o.Parity], StopBits: stopBits[o.StopBits],
		},
		interval: interval,
		patience: max(minPatience, 3*interval),
		reopen:   reopenGap,
		log:      env.Log,
	}
	if o.SilenceSeconds > 0 {
		s.silence = max(config.Seconds(o.SilenceSeconds), 3*interval)
	}
	switch o.Framing {
	case "line":
		if len(o.Request) > maxRequestBytes {
			return nil, config.Problemf("request", "is longer than %d bytes", maxRequestBytes)
		}
		lines := &lineFraming{
			asText: o.AsText, maxTextBytes: d.MaxTextBytes, baudRate: o.BaudRate,
			samples: ring.New[sensors.Sample](o.BufferReadings), perPoll: d.MaxReadingsPerPoll,
		}
		if o.Regex != "" {
			re, err := regexp.Compile(o.Regex)
			if err != nil {
				return nil, config.Problemf("regex", "%v", err)
			}
			lines.regex = re
		}
		s.framing = lines
	case "nmea":
		if o.Regex != "" || o.Request != "" || o.AsText {
			return nil, config.Problemf("framing", `must be "line" for regex, request and as_text`)
		}
		s.framing = &gps{baudRate: o.BaudRate}
		s.settle = min(gpsCycle, config.Seconds(d.TimeoutSeconds)/2)
	default:
		return nil, config.Problemf("framing", "%q is none of line, nmea", o.Framing)
	}
	return s, nil
}

// Read takes what gathered since the last one. It fails when the port is not
// open, when nothing of use came for too long, and when a bound has cost
// something.
func (s *sensor) Read(context.Context) ([]sensors.Sample, error) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	var problems []error
	failed := func(err error) {
		if err != nil {
			problems = append(problems, fmt.Errorf("port %s: %w", s.o.Device, err))
		}
	}
	if s.link != nil {
		failed(s.link)
	} else {
		failed(s.complaint(now))
	}
	cost := lost{tooLong: s.heard.tooLong}
	s.heard.tooLong = 0
	var samples []sensors.Sample
	if s.settled(now) {
		var err error
		samples, cost.buffered, err = s.framing.take()
		failed(err)
	}
	if cost.buffered+cost.tooLong > 0 {
		problems = append(problems, cost)
	}
	return samples, errors.Join(problems...)
}
