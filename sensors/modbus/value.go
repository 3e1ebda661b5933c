package modbus

import (
	"encoding/binary"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// Most of what one request may ask for (Modbus application protocol 1.1b3).
const (
	maxRegisters = 125
	maxBits      = 2000
)

// maxTextBytes is what fits into one request.
const maxTextBytes = 2 * maxRegisters

// value is one configured value: where it is, and what its bits mean.
type value struct {
	channel          string
	kind             string // of register, as in config
	address, count   int
	dataType         string // without the length of a string
	bit              int    // of a bool in a register; -1 is any
	characters       int    // of a string
	lowByteFirst     bool
	lowRegisterFirst bool
	scale            float64
	unit, sensorType string
}

// registersOf tells how many registers a number takes.
var registersOf = map[string]int{
	"bool": 1, "int16": 1, "uint16": 1, "int32": 2, "uint32": 2, "float32": 2, "int64": 4, "uint64": 4, "float64": 4,
}

// isBit reports whether registers of this kind hold one bit, not sixteen.
func isBit(kind string) bool { return kind == "coil" || kind == "discrete" }

// newValue makes a value of its config.
func newValue(r Register) (value, error) {
	v := value{
		channel: r.Channel, kind: r.Register, address: r.Address, dataType: r.DataType, bit: -1,
		lowByteFirst: r.ByteOrder == "little", lowRegisterFirst: r.WordOrder == "little",
		scale: r.Scale, unit: r.Unit, sensorType: r.SensorType,
	}
	if v.dataType == "" {
		v.dataType = "uint16"
		if isBit(v.kind) || r.Bit != nil {
			v.dataType = "bool"
		}
	}
	if length, ok := strings.CutPrefix(v.dataType, "string("); ok {
		n, err := strconv.Atoi(strings.TrimSuffix(length, ")"))
		if err != nil || !strings.HasSuffix(length, ")") || n < 1 || n > maxTextBytes {
			return v, config.Problemf("data_type", "%q has no length from 1 to %d; write string(16) for 16 characters", r.DataType, maxTextBytes)
		}
		v.dataType, v.characters, v.count = "string", n, (n+1)/2
	} else {
		v.count = registersOf[v.dataType]
	}
	if r.Bit != nil {
		v.bit = *r.Bit
	}
	switch {
	case v.dataType == "string" && v.characters == 0:
		return v, config.Problemf("data_type", "a string needs its length; write string(16) for 16 characters")
	case v.count == 0:
		return v, config.Problemf("data_type", "%q is none of bool, int16, uint16, int32, uint32, int64, uint64, float32, float64, string(N)", r.DataType)
	case isBit(v.kind) && v.dataType != "bool":
		return v, config.Problemf("data_type", "a %s holds one bit; remove it or write bool", v.kind)
	case r.Bit != nil && v.dataType != "bool":
		return v, config.Problemf("bit", "needs data_type bool")
	case r.Bit != nil && isBit(v.kind):
		return v, config.Problemf("bit", "a %s holds only one; remove it", v.kind)
	case v.address+v.count > 1<<16:
		return v, config.Problemf("address", "the value reaches beyond the last register, 65535")
	case v.scale == 0 || math.IsNaN(v.scale) || math.IsInf(v.scale, 0):
		return v, config.Problemf("scale", "%g leaves nothing of a value", v.scale)
	case v.scale != 1 && (v.dataType == "bool" || v.dataType == "string"):
		return v, config.Problemf("scale", "needs a number; a %s is none", v.dataType)
	}
	return v, nil
}

func (v value) end() int { return v.address + v.count }

// sample returns the sample of what was read or of why nothing was.
func (v value) sample(read wire.Value, q wire.Quality, why string) sensors.Sample {
	return sensors.Sample{Channel: v.channel, Value: read, Type: v.sensorType, Unit: v.unit, Quality: q, Reason: why}
}

// from decodes the value from the answer to q, which covers it. The quality is
// empty when it is good.
func (v value) from(a answer, q query) (read wire.Value, quality wire.Quality, why string) {
	at := v.address - q.address
	if isBit(v.kind) {
		return wire.BoolValue(a.bits[at]), "", ""
	}
	raw := slices.Clone(a.registers[2*at : 2*(at+v.count)])
	if v.lowByteFirst {
		for i := 0; i < len(raw); i += 2 {
			raw[i], raw[i+1] = raw[i+1], raw[i]
		}
	}
	if v.lowRegisterFirst && v.dataType != "string" {
		for i, j := 0, len(raw)-2; i < j; i, j = i+2, j-2 {
			raw[i], raw[i+1], raw[j], raw[j+1] = raw[j], raw[j+1], raw[i], raw[i+1]
		}
	}
	return v.decode(raw)
}

// decode reads raw, whose first byte is the highest.
func (v value) decode(raw []byte) (read wire.Value, quality wire.Quality, why string) {
	switch v.dataType {
	case "bool":
		mask := uint16(math.MaxUint16)
		if v.bit >= 0 {
			mask = 1 << v.bit
		}
		return wire.BoolValue(binary.BigEndian.Uint16(raw)&mask != 0), "", ""
	case "string":
		text, _, _ := strings.Cut(string(raw[:v.characters]), "\x00")
		return wire.TextValue(strings.TrimRight(text, " ")), "", ""
	case "int16":
		return v.number(float64(int16(binary.BigEndian.Uint16(raw))))
	case "uint16":
		return v.number(float64(binary.BigEndian.Uint16(raw)))
	case "int32":
		return v.number(float64(int32(binary.BigEndian.Uint32(raw))))
	case "uint32":
		return v.number(float64(binary.BigEndian.Uint32(raw)))
	case "float32":
		// The shortest decimal that is this float32 is what the unit meant:
		// 230.1, not 230.10000610351562.
		f := math.Float32frombits(binary.BigEndian.Uint32(raw))
		shortest, err := strconv.ParseFloat(strconv.FormatFloat(float64(f), 'g', -1, 32), 64)
		if err != nil {
			shortest = float64(f)
		}
		return v.number(shortest)
	case "float64":
		return v.number(math.Float64frombits(binary.BigEndian.Uint64(raw)))
	}
	n := binary.BigEndian.Uint64(raw)
	f, magnitude := float64(n), n
	if v.dataType == "int64" {
		f = float64(int64(n))
		if int64(n) < 0 {
			magnitude = -n
		}
	}
	read, quality, why = v.number(f)
	if quality == "" && bits.Len64(magnitude)-bits.TrailingZeros64(magnitude) > 53 {
		return read, wire.Uncertain, "rounded: a reading holds whole numbers up to 2^53 exactly"
	}
	return read, quality, why
}

// number is f times the scale.
func (v value) number(f float64) (read wire.Value, quality wire.Quality, why string) {
	switch {
	case math.IsNaN(f):
		return wire.Value{}, wire.Bad, "the register holds NaN: the unit has no value now, or data_type or an order is wrong"
	case math.IsInf(f, 0):
		return wire.Value{}, wire.Bad, "the register holds an infinite number: data_type or an order may be wrong"
	case math.IsInf(f*v.scale, 0):
		return wire.Value{}, wire.Bad, "not finite after scale"
	}
	return wire.NumberValue(f * v.scale), "", ""
}
