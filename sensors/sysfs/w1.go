package sysfs

import (
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/pyvorin/pyvorin-edge/wire"
)

// errUnbelievable marks a value that was read well and yet is not a
// measurement.
var errUnbelievable = errors.New("not a measurement")

// w1Models are the thermometers by their family code.
var w1Models = map[string]string{
	"10": "DS18S20", "22": "DS1822", "28": "DS18B20", "3b": "DS1825 or MAX31850", "42": "DS28EA00",
}

// w1Device matches a family code and a serial number, which stays with the
// probe for life.
var w1Device = regexp.MustCompile(`^([0-9a-f]{2})-[0-9a-f]{12}$`)

func w1Chip(entry string) (chip, bool) {
	base := filepath.Base(entry)
	m := w1Device.FindStringSubmatch(base)
	if m == nil || w1Models[m[1]] == "" {
		return chip{}, false
	}
	return newChip(entry, "", base), true
}

func w1Inputs(c chip) ([]input, error) {
	path := filepath.Join(c.dir, "w1_slave")
	read := func() (wire.Value, error) { return readW1Slave(path) }
	if !exists(path) {
		path = filepath.Join(c.dir, "temperature")
		read = func() (wire.Value, error) {
			f, err := readNumber(path)
			if err != nil {
				return wire.Value{}, err
			}
			return believed(f, nil)
		}
	}
	return []input{{name: "temp", quantity: celsius, path: path, read: read}}, nil
}

// readW1Slave reads the two lines that the driver makes of the scratchpad:
//
//	72 01 4b 46 7f ff 0e 10 57 : crc=57 YES
//	72 01 4b 46 7f ff 0e 10 57 t=23125
//
// It takes as long as the conversion, up to 750 ms.
func readW1Slave(path string) (wire.Value, error) {
	text, err := readText(path)
	if err != nil {
		return wire.Value{}, err
	}
	first, second, _ := strings.Cut(text, "\n")
	switch {
	case strings.HasSuffix(strings.TrimSpace(first), " NO"):
		return wire.Value{}, fmt.Errorf("%w: CRC error on the wire; check its length, the pull-up and the power", errUnbelievable)
	case !strings.HasSuffix(strings.TrimSpace(first), " YES"):
		return wire.Value{}, fmt.Errorf("%s: no CRC line in it", path)
	}
	pad := scratchpad(first)
	if pad != nil && !slices.ContainsFunc(pad, func(b byte) bool { return b != 0 }) {
		// The CRC of nothing but zeros is zero.
		return wire.Value{}, fmt.Errorf("%w: every bit is 0; the data wire is shorted to ground", errUnbelievable)
	}
	_, t, ok := strings.Cut(second, "t=")
	if !ok {
		return wire.Value{}, fmt.Errorf("%s: no temperature in it", path)
	}
	f, err := parseNumber(strings.TrimSpace(t))
	if err != nil {
		return wire.Value{}, fmt.Errorf("%s: %w", path, err)
	}
	return believed(f, pad)
}

// scratchpad returns the nine bytes of the probe's memory that line begins
// with, or nil.
func scratchpad(line string) []byte {
	digits, _, _ := strings.Cut(line, ":")
	pad, err := hex.DecodeString(strings.Join(strings.Fields(digits), ""))
	if err != nil || len(pad) != 9 {
		return nil
	}
	return pad
}

// notConverted is what byte 6 of the scratchpad holds from the power-on to the
// first conversion. A conversion that gives 85.000 °C leaves 0x10 there in a
// genuine DS18B20, but copies of it never change the byte.
const notConverted = 0x0c

// believed refuses the two values that a DS18B20 holds when it has not
// converted: 85 °C after a power-on, 127.937 °C, which is beyond its range,
// when the power did not suffice. 85 °C passes where the scratchpad proves a
// conversion; a copy that does measure 85.000 °C loses that one step.
func believed(milli float64, pad []byte) (wire.Value, error) {
	v := wire.NumberValue(celsius.convert(milli))
	switch {
	case milli == 85000 && (pad == nil || pad[6] == notConverted):
		return v, fmt.Errorf("%w: the value after a power-on; the probe lost power before it converted", errUnbelievable)
	case milli == 127937:
		return v, fmt.Errorf("%w: the value of a conversion without enough power; use three wires or a stronger pull-up", errUnbelievable)
	}
	return v, nil
}
