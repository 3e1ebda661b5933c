package sysfs

import (
	"errors"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/pyvorin/pyvorin-edge/wire"
)

func iioChip(entry string) (chip, bool) {
	// Triggers are in the same folder, but are no devices.
	if !strings.HasPrefix(filepath.Base(entry), "iio:device") {
		return chip{}, false
	}
	device := ""
	if real, err := filepath.EvalSymlinks(entry); err == nil {
		device = filepath.Dir(real)
	}
	name := attr(filepath.Join(entry, "name"))
	c := newChip(entry, device, name,
		attr(filepath.Join(entry, "label")),
		attr(filepath.Join(entry, "of_node/label")))
	if strings.HasPrefix(name, "dht11") { // the driver of DHT22 and others too
		c.again = dhtPause
	}
	return c, true
}

// dhtPause is how long a DHT22 needs between two transmissions. It misses one
// now and then, because the processor that times its pulses had other things to
// do, and the driver does not ask again by itself.
const dhtPause = 2 * time.Second

// iioAttr matches a channel's value: in_temp_input, in_voltage0_raw,
// in_voltage0-voltage1_raw, in_concentration_co2_raw.
var iioAttr = regexp.MustCompile(`^(in_([a-z]+)([0-9]*)[a-z0-9_-]*?)_(input|raw)$`)

func iioInputs(c chip) ([]input, error) {
	files, err := listDir(c.dir)
	if err != nil {
		return nil, err
	}
	var out []input
	for _, file := range files { // sorted, so _input comes before _raw
		m := iioAttr.FindStringSubmatch(file)
		if m == nil {
			continue
		}
		name, letters, index, form := m[1], m[2], m[3], m[4]
		q, ok := iioQuantities[letters]
		if !ok || slices.ContainsFunc(out, func(in input) bool { return in.name == name }) {
			continue
		}
		path := filepath.Join(c.dir, file)
		in := input{name: name, quantity: q, label: c.attr(name + "_label"), path: path}
		if in.label == "" && index != "" {
			in.label = c.attr("rail_name_" + index) // INA3221 of older Jetson kernels
		}
		if form == "input" {
			in.read = numberReader(path, q)
		} else if in.read, ok = rawReader(c, name, letters, q); !ok {
			in.quantity.unit = "" // counts of the converter
		}
		out = append(out, in)
	}
	return out, nil
}

func numberReader(path string, q quantity) func() (wire.Value, error) {
	return func() (wire.Value, error) {
		f, err := readNumber(path)
		if err != nil {
			return wire.Value{}, err
		}
		return wire.NumberValue(q.convert(f)), nil
	}
}

// rawReader computes (raw + offset) * scale, as the IIO ABI has it: the offset
// comes first. Without a scale the raw number is all there is, and ok is false.
func rawReader(c chip, name, letters string, q quantity) (read func() (wire.Value, error), ok bool) {
	scalePath := c.shared(name, letters, "_scale")
	if scalePath == "" {
		return numberReader(filepath.Join(c.dir, name+"_raw"), quantity{}), false
	}
	offsetPath := c.shared(name, letters, "_offset")
	return func() (wire.Value, error) {
		raw, err := readNumber(filepath.Join(c.dir, name+"_raw"))
		if err != nil {
			return wire.Value{}, err
		}
		scale, err := readNumber(scalePath)
		if err != nil {
			return wire.Value{}, err
		}
		offset := 0.0
		if offsetPath != "" {
			// Gone since it was listed is the driver leaving, not an offset of 0.
			if offset, err = readNumber(offsetPath); err != nil {
				return wire.Value{}, err
			}
		}
		v := wire.NumberValue(q.convert((raw + offset) * scale))
		if v.Kind() == wire.None {
			return v, errors.New("scaled value is not finite")
		}
		return v, nil
	}, true
}

// shared returns the attribute that applies to a channel: its own, that of a
// less specific channel (in_voltage0-voltage1 -> in_voltage-voltage,
// in_accel_x -> in_accel), or that of all of its kind. "" when there is none.
func (c chip) shared(name, letters, suffix string) string {
	candidates := []string{name}
	if strings.Contains(name, "-") {
		candidates = append(candidates, "in_"+letters+"-"+letters)
	}
	for i := strings.LastIndexByte(name, '_'); i > len("in"); i = strings.LastIndexByte(name[:i], '_') {
		candidates = append(candidates, name[:i])
	}
	candidates = append(candidates, "in_"+letters)
	for _, candidate := range candidates {
		if path := filepath.Join(c.dir, candidate+suffix); exists(path) {
			return path
		}
	}
	return ""
}
