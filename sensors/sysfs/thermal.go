package sysfs

import (
	"path/filepath"
	"strings"
)

func thermalChip(entry string) (chip, bool) {
	// Cooling devices are in the same folder.
	if !strings.HasPrefix(filepath.Base(entry), "thermal_zone") {
		return chip{}, false
	}
	return newChip(entry, filepath.Join(entry, "device"), attr(filepath.Join(entry, "type"))), true
}

// Temperatures returns what the hwmon chips below root show, in Celsius, or the
// thermal zones where no chip shows any. What cannot be read, such as a zone
// that is powered off, is left out.
func Temperatures(root string) []float64 {
	for _, pattern := range []string{
		"sys/class/hwmon/hwmon*/temp*_input",
		"sys/class/hwmon/hwmon*/device/temp*_input",
		"sys/class/thermal/thermal_zone*/temp",
	} {
		files, _ := filepath.Glob(filepath.Join(root, pattern)) // it fails only for a malformed pattern
		var out []float64
		for _, file := range files {
			if f, err := readNumber(file); err == nil {
				out = append(out, celsius.convert(f))
			}
		}
		if out != nil {
			return out
		}
	}
	return nil
}

func thermalInputs(c chip) ([]input, error) {
	path := filepath.Join(c.dir, "temp")
	return []input{{name: "temp", quantity: celsius, path: path, read: numberReader(path, celsius)}}, nil
}
