//go:build vm

package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pyvorin/pyvorin-edge/wire"
)

// bus is the folder of the I2C bus that the kernel pretends to have, which is
// the only one. What its chips hold is what i2cset wrote.
const bus = "/sys/bus/i2c/devices/i2c-0"

// solder puts chips on the bus and fills their registers: a BMP280 with the
// calibration and the measurement of the example in its data sheet, an ADS1015
// at half of its range, an LM75 at 25.5 °C. Words are given low byte first.
const solder = `
modprobe i2c-stub chip_addr=0x76,0x49,0x48
modprobe -a i2c-dev bmp280-i2c ti-ads1015 lm75
i2cset -y 0 0x76 0xd0 0x58
i2cset -y 0 0x76 0x88 0x70 0x6b 0x43 0x67 0x18 0xfc 0x7d 0x8e 0x43 0xd6 0xd0 0x0b 0x27 0x0b 0x8c 0x00 0xf9 0xff 0x8c 0x3c 0xf8 0xc6 0x70 0x17 i
i2cset -y 0 0x76 0xf7 0x65 0x5a 0xc0 0x7e 0xed 0x00 i
i2cset -y 0 0x49 0 0x0040 w
i2cset -y 0 0x48 0 0x8019 w
echo bmp280 0x76 >` + bus + `/new_device
echo ads1015 0x49 >` + bus + `/new_device
echo lm75 0x48 >` + bus + `/new_device
`

const sensorConfig = `
[sensors]
poll_interval_seconds = 0.5
[[sensors.devices]]
name = "air"
ingest_type = "sysfs"
bus = "iio"
chip = "bmp280"
[[sensors.devices]]
name = "soil"
ingest_type = "sysfs"
bus = "iio"
chip = "0-0049"
channel = "in_voltage0"
[[sensors.devices]]
name = "case"
ingest_type = "sysfs"
bus = "hwmon"
chip = "lm75"
channel = "temp1"
[[sensors.devices]]
name = "door"
ingest_type = "gpio"
chip = "cp2112_gpio"
line = "3"
[[sensors.devices]]
name = "button"
ingest_type = "gpio"
chip = "cp2112_gpio"
line = "4"
mode = "edge"
[[sensors.devices]]
name = "water"
ingest_type = "gpio"
chip = "cp2112_gpio"
line = "5"
mode = "count"
[privacy]
enabled = false
`

// TestSensors reads chips through the kernel's own drivers, with the program
// that devices run.
func TestSensors(t *testing.T) {
	t.Parallel()
	m := Start(t, Options{Arch: "amd64"})
	install(t, m, "pyvorin-edge")
	install(t, m, "cp2112")
	m.Run(solder)
	m.Run(plug)
	m.Write("/opt/pyvorin-edge/config.toml", sensorConfig, 0o600)

	got := read(t, m, "air", "soil", "case", "door")
	for name, want := range map[string]struct {
		value float64
		unit  string
	}{
		"air.in_temp":     {25.08, "C"},
		"air.in_pressure": {100653, "Pa"},
		"soil":            {1.024, "V"},
		"case":            {25.5, "C"},
	} {
		r, ok := got[name]
		value, _ := r.Value.Float()
		if !ok || r.Quality != wire.Good || r.Unit != want.unit || value < want.value*0.99999 || value > want.value*1.00001 {
			t.Errorf("%s is %s, want %v %s", name, r.AppendJSON(nil), want.value, want.unit)
		}
	}
	discover(t, m)
	levels(t, m)
	taken(t, m)
	edges(t, m)
	agent(t, m)
}

// read returns what `sensors read` gives for the named sensors.
func read(t *testing.T, m *Machine, sensors ...string) map[string]wire.Reading {
	t.Helper()
	got := map[string]wire.Reading{}
	for _, r := range parse(t, m.Run("pyvorin-edge sensors read --json "+strings.Join(sensors, " "))) {
		got[r.Sensor] = r
	}
	return got
}

func parse(t *testing.T, lines string) (readings []wire.Reading) {
	t.Helper()
	for line := range strings.Lines(lines) {
		var r wire.Reading
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		readings = append(readings, r)
	}
	return readings
}

// discover expects what the machine offers to name the chips, and to be a
// config that works as it stands.
func discover(t *testing.T, m *Machine) {
	m.Run("mkdir /tmp/new && pyvorin-edge --base-dir /tmp/new sensors discover >/tmp/new/config.toml")
	text := m.Run("cat /tmp/new/config.toml")
	for _, want := range []string{"bmp280", "ads1015", "lm75", "cp2112_gpio"} {
		if !strings.Contains(text, want) {
			t.Errorf("nothing is said of %s:\n%s", want, text)
		}
	}
	r, err := m.Try(commandLimit, "pyvorin-edge --base-dir /tmp/new sensors read --json")
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]bool{}
	for _, reading := range parse(t, r.Out) {
		if f, ok := reading.Value.Float(); ok {
			values[fmt.Sprintf("%.2f", f)] = true
		}
	}
	if r.Code != 0 || !values["25.08"] || !values["1.02"] || !values["25.50"] {
		t.Errorf("what it printed reads %s%s\n%s", r.Out, r.Err, text)
	}
}

// agent runs the agent, takes devices away from it and gives them back.
func agent(t *testing.T, m *Machine) {
	m.Run("systemd-run -q --unit=pyvorin-edge pyvorin-edge run")
	failing := func(names ...string) func(wire.Health) error {
		return func(d wire.Health) error {
			slices.Sort(d.Sensors.Failing)
			if !slices.Equal(d.Sensors.Failing, names) || d.Sensors.OK != d.Sensors.Configured-len(names) {
				return fmt.Errorf("%d of %d sensors ok, %q fail, want %q to; %q", d.Sensors.OK, d.Sensors.Configured, d.Sensors.Failing, names, d.Warnings)
			}
			return nil
		}
	}
	health(t, m, failing())

	m.Run("echo 0x48 >" + bus + "/delete_device; systemctl stop cp2112")
	d := health(t, m, failing("button", "case", "door", "water"))
	for _, want := range []string{"case", "door", "absent"} {
		if text := strings.Join(d.Warnings, "\n"); !strings.Contains(text, want) {
			t.Errorf("the warnings do not say %q: %q", want, d.Warnings)
		}
	}
	m.Run("echo lm75 0x48 >" + bus + "/new_device")
	m.Run(plug)
	before := health(t, m, failing())
	health(t, m, func(d wire.Health) error {
		if d.Sensors.ReadingsTotal == before.Sensors.ReadingsTotal {
			return errors.New("no more readings come")
		}
		return nil
	})
	m.Run("systemctl stop pyvorin-edge")
}

// health waits until the running agent's document satisfies ok, which says
// what is amiss. The document comes over the agent's unix socket.
func health(t *testing.T, m *Machine, ok func(wire.Health) error) (d wire.Health) {
	t.Helper()
	eventually(t, m, func() error {
		r, err := m.Try(commandLimit, "pyvorin-edge status --json")
		if err != nil {
			t.Fatal(err)
		}
		if r.Out == "" {
			return errors.New(r.Err)
		}
		d = wire.Health{}
		if err := json.Unmarshal([]byte(r.Out), &d); err != nil {
			return err
		}
		return ok(d)
	})
	return d
}

// eventually waits until ok returns nil.
func eventually(t *testing.T, m *Machine, ok func() error) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			log, _ := m.Try(commandLimit, "journalctl -b --no-pager -o cat | grep -v guest- | tail -40")
			t.Fatalf("not so after two minutes: %v\n%s", err, log.Out)
		}
	}
}
