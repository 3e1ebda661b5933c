package sysfs

import (
	"cmp"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/pyvorin/pyvorin-edge/wire"
)

func hwmonChip(entry string) (chip, bool) {
	device := filepath.Join(entry, "device")
	dir := entry
	if !exists(filepath.Join(dir, "name")) && exists(filepath.Join(device, "name")) {
		dir = device // drivers from before 2013 keep their attributes there
	}
	c := newChip(dir, device,
		attr(filepath.Join(dir, "name")),
		attr(filepath.Join(dir, "label")),
		attr(filepath.Join(device, "of_node/label")))
	return c, len(c.ids) > 0 || c.device != ""
}

var hwmonAttr = regexp.MustCompile(`^((temp|in|curr|power|energy|humidity|fan)([0-9]+))_(input|average)$`)

// hwmonAlarm matches what tells of a limit that was crossed, such as the
// under-voltage of a Raspberry Pi's supply (in0_lcrit_alarm).
var hwmonAlarm = regexp.MustCompile(`^(?:temp|in|curr|power|energy|humidity|fan)[0-9]+_(?:[a-z]+_)?alarm$`)

// ina3221Shunt matches the inputs of an INA3221 that are the voltages of its
// shunts, and their sum.
var ina3221Shunt = regexp.MustCompile(`^in[4-7]$`)

func hwmonInputs(c chip) ([]input, error) {
	files, err := listDir(c.dir)
	if err != nil {
		return nil, err
	}
	chipName := c.attr("name")
	var out []input
	for _, file := range files {
		path := filepath.Join(c.dir, file)
		if hwmonAlarm.MatchString(file) {
			out = append(out, input{name: file, quantity: alarm, path: path, read: alarmReader(path)})
			continue
		}
		m := hwmonAttr.FindStringSubmatch(file)
		if m == nil {
			continue
		}
		name, q := m[1], hwmonQuantities[m[2]]
		if m[4] == "average" && slices.Contains(files, name+"_input") {
			continue // the momentary value is the one to have
		}
		label, enable := c.attr(name+"_label"), c.attr(name+"_enable")
		if m[2] == "curr" {
			// An INA3221 labels and switches a rail once, at its voltage.
			label = cmp.Or(label, c.attr("in"+m[3]+"_label"))
			enable = cmp.Or(enable, c.attr("in"+m[3]+"_enable"))
		}
		if chipName == "ina3221" && ina3221Shunt.MatchString(name) {
			q = shunt
		}
		out = append(out, input{
			name: name, quantity: q, label: label, path: path, off: enable == "0",
			read: faultReader(filepath.Join(c.dir, name+"_fault"), numberReader(path, q)),
		})
	}
	return out, nil
}

func alarmReader(path string) func() (wire.Value, error) {
	return func() (wire.Value, error) {
		f, err := readNumber(path)
		if err != nil {
			return wire.Value{}, err
		}
		return wire.BoolValue(f != 0), nil
	}
}

// faultReader refuses a value while the chip says that its probe is open or
// shorted; most chips cannot say, and have no such attribute.
func faultReader(fault string, read func() (wire.Value, error)) func() (wire.Value, error) {
	return func() (wire.Value, error) {
		if f, err := readNumber(fault); err == nil && f != 0 {
			return wire.Value{}, fmt.Errorf("the chip reports a fault (%s)", filepath.Base(fault))
		}
		return read()
	}
}
