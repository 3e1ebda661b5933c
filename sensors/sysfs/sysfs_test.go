package sysfs

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

func newSensor(t *testing.T, root string, o Options) sensors.Sensor {
	t.Helper()
	s, err := New(config.Sensor{Options: &o}, sensors.Env{SysRoot: root})
	if err != nil {
		t.Fatalf("%+v: %v", o, err)
	}
	return s
}

func TestOneChannel(t *testing.T) {
	pi, jetson := tree(t, "pi.txtar"), tree(t, "jetson.txtar")
	pi5, nano, orin := tree(t, "pi5.txtar"), tree(t, "jetson-nano.txtar"), tree(t, "jetson-orin.txtar")
	tests := []struct {
		root  string
		o     Options
		value wire.Value
		kind  string
		unit  string
		label string
	}{
		{pi, Options{Bus: "hwmon", Chip: "cpu_thermal", Channel: "temp1"}, wire.NumberValue(48.312), "temperature", "C", ""},
		{pi, Options{Bus: "hwmon", Chip: "rpi_volt", Channel: "in0_lcrit_alarm"}, wire.BoolValue(true), "alarm", "", ""},
		{pi, Options{Bus: "thermal"}, wire.NumberValue(48.312), "temperature", "C", ""},
		{pi, Options{Bus: "w1", Chip: "28-000005e2fdc3"}, wire.NumberValue(23.125), "temperature", "C", ""},
		{pi, Options{Bus: "w1", Chip: "28-3c01d607e8b2"}, wire.NumberValue(-1.062), "temperature", "C", ""},
		{pi, Options{Bus: "iio", Chip: "bme280", Channel: "in_temp"}, wire.NumberValue(25.08), "temperature", "C", ""},
		{pi, Options{Bus: "iio", Chip: "1-0076", Channel: "in_pressure"}, wire.NumberValue(100653.125), "pressure", "Pa", ""},
		{pi, Options{Bus: "iio", Chip: "i2c-1/1-0076", Channel: "in_humidityrelative"}, wire.NumberValue(41.25), "humidity", "%", ""},
		{pi, Options{Bus: "iio", Chip: "cellar", Channel: "in_temp"}, wire.NumberValue(21.7), "temperature", "C", ""},
		{pi, Options{Bus: "iio", Chip: "dht11@11", Channel: "in_humidityrelative"}, wire.NumberValue(80.1), "humidity", "%", ""},
		{jetson, Options{Bus: "hwmon", Chip: "1-0040", Channel: "in1"}, wire.NumberValue(5.008), "voltage", "V", "VDD_IN"},
		{jetson, Options{Bus: "hwmon", Chip: "1-0040", Channel: "curr1"}, wire.NumberValue(1.234), "current", "A", "VDD_IN"},
		{jetson, Options{Bus: "hwmon", Chip: "pwmfan", Channel: "fan1"}, wire.NumberValue(2950), "fan_speed", "rpm", ""},
		{jetson, Options{Bus: "hwmon", Chip: "pwmfan", Channel: "power1"}, wire.NumberValue(0.85), "power", "W", ""},
		{jetson, Options{Bus: "iio", Chip: "ina3221x", Channel: "in_power0"}, wire.NumberValue(1.52), "power", "W", "VDD_SYS_SOC"},
		{jetson, Options{Bus: "iio", Chip: "ina3221x", Channel: "in_current0"}, wire.NumberValue(0.08), "current", "A", "VDD_SYS_SOC"},
		{jetson, Options{Bus: "iio", Chip: "ads1015", Channel: "in_voltage0"}, wire.NumberValue(3.304), "voltage", "V", ""},
		{jetson, Options{Bus: "iio", Chip: "ads1015", Channel: "in_voltage0-voltage1"}, wire.NumberValue(-0.05), "voltage", "V", ""},
		{jetson, Options{Bus: "iio", Chip: "ads1015", Channel: "in_voltage2"}, wire.NumberValue(7), "voltage", "", ""},
		{jetson, Options{Bus: "iio", Chip: "ads1015", Channel: "in_temp_ambient"}, wire.NumberValue(25), "temperature", "C", ""},
		{jetson, Options{Bus: "thermal", Chip: "gpu-thermal"}, wire.NumberValue(50.5), "temperature", "C", ""},
		{pi5, Options{Bus: "iio", Chip: "1-0048", Channel: "in_voltage0"}, wire.NumberValue(1), "voltage", "V", ""},
		{pi5, Options{Bus: "iio", Chip: "ads1015", Channel: "in_voltage0-voltage1"}, wire.NumberValue(-0.001), "voltage", "V", ""},
		{pi5, Options{Bus: "iio", Chip: "bmp280", Channel: "in_temp"}, wire.NumberValue(19.87), "temperature", "C", ""},
		{pi5, Options{Bus: "iio", Chip: "bmp280", Channel: "in_pressure"}, wire.NumberValue(98412.375), "pressure", "Pa", ""},
		{pi5, Options{Bus: "iio", Chip: "dht11@1b", Channel: "in_humidityrelative"}, wire.NumberValue(52.3), "humidity", "%", ""},
		{pi5, Options{Bus: "hwmon", Chip: "ina226", Channel: "in0"}, wire.NumberValue(0.012), "voltage", "V", ""},
		{pi5, Options{Bus: "hwmon", Chip: "ina226", Channel: "power1"}, wire.NumberValue(15.1), "power", "W", ""},
		{pi5, Options{Bus: "hwmon", Chip: "pwmfan", Channel: "fan1"}, wire.NumberValue(3314), "fan_speed", "rpm", ""},
		{pi5, Options{Bus: "hwmon", Chip: "rpi_volt", Channel: "in0_lcrit_alarm"}, wire.BoolValue(false), "alarm", "", ""},
		{nano, Options{Bus: "iio", Chip: "ina3221x", Channel: "in_power0"}, wire.NumberValue(1.749), "power", "W", "POM_5V_IN"},
		{nano, Options{Bus: "iio", Chip: "6-0040", Channel: "in_voltage0"}, wire.NumberValue(5.056), "voltage", "V", "POM_5V_IN"},
		{nano, Options{Bus: "thermal", Chip: "CPU-therm"}, wire.NumberValue(38), "temperature", "C", ""},
		{orin, Options{Bus: "hwmon", Chip: "1-0040", Channel: "curr3"}, wire.NumberValue(0.592), "current", "A", "VIN_SYS_5V0"},
		{orin, Options{Bus: "hwmon", Chip: "1-0040", Channel: "in1"}, wire.NumberValue(19.064), "voltage", "V", "VDD_GPU_SOC"},
		{orin, Options{Bus: "hwmon", Chip: "1-0040", Channel: "in4"}, wire.NumberValue(0.00096), "voltage", "V", ""},
		{orin, Options{Bus: "hwmon", Chip: "1-0040", Channel: "in7"}, wire.NumberValue(0.00408), "voltage", "V", "sum of shunt voltages"},
		{orin, Options{Bus: "thermal", Chip: "tj-thermal"}, wire.NumberValue(50), "temperature", "C", ""},
	}
	for _, tt := range tests {
		got, err := newSensor(t, tt.root, tt.o).Read(t.Context())
		if err != nil || len(got) != 1 {
			t.Errorf("%+v: %+v, %v", tt.o, got, err)
			continue
		}
		label, _ := got[0].Meta["label"].Text()
		if g := got[0]; g.Value != tt.value || g.Type != tt.kind || g.Unit != tt.unit || g.Channel != "" || label != tt.label || g.Quality != "" {
			t.Errorf("%+v: %+v", tt.o, g)
		}
	}
}

func TestConfiguredTypeAndUnitWin(t *testing.T) {
	d := config.Sensor{SensorType: "room", Unit: "F", Options: &Options{Bus: "thermal"}}
	s, err := New(d, sensors.Env{SysRoot: tree(t, "pi.txtar")})
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Read(t.Context())
	if err != nil || got[0].Type != "" || got[0].Unit != "" {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestWholeChipWithAFailingChannel(t *testing.T) {
	got, err := newSensor(t, tree(t, "jetson.txtar"), Options{Bus: "hwmon", Chip: "1-0040"}).Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var channels []string
	for _, s := range got {
		channels = append(channels, s.Channel)
		if bad := s.Channel == "in2"; bad != (s.Quality == wire.Bad) || bad != (s.Reason != "") || bad != (s.Value.Kind() == wire.None) {
			t.Errorf("%+v", s)
		}
		if strings.Contains(s.Reason, "garbled") {
			t.Errorf("the reason carries what was read: %s", s.Reason)
		}
	}
	if want := "curr1_crit_alarm curr1 in1 in2"; strings.Join(channels, " ") != want {
		t.Errorf("channels %v, want %s", channels, want)
	}
}

func TestProcessedValueHidesTheRawOne(t *testing.T) {
	got, err := newSensor(t, tree(t, "jetson.txtar"), Options{Bus: "iio", Chip: "7-0048"}).Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]wire.Value{}
	for _, s := range got {
		if _, twice := values[s.Channel]; twice {
			t.Errorf("two samples of %s", s.Channel)
		}
		values[s.Channel] = s.Value
	}
	if values["in_temp"] != wire.NumberValue(19.5) || values["in_temp_ambient"] != wire.NumberValue(25) || len(got) != 5 {
		t.Error(values)
	}
}

func TestFaultAttribute(t *testing.T) {
	_, err := newSensor(t, tree(t, "jetson.txtar"), Options{Bus: "hwmon", Chip: "pwmfan", Channel: "temp1"}).Read(t.Context())
	if err == nil || !strings.Contains(err.Error(), "temp1_fault") {
		t.Error(err)
	}
}

func TestAbsentAndAmbiguous(t *testing.T) {
	pi, jetson := tree(t, "pi.txtar"), tree(t, "jetson.txtar")
	tests := []struct {
		root string
		o    Options
		want []string
	}{
		{pi, Options{Bus: "iio", Chip: "dht11"}, []string{"ambiguous", "dht11@4", "dht11@11"}},
		{pi, Options{Bus: "w1"}, []string{"chip is needed", "28-000005e2fdc3", "28-3c01d607e8b2"}},
		{pi, Options{Bus: "iio", Chip: "bmp388"}, []string{"absent", `"bmp388"`, "bme280 at 1-0076", "dmesg"}},
		{pi, Options{Bus: "iio", Chip: "0076"}, []string{"absent"}},
		{pi, Options{Bus: "hwmon", Chip: "cpu_thermal", Channel: "temp2"}, []string{"absent", "temp1"}},
		{jetson, Options{Bus: "hwmon", Chip: "ina3221", Channel: "in1"}, []string{"ambiguous", "1-0040", "1-0041"}},
		{jetson, Options{Bus: "w1", Chip: "28-000005e2fdc3"}, []string{"absent", "w1-gpio"}},
		{jetson, Options{Bus: "thermal", Chip: "cv0-thermal"}, []string{"cv0-thermal", "temp"}},
	}
	for _, tt := range tests {
		_, err := newSensor(t, tt.root, tt.o).Read(t.Context())
		for _, want := range tt.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: %v, want %q in it", tt.o, err, want)
			}
		}
	}
}

func TestChipFoundAfterItIsPluggedIn(t *testing.T) {
	root := t.TempDir()
	s := newSensor(t, root, Options{Bus: "thermal", Chip: "soc"})
	if _, err := s.Read(t.Context()); err == nil || !strings.Contains(err.Error(), "absent") {
		t.Fatal(err)
	}
	write(t, filepath.Join(root, "sys/class/thermal/thermal_zone7/type"), "soc\n")
	write(t, filepath.Join(root, "sys/class/thermal/thermal_zone7/temp"), "1000\n")
	if got, err := s.Read(t.Context()); err != nil || got[0].Value != wire.NumberValue(1) {
		t.Fatal(got, err)
	}
}

// The kernel numbers a chip anew each time it comes.
func TestChipGoneAndBackUnderAnotherNumber(t *testing.T) {
	root := tree(t, "pi.txtar")
	tests := []struct {
		o         Options
		was, will string
		target    string
	}{
		{Options{Bus: "iio", Chip: "bme280", Channel: "in_temp"}, "sys/bus/iio/devices/iio:device0", "sys/bus/iio/devices/iio:device7", "../../../devices/platform/soc/fe804000.i2c/i2c-1/1-0076/iio:device0"},
		{Options{Bus: "hwmon", Chip: "rpi_volt", Channel: "in0_lcrit_alarm"}, "sys/class/hwmon/hwmon1", "sys/class/hwmon/hwmon3", "../../devices/platform/soc/rpi-firmware/rpi_volt/hwmon/hwmon1"},
		{Options{Bus: "w1", Chip: "28-3c01d607e8b2"}, "sys/bus/w1/devices/28-3c01d607e8b2", "sys/bus/w1/devices/28-3c01d607e8b2", "../../../devices/w1_bus_master1/28-3c01d607e8b2"},
	}
	for _, tt := range tests {
		s := newSensor(t, root, tt.o)
		before, err := s.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(root, tt.was)); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Read(t.Context()); err == nil || !strings.Contains(err.Error(), "absent") {
			t.Errorf("%+v while it was gone: %+v, %v", tt.o, got, err)
		}
		if err := os.Symlink(tt.target, filepath.Join(root, tt.will)); err != nil {
			t.Fatal(err)
		}
		after, err := s.Read(t.Context())
		if err != nil || after[0].Value != before[0].Value {
			t.Errorf("%+v when it was back: %+v, %v", tt.o, after, err)
		}
	}
}

func TestSwitchedOffRailsAreLeftOut(t *testing.T) {
	root := tree(t, "jetson-orin.txtar")
	got, err := newSensor(t, root, Options{Bus: "hwmon", Chip: "1-0041"}).Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range got {
		if s.Quality != "" || s.Channel == "in1" || s.Channel == "curr3" {
			t.Errorf("%+v", s)
		}
	}
	if _, err := newSensor(t, root, Options{Bus: "hwmon", Chip: "1-0041", Channel: "in1"}).Read(t.Context()); err == nil || strings.Contains(err.Error(), "absent") {
		t.Errorf("a rail that is named and off: %v", err)
	}
}

// /proc/self/mem is a plain file that answers EIO, as a DHT22 does that was not
// understood.
func TestDHTIsAskedTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := tree(t, "pi5.txtar")
		dir := filepath.Join(root, "sys/devices/platform/dht11@1b/iio:device2")
		for _, name := range []string{"in_temp_input", "in_humidityrelative_input"} {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("/proc/self/mem", filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		s := newSensor(t, root, Options{Bus: "iio", Chip: "dht11@1b"})
		read := func(timeout time.Duration) ([]sensors.Sample, time.Duration) {
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			began := time.Now()
			got, err := s.Read(ctx)
			if err != nil || len(got) != 2 {
				t.Fatal(got, err)
			}
			return got, time.Since(began)
		}
		got, took := read(5 * time.Second)
		for _, sample := range got {
			if sample.Quality != wire.Bad || !strings.Contains(sample.Reason, "input/output error") {
				t.Errorf("%+v", sample)
			}
		}
		if took != dhtPause {
			t.Errorf("two failures took %v", took)
		}
		if _, took := read(3 * time.Second); took != 0 {
			t.Errorf("with no time for a second try it took %v", took)
		}
		time.AfterFunc(time.Second, func() {
			for name, value := range map[string]string{"in_temp_input": "21400", "in_humidityrelative_input": "52300"} {
				os.Remove(filepath.Join(dir, name))
				write(t, filepath.Join(dir, name), value)
			}
		})
		got, _ = read(5 * time.Second)
		if got[0].Value != wire.NumberValue(52.3) || got[1].Value != wire.NumberValue(21.4) {
			t.Errorf("%+v", got)
		}
	})
}

// A Jetson's thermal zone that is powered off answers EAGAIN, as this pipe
// does: to wait for it would be to wait for ever.
func TestNotReadyIsAnError(t *testing.T) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	if _, err := readAll(pipe[0]); err != unix.EAGAIN {
		t.Errorf("got %v", err)
	}
}

func TestAHungFileCostsItsChannelOnly(t *testing.T) {
	root := tree(t, "jetson-orin.txtar")
	file := filepath.Join(root, "sys/class/hwmon/hwmon0/in2_input")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(file, 0o600); err != nil { // to read one waits for a writer
		t.Fatal(err)
	}
	got, err := newSensor(t, root, Options{Bus: "hwmon", Chip: "1-0040"}).Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range got {
		if (s.Quality == wire.Bad) != (s.Channel == "in2") {
			t.Errorf("%+v", s)
		}
	}
}

func TestW1(t *testing.T) {
	root := tree(t, "pi.txtar")
	slave := filepath.Join(root, "sys/bus/w1/devices/28-000005e2fdc3/w1_slave")
	s := newSensor(t, root, Options{Bus: "w1", Chip: "28-000005e2fdc3"})
	tests := []struct {
		name, content string
		bad, fails    string
		value         wire.Value
	}{
		{"crc", "ff ff : crc=c9 NO\nff ff t=-62\n", "CRC", "", wire.Value{}},
		{"power-on", "50 05 : crc=1c YES\n50 05 t=85000\n", "power-on", "", wire.NumberValue(85)},
		{"weak power", "ff 07 : crc=1c YES\nff 07 t=127937\n", "power", "", wire.NumberValue(127.937)},
		{"power-on, all of it", "50 05 4b 46 7f ff 0c 10 1c : crc=1c YES\n50 05 4b 46 7f ff 0c 10 1c t=85000\n", "power-on", "", wire.NumberValue(85)},
		{"measured 85 °C", "50 05 4b 46 7f ff 10 10 bd : crc=bd YES\n50 05 4b 46 7f ff 10 10 bd t=85000\n", "", "", wire.NumberValue(85)},
		{"shorted", "00 00 00 00 00 00 00 00 00 : crc=00 YES\n00 00 00 00 00 00 00 00 00 t=0\n", "shorted", "", wire.Value{}},
		{"measured 0 °C", "00 00 4b 46 7f ff 10 10 69 : crc=69 YES\n00 00 4b 46 7f ff 10 10 69 t=0\n", "", "", wire.NumberValue(0)},
		{"close to power-on", "51 05 : crc=1c YES\n51 05 t=85062\n", "", "", wire.NumberValue(85.062)},
		{"empty", "", "", "no CRC", wire.Value{}},
		{"no temperature", "72 01 : crc=57 YES\n", "", "no temperature", wire.Value{}},
		{"garbled", "72 01 : crc=57 YES\n72 01 t=2x\n", "", "no number", wire.Value{}},
	}
	for _, tt := range tests {
		write(t, slave, tt.content)
		got, err := s.Read(t.Context())
		if tt.fails != "" {
			if err == nil || !strings.Contains(err.Error(), tt.fails) {
				t.Errorf("%s: %+v, %v", tt.name, got, err)
			}
			continue
		}
		if err != nil || len(got) != 1 || got[0].Value != tt.value || (got[0].Quality == wire.Bad) != (tt.bad != "") || !strings.Contains(got[0].Reason, tt.bad) {
			t.Errorf("%s: %+v, %v", tt.name, got, err)
		}
	}
}

func TestPath(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "run/level"), " 17.5\n")
	write(t, filepath.Join(root, "proc/meminfo"), "MemTotal: 4096 kB\nMemFree:  1024 kB\n")
	write(t, filepath.Join(root, "run/secret"), "hunter2")
	write(t, filepath.Join(root, "run/inf"), "Inf")
	write(t, filepath.Join(root, "run/huge"), "1"+strings.Repeat(" ", 10<<20))
	if err := unix.Mkfifo(filepath.Join(root, "run/fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		o    Options
		want float64
		err  string
	}{
		{Options{Path: "/run/level"}, 17.5, ""},
		{Options{Path: "/run/huge"}, 1, ""},
		{Options{Path: "/proc/meminfo", Regex: `MemFree:\s+(\d+)`}, 1024, ""},
		{Options{Path: "/proc/meminfo", Regex: `\d+`}, 4096, ""},
		{Options{Path: "/proc/meminfo", Regex: `(?s)Total:\s+(?P<total>\d+).*Free:\s+(?P<free>\d+)`}, 4096, ""},
		{Options{Path: "/proc/meminfo", Regex: `Swap`}, 0, "regex does not match"},
		{Options{Path: "/run/secret"}, 0, "no number"},
		{Options{Path: "/run/inf"}, 0, "no number"},
		{Options{Path: "/run/gone"}, 0, "no such file"},
		{Options{Path: "/run"}, 0, "not a plain file"},
		{Options{Path: "/run/fifo"}, 0, "not a plain file"},
	}
	for _, tt := range tests {
		tt.o.Bus = "path"
		start := time.Now()
		got, err := newSensor(t, root, tt.o).Read(t.Context())
		if time.Since(start) > 5*time.Second {
			t.Errorf("%+v hung", tt.o)
		}
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%+v: %v", tt.o, err)
			}
			continue
		}
		if err != nil || got[0].Value != wire.NumberValue(tt.want) {
			t.Errorf("%+v: %+v, %v", tt.o, got, err)
		}
	}
}

func TestEndedContextStopsBetweenChannels(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := newSensor(t, tree(t, "pi.txtar"), Options{Bus: "iio", Chip: "bme280"}).Read(ctx); err == nil || len(got) != 0 {
		t.Error(got, err)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, o := range []Options{
		{Bus: "hwmon", Chip: "hwmon2"},
		{Bus: "iio", Chip: "iio:device0"},
		{Bus: "thermal", Chip: "thermal_zone3"},
		{Bus: "w1", Channel: "temp1"},
		{Bus: "hwmon", Path: "/x"},
		{Bus: "path"},
		{Bus: "path", Path: "relative"},
		{Bus: "path", Path: "/x", Chip: "y"},
		{Bus: "path", Path: "/x", Regex: "("},
		{Bus: "spi"},
	} {
		if _, err := New(config.Sensor{Options: &o}, sensors.Env{}); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
}

// A bus is shared by its name alone, so two types must not mean the same one.
func TestBusBeginsWithTheType(t *testing.T) {
	for o, want := range map[Options]string{{Bus: "w1"}: "sysfs w1", {Bus: "w1", Chip: "28-000005e2fdc3"}: "sysfs w1", {Bus: "hwmon"}: ""} {
		if got := Type.Bus(config.Sensor{Options: &o}); got != want {
			t.Errorf("%+v: %q, want %q", o, got, want)
		}
	}
}

func TestThisMachine(t *testing.T) {
	got, err := newSensor(t, "/", Options{Bus: "path", Path: "/proc/loadavg", Regex: `^\S+`}).Read(t.Context())
	if err != nil || got[0].Value.Kind() != wire.Number {
		t.Error(got, err)
	}
}
