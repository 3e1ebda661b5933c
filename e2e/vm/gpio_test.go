//go:build vm

package vm

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pyvorin/pyvorin-edge/wire"
)

// plug plugs a GPIO chip in, whose pins the FIFO /run/pins moves.
const plug = `
modprobe -a uhid hid-cp2112
[ -e /run/pins ] || mkfifo /run/pins
systemd-run -q --unit=cp2112 cp2112 /run/pins
for try in $(seq 200); do gpiodetect | grep -q cp2112_gpio && exit; sleep 0.1; done
exit 1
`

// levels moves a pin, and expects the sensor to see it move.
func levels(t *testing.T, m *Machine) {
	for _, level := range []bool{true, false, true} {
		order := map[bool]string{true: "3 1", false: "3 0"}[level]
		m.Run("echo '" + order + "' >/run/pins")
		// The order is carried out after it was written.
		eventually(t, m, func() error {
			if r := read(t, m, "door")["door"]; r.Value != wire.BoolValue(level) || r.Quality != wire.Good {
				return fmt.Errorf("the line reads %s, want %v", r.AppendJSON(nil), level)
			}
			return nil
		})
	}
}

// taken lets another program hold the line.
func taken(t *testing.T, m *Machine) {
	m.Run("systemd-run -q --unit=holder gpiomon cp2112_gpio 3")
	eventually(t, m, func() error {
		r, err := m.Try(commandLimit, "pyvorin-edge sensors read door --json")
		if err != nil {
			t.Fatal(err)
		}
		got := parse(t, r.Out)
		if r.Code != 1 || len(got) != 1 || got[0].Quality != wire.Bad ||
			!strings.Contains(got[0].Reason, `line 3 of cp2112_gpio`) || !strings.Contains(got[0].Reason, `is held by "gpiomon"`) {
			return fmt.Errorf("exit code %d, %s%s; want it to name the holder", r.Code, r.Out, r.Err)
		}
		return nil
	})
	m.Run("systemctl stop holder")
}

// edges sends pulses, and expects each to be seen, and counted.
func edges(t *testing.T, m *Machine) {
	watch(t, m, "button", "water")
	m.Run("echo '4 pulse 3' >/run/pins; echo '5 pulse 10' >/run/pins")
	want := []bool{false, true, false, true, false, true, false} // the state at first, then each edge
	eventually(t, m, func() error {
		var button []bool
		var pulses float64
		for _, r := range watched(t, m) {
			switch r.Sensor {
			case "button":
				level, _ := r.Value.Bool()
				button = append(button, level)
			case "water.pulses":
				pulses, _ = r.Value.Float()
			}
		}
		if !slices.Equal(button, want) || pulses != 10 {
			return fmt.Errorf("the button went %v, want %v; %v pulses, want 10", button, want, pulses)
		}
		return nil
	})
	m.Run("systemctl stop watch")
}

// TestInterrupts counts edges that come as interrupts: those of the power
// button, which is on line 3 of the GPIO chip of this kind of machine.
func TestInterrupts(t *testing.T) {
	if testing.Short() {
		t.Skip("needs the image for arm64, which takes minutes to build")
	}
	t.Parallel()
	m := Start(t, Options{Arch: "arm64"})
	install(t, m, "pyvorin-edge")
	m.Write("/opt/pyvorin-edge/config.toml", `
[sensors]
poll_interval_seconds = 0.5
[[sensors.devices]]
name = "power"
ingest_type = "gpio"
chip = "9030000.pl061"
line = "3"
mode = "count"
[privacy]
enabled = false
`, 0o600)
	watch(t, m, "power")
	for pressed := range 4 {
		if pressed > 0 {
			m.Monitor("system_powerdown")
		}
		eventually(t, m, func() error {
			pulses := -1.0
			for _, r := range watched(t, m) {
				if r.Sensor == "power.pulses" {
					pulses, _ = r.Value.Float()
				}
			}
			if pulses != float64(pressed) {
				return fmt.Errorf("%v pulses after the button was pressed %d times", pulses, pressed)
			}
			return nil
		})
	}
}

// watch starts `sensors read --watch` and waits until it holds the lines of
// the named sensors.
func watch(t *testing.T, m *Machine, sensors ...string) {
	t.Helper()
	m.Run("systemd-run -q --unit=watch -p StandardOutput=file:/run/watch pyvorin-edge sensors read --watch --json " + strings.Join(sensors, " "))
	eventually(t, m, func() error {
		text := m.Run("gpioinfo")
		for _, name := range sensors {
			if !strings.Contains(text, "pyvorin-edge:"+name) {
				return fmt.Errorf("nobody holds the line of %s:\n%s", name, text)
			}
		}
		return nil
	})
}

// watched returns what watch has printed up to now.
func watched(t *testing.T, m *Machine) []wire.Reading {
	t.Helper()
	lines := m.Run("cat /run/watch")
	return parse(t, lines[:strings.LastIndexByte(lines, '\n')+1])
}
