// Package all names every ingest type once. Adding one means a folder beside
// this one and a line in Types.
package all

import (
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/sensors/exec"
	"github.com/pyvorin/pyvorin-edge/sensors/gpio"
	"github.com/pyvorin/pyvorin-edge/sensors/httpjson"
	"github.com/pyvorin/pyvorin-edge/sensors/modbus"
	"github.com/pyvorin/pyvorin-edge/sensors/mqtt"
	"github.com/pyvorin/pyvorin-edge/sensors/serial"
	"github.com/pyvorin/pyvorin-edge/sensors/simulator"
	"github.com/pyvorin/pyvorin-edge/sensors/sysfs"
	"github.com/pyvorin/pyvorin-edge/sensors/system"
)

// Types returns every ingest type, in the order of the docs.
func Types() []sensors.Type {
	return []sensors.Type{
		simulator.Type,
		system.Type,
		sysfs.Type,
		gpio.Type,
		modbus.Type,
		serial.Type,
		httpjson.Type,
		mqtt.Type,
		exec.Type,
	}
}

// Options returns what config needs to decode each type's own keys.
func Options() map[string]func() any {
	m := map[string]func() any{}
	for _, t := range Types() {
		m[t.Name] = t.Options
	}
	return m
}
