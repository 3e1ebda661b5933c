package sysfs

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/pyvorin/pyvorin-edge/wire"
)

// errUnbelievable marks a value that was read well and yet is not a
// measurement.
var errUnbelievable = errors.New("not a measurement")

// w1Device matches the family codes of the thermometers and a serial number,
// which stays with the probe for life.
var w1Device = regexp.MustCompile(`^(10|22|28|3b|42)-[0-9a-f]{12}$`)

func w1Chip(entry string) (chip, bool) {
	base := filepath.Base(entry)
	if !w1Device.MatchString(base) {
		return chip{}, false
	}
	return newChip(entry, "", base), true
}

func w1Inputs(c chip) ([]input, error) {
	read := func() (wire.Value, error) { return readW1Slave(filepath.Join(c.dir, "w1_slave")) }
	if !exists(filepath.Join(c.dir, "w1_slave")) {
		read = func() (wire.Value, error) {
			f, err := readNumber(filepath.Join(c.dir, "temperature"))
			if err != nil {
				return wire.Value{}, err
			}
			return believed(f)
		}
	}
	return []input{{name: "temp", quantity: celsius, read: read}}, nil
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
	_, t, ok := strings.Cut(second, "t=")
	if !ok {
		return wire.Value{}, fmt.Errorf("%s: no temperature in it", path)
	}
	f, err := parseNumber(strings.TrimSpace(t))
	if err != nil {
		return wire.Value{}, fmt.Errorf("%s: %w", path, err)
	}
	return believed(f)
}

// believed refuses the two values that a DS18B20 holds when it has not
// converted: 85 °C after a power-on, 127.937 °C when the power did not
// suffice. A probe that does measure 85.000 °C loses that one step.
func believed(milli float64) (wire.Value, error) {
	v := wire.NumberValue(celsius.convert(milli))
	switch milli {
	case 85000:
		return v, fmt.Errorf("%w: the value after a power-on; the probe lost power before it converted", errUnbelievable)
	case 127937:
		return v, fmt.Errorf("%w: the value of a conversion without enough power; use three wires or a stronger pull-up", errUnbelievable)
	}
	return v, nil
}
