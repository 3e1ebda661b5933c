// Package modbus is the ingest type "modbus": it reads registers of meters,
// inverters and controllers over TCP, over a serial line (RTU), or over a TCP
// connection to something that passes the bytes to a serial line.
//
// The parties are the sensor, which knows which values of one unit are wanted;
// its plan, which reads neighbouring registers in one request and learns which
// of them the unit does not like to be asked for together; and the bus, the one
// serial port or connection that all sensors with the same url share, one
// request at a time.
//
// An answer never becomes the value of another request. Modbus over TCP numbers
// its requests; on a serial line only the order tells answers apart, so after
// any failure the line is left alone for as long as an answer may take, and
// what comes in that time is thrown away. A unit that answers with an exception
// costs only the values it was asked for. Connections that a gateway closed
// between two polls are opened again without a failed read. Nothing is ever
// written to a unit, and nothing is kept on disk.
package modbus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// Options are the config keys of a modbus sensor.
type Options struct {
	URL       string     `toml:"url" required:"true" doc:"tcp://host:502, rtu:///dev/serial/by-id/NAME, or rtuovertcp://host:port for a serial line behind a converter that only passes bytes on. Sensors with the same url share it."`
	UnitID    int        `toml:"unit_id" min:"0" max:"255" doc:"Address of the device on the bus, also called slave id. On a serial line 1 to 247."`
	Register  string     `toml:"register" enum:"holding,input,coil,discrete" doc:"Which kind of register; also the default of registers."`
	Address   *int       `toml:"address" min:"0" max:"65535" doc:"Register of the only value, counted from 0: holding register 40001 of a manual is address 0, input register 30006 is 5."`
	DataType  string     `toml:"data_type" doc:"bool, int16, uint16, int32, uint32, int64, uint64, float32, float64, or string(N) for N characters; also the default of registers. Empty means uint16, and bool for coil and discrete."`
	Bit       *int       `toml:"bit" min:"0" max:"15" doc:"bool: which bit of the register, 0 being the lowest; without it any value but 0 is true."`
	ByteOrder string     `toml:"byte_order" enum:"big,little" doc:"Order of the two bytes in a register; also the default of registers."`
	WordOrder string     `toml:"word_order" enum:"big,little" doc:"Order of the registers of a longer number: big has the high one first. Also the default of registers."`
	Registers []Register `toml:"registers" max_items:"256" doc:"Several values of the unit instead of one, each a channel."`

	MaxGap                 int     `toml:"max_gap" min:"0" max:"124" doc:"Values are read in one request when no more than this many unused registers lie between them."`
	ResponseTimeoutSeconds float64 `toml:"response_timeout_seconds" min:"0" max:"60" doc:"How long a unit may take to begin its answer; 0 means 0.5 with rtu and 1 otherwise, and less when timeout_seconds is short."`
	Retries                int     `toml:"retries" min:"0" max:"10" doc:"How often a request is sent again when no answer came or a damaged one, as long as timeout_seconds allows."`
	PauseBetweenSeconds    float64 `toml:"pause_between_seconds" min:"0" max:"10" doc:"Silence on the bus before each request; of several sensors on it, the longest counts."`

	BaudRate int    `toml:"baud_rate" doc:"rtu, rtuovertcp: speed of the serial line. All sensors of a line must give the same, here and below."`
	DataBits int    `toml:"data_bits" min:"7" max:"8" doc:"rtu: bits of a character."`
	Parity   string `toml:"parity" enum:"none,even,odd" doc:"rtu: parity of a character."`
	StopBits int    `toml:"stop_bits" min:"1" max:"2" doc:"rtu: stop bits of a character."`
}

// Register is one entry of registers.
type Register struct {
	Channel    string  `toml:"channel" required:"true" doc:"Name of the value; the reading's name is sensor.channel."`
	Register   string  `toml:"register" enum:"holding,input,coil,discrete" doc:"Which kind of register; empty takes the sensor's."`
	Address    int     `toml:"address" required:"true" min:"0" max:"65535" doc:"Its first register, counted from 0."`
	DataType   string  `toml:"data_type" doc:"As the sensor's; empty takes that."`
	Bit        *int    `toml:"bit" min:"0" max:"15" doc:"bool: which bit of the register."`
	ByteOrder  string  `toml:"byte_order" enum:"big,little" doc:"Empty takes the sensor's."`
	WordOrder  string  `toml:"word_order" enum:"big,little" doc:"Empty takes the sensor's."`
	Scale      float64 `toml:"scale" doc:"The number is multiplied by this, before the sensor's own reject_values, scale and offset."`
	Unit       string  `toml:"unit" doc:"Unit of the value; empty takes the sensor's."`
	SensorType string  `toml:"sensor_type" doc:"What it measures; empty takes the sensor's."`
}

// SetDefaults fills in what the table of a register leaves out.
func (r *Register) SetDefaults() { *r = Register{Scale: 1} }

// Type is the ingest type "modbus".
var Type = sensors.Type{
	Name: "modbus",
	Doc:  "Registers of meters, inverters and controllers: Modbus TCP, RTU, RTU over TCP.",
	Options: func() any {
		return &Options{
			UnitID: 1, Register: "holding", ByteOrder: "big", WordOrder: "big",
			MaxGap: 8, Retries: 1,
			BaudRate: 9600, DataBits: 8, Parity: "none", StopBits: 1,
		}
	},
	New: New,
	Bus: func(d config.Sensor) string {
		if o, ok := d.Options.(*Options); ok {
			if a, err := parseAddress(o.URL); err == nil {
				return "modbus:" + a.String()
			}
		}
		return ""
	},
}

// maxRefusals is how many requests are divided in one read while the unit gives
// nothing at all: it may be starting, or be another device than was meant.
const maxRefusals = 16

// sensor reads the values of one unit.
type sensor struct {
	bus     *bus
	unit    uint8
	retries int
	plan    []*block
	joined  bool // it counts among the users of the bus
}

// New makes a sensor; d.Options is an *Options.
func New(d config.Sensor, env sensors.Env) (sensors.Sensor, error) {
	o, ok := d.Options.(*Options)
	if !ok {
		return nil, fmt.Errorf("internal error: modbus options are %T", d.Options)
	}
	a, err := parseAddress(o.URL)
	if err != nil {
		return nil, config.Problemf("url", "%v", err)
	}
	if a.onSerialLine() && (o.UnitID < 1 || o.UnitID > 247) {
		return nil, config.Problemf("unit_id", "%d is no address of a unit on a serial line; those are 1 to 247", o.UnitID)
	}
	if a.onSerialLine() && !slices.Contains(baudRates, o.BaudRate) {
		return nil, config.Problemf("baud_rate", "%d is not one of %v", o.BaudRate, baudRates)
	}
	values, err := o.values()
	if err != nil {
		return nil, err
	}
	plan := newPlan(values, o.MaxGap)
	timeout, err := o.responseTimeout(a, plan, config.Seconds(d.TimeoutSeconds))
	if err != nil {
		return nil, err
	}
	b := env.Shared.Get("modbus:"+a.String(), func() any { return newBus(a) }).(*bus)
	if err := b.admit(d.Name, *o, timeout, env.Log); err != nil {
		return nil, err
	}
	return &sensor{bus: b, unit: uint8(o.UnitID), retries: o.Retries, plan: plan}, nil
}

// responseTimeout returns how long to wait for the longest answer of the plan,
// so that the wait ends before the poller's does.
func (o *Options) responseTimeout(a address, plan []*block, limit time.Duration) (time.Duration, error) {
	const share, step = 0.8, 10 * time.Millisecond
	t := time.Second
	if a.scheme == schemeRTU {
		t = 500 * time.Millisecond
	}
	chosen := o.ResponseTimeoutSeconds > 0
	if chosen {
		t = config.Seconds(o.ResponseTimeoutSeconds)
	}
	if chosen && limit > 0 && t >= limit {
		return 0, config.Problemf("response_timeout_seconds", "is not less than the %g s that a read may take; lower it, or raise timeout_seconds or the interval", limit.Seconds())
	}
	if a.onSerialLine() {
		longest := 0
		for _, b := range plan {
			longest = max(longest, b.wireBytes())
		}
		t += time.Duration(longest) * bitsPerByte * time.Second / time.Duration(o.BaudRate)
	}
	if limit > 0 {
		t = min(t, time.Duration(share*float64(limit)))
	}
	return max(t.Round(step), step), nil
}

// Read asks for all values. One that the unit refuses is a bad sample; when
// the unit does not answer at all, that is the error and nothing else is tried.
func (s *sensor) Read(ctx context.Context) ([]sensors.Sample, error) {
	if !s.joined {
		s.joined = true
		s.bus.join()
	}
	// What got no answer the last time comes last. A unit that is silent about
	// some of its registers is then heard before they are asked for, and one
	// that is silent altogether is given up after the first request.
	slices.SortStableFunc(s.plan, func(a, b *block) int { return rank(a.silent) - rank(b.silent) })
	var samples []sensors.Sample
	plan := slices.Clone(s.plan)
	heard, gave, refusals := false, false, 0
	defer func() {
		if gave { // what was learned stays learned, also when time ran out
			s.plan = plan
		}
	}()
	for i := 0; i < len(plan); i++ {
		b := plan[i]
		data, err := s.bus.request(ctx, s.unit, b.query, s.retries)
		if ctx.Err() != nil {
			return samples, fmt.Errorf("stopped before all registers were read: %w", ctx.Err())
		}
		var refused exception
		wasRefused := errors.As(err, &refused)
		b.silent = err != nil && !wasRefused
		if b.silent && !heard {
			return nil, err
		}
		heard = heard || !b.silent
		if wasRefused && refused.isOfAddress() && len(b.values) > 1 && (gave || refusals < maxRefusals) {
			// The halves come last: whether the unit gives anything at all is
			// known before they are divided further.
			refusals++
			first, second := b.split()
			plan = append(slices.Delete(plan, i, i+1), first, second)
			i--
			continue
		}
		gave = gave || err == nil
		for _, v := range b.values {
			if err == nil {
				samples = append(samples, v.sample(v.from(data, b.query)))
			} else {
				samples = append(samples, v.sample(wire.Value{}, wire.Bad, err.Error()))
			}
		}
	}
	return samples, nil
}

// Close gives up the bus, which the last of its sensors closes.
func (s *sensor) Close() error {
	if s.joined {
		s.joined = false
		s.bus.part()
	}
	return nil
}

func rank(last bool) int {
	if last {
		return 1
	}
	return 0
}

// values returns what the config wants to be read.
func (o *Options) values() ([]value, error) {
	if len(o.Registers) == 0 {
		if o.Address == nil {
			return nil, config.Problemf("address", "is missing; give it for one value, or registers for several")
		}
		v, err := newValue(Register{
			Register: o.Register, Address: *o.Address, DataType: o.DataType, Bit: o.Bit,
			ByteOrder: o.ByteOrder, WordOrder: o.WordOrder, Scale: 1,
		})
		return []value{v}, err
	}
	if o.Address != nil {
		return nil, config.Problemf("address", "belongs into the entries of registers; remove it here")
	}
	if o.Bit != nil {
		return nil, config.Problemf("bit", "belongs into the entries of registers; remove it here")
	}
	var values []value
	channels := map[string]bool{}
	for i, r := range o.Registers {
		key := fmt.Sprintf("registers[%d]", i)
		if channels[r.Channel] {
			return nil, config.Problemf(key+".channel", "another register has this channel: readings could not be told apart")
		}
		channels[r.Channel] = true
		v, err := newValue(o.inherit(r))
		if err != nil {
			return nil, config.Under(key, err)
		}
		values = append(values, v)
	}
	return values, nil
}

// inherit returns r with the sensor's defaults where it says nothing.
func (o *Options) inherit(r Register) Register {
	if r.Register == "" {
		r.Register = o.Register
	}
	if r.DataType == "" && !isBit(r.Register) {
		r.DataType = o.DataType
	}
	if r.ByteOrder == "" {
		r.ByteOrder = o.ByteOrder
	}
	if r.WordOrder == "" {
		r.WordOrder = o.WordOrder
	}
	return r
}
