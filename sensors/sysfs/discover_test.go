package sysfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
)

func discoverIn(t *testing.T, root string) []sensors.Offer {
	t.Helper()
	return Type.Discover(t.Context(), sensors.Env{SysRoot: root})
}

// summary is what a test compares of offers: a line each, with the chip that
// the config names.
func summary(offers []sensors.Offer) string {
	var b strings.Builder
	for _, o := range offers {
		fmt.Fprintf(&b, "%s %s: %s", o.Kind, o.Name, o.Detail)
		if o.Config != "" {
			lines := strings.Split(o.Config, "\n")
			fmt.Fprintf(&b, " [%s]", strings.TrimPrefix(lines[1], "name = "))
		}
		if o.Note != "" {
			note, _, _ := strings.Cut(o.Note, ":")
			fmt.Fprintf(&b, " (%s)", note)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func TestDiscover(t *testing.T) {
	tests := map[string]string{
		"pi.txtar": `
iio bme280: in_humidityrelative, in_pressure, in_temp ["bme280"]
iio cellar: dht11: in_humidityrelative, in_temp ["dht11-cellar"]
iio dht11@11: dht11: in_humidityrelative, in_temp ["dht11-dht11-11"]
hwmon rpi_volt: in0_lcrit_alarm ["rpi_volt"]
w1 28-000005e2fdc3: DS18B20 ["28-000005e2fdc3"]
w1 28-3c01d607e8b2: DS18B20 ["28-3c01d607e8b2"]
thermal cpu-thermal: temp ["cpu-thermal"]
`,
		"pi5.txtar": `
iio ads1015: in_voltage0-voltage1, in_voltage0 ["ads1015"]
iio bmp280: in_pressure, in_temp ["bmp280"]
iio dht11@1b: in_humidityrelative, in_temp ["dht11-1b"]
hwmon rp1_adc: in1, in2, temp1 ["rp1_adc"]
hwmon pwmfan: fan1 ["pwmfan"]
hwmon rpi_volt: in0_lcrit_alarm ["rpi_volt"]
hwmon ina226: curr1, in0, in1, power1 ["ina226"]
w1 00-400000000000: no real device (noise was taken for a device)
thermal cpu-thermal: temp ["cpu-thermal"]
i2c i2c-1: Synopsys DesignWare I2C adapter: 1-0041 ina226 (ina2xx), 1-0048 ads1115 (ads1015), 1-0077 bmp280 (bmp280)
i2c i2c-13: 107d508200.i2c (no chip is declared on it)
i2c i2c-14: 107d508280.i2c (no chip is declared on it)
i2c 1-0040: ina219 on i2c-1, without a driver (its driver is not installed, or got no answer at address 0x40)
`,
		"jetson-nano.txtar": `
iio ina3221x: in_current0 (POM_5V_IN), in_current1 (POM_5V_GPU), in_current2 (POM_5V_CPU), in_power0 (POM_5V_IN), in_power1 (POM_5V_GPU), in_power2 (POM_5V_CPU), in_voltage0 (POM_5V_IN), in_voltage1 (POM_5V_GPU) and 1 more ["ina3221x"]
thermal AO-therm: temp ["ao-therm"]
thermal CPU-therm: temp ["cpu-therm"]
thermal GPU-therm: temp ["gpu-therm"] (a unit that a Jetson powers off when idle; then it has no value)
thermal PLL-therm: temp ["pll-therm"]
thermal PMIC-Die: temp ["pmic-die"]
thermal thermal-fan-est: temp ["thermal-fan-est"]
i2c i2c-6: Tegra I2C adapter: 6-0040 ina3221x (ina3221x)
`,
		"jetson-orin.txtar": `
hwmon 1-0040: ina3221: curr1 (VDD_GPU_SOC), curr2 (VDD_CPU_CV), curr3 (VIN_SYS_5V0), curr4, in1 (VDD_GPU_SOC), in2 (VDD_CPU_CV), in3 (VIN_SYS_5V0), in4 and 9 more ["ina3221-1-0040"]
hwmon 1-0041: ina3221: curr2 (VDDQ_VDD2_1V8AO), curr4, in2 (VDDQ_VDD2_1V8AO), in5, in7 (sum of shunt voltages), curr1_crit_alarm, curr1_max_alarm, curr2_crit_alarm and 3 more ["ina3221-1-0041"]
thermal cpu-thermal: temp ["cpu-thermal"]
thermal gpu-thermal: temp ["gpu-thermal"] (a unit that a Jetson powers off when idle; then it has no value)
thermal cv0-thermal: temp ["cv0-thermal"] (a unit that a Jetson powers off when idle; then it has no value)
thermal cv1-thermal: temp ["cv1-thermal"] (a unit that a Jetson powers off when idle; then it has no value)
thermal cv2-thermal: temp ["cv2-thermal"] (a unit that a Jetson powers off when idle; then it has no value)
thermal soc0-thermal: temp ["soc0-thermal"]
thermal soc1-thermal: temp ["soc1-thermal"]
thermal soc2-thermal: temp ["soc2-thermal"]
thermal tj-thermal: temp ["tj-thermal"]
i2c i2c-1: c240000.i2c: 1-0040 ina3221 (ina3221), 1-0041 ina3221 (ina3221)
`,
	}
	for name, want := range tests {
		t.Run(name, func(t *testing.T) {
			offers := discoverIn(t, tree(t, name))
			if diff := cmp.Diff(strings.TrimPrefix(want, "\n"), summary(offers)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What is offered is a valid config, and reads the chip it is about.
func TestWhatIsOfferedWorks(t *testing.T) {
	for _, name := range []string{"pi.txtar", "pi5.txtar", "jetson.txtar", "jetson-nano.txtar", "jetson-orin.txtar"} {
		root := tree(t, name)
		var text strings.Builder
		for _, o := range discoverIn(t, root) {
			text.WriteString(o.Config)
		}
		c, err := config.Parse("c.toml", []byte(text.String()), config.Options{SensorTypes: map[string]func() any{"sysfs": Type.Options}})
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, &text)
			continue
		}
		for _, d := range c.Sensors.Devices {
			s, err := New(d, sensors.Env{SysRoot: root})
			if err != nil {
				t.Errorf("%s: %s: %v", name, d.Name, err)
				continue
			}
			_, err = s.Read(t.Context())
			if err != nil && !(strings.HasPrefix(d.Name, "cv") && errors.Is(err, fs.ErrNotExist)) {
				t.Errorf("%s: %s: %v", name, d.Name, err)
			}
		}
	}
}

func TestDiscoverOpensNoMeasurement(t *testing.T) {
	for _, name := range []string{"pi.txtar", "pi5.txtar", "jetson-nano.txtar", "jetson-orin.txtar"} {
		root := tree(t, name)
		watch, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(watch)
		watched := 0
		err = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			base := filepath.Base(path)
			if err != nil || !e.Type().IsRegular() || !strings.HasSuffix(base, "_input") && !strings.HasSuffix(base, "_raw") && base != "temp" && base != "temperature" && base != "w1_slave" {
				return err
			}
			watched++
			_, err = unix.InotifyAddWatch(watch, path, unix.IN_OPEN)
			return err
		})
		if err != nil || watched < 3 {
			t.Fatalf("%s: %d files watched, %v", name, watched, err)
		}
		discoverIn(t, root)
		if n, err := unix.Read(watch, make([]byte, 4096)); err != unix.EAGAIN {
			t.Errorf("%s: a measurement was opened (%d, %v)", name, n, err)
		}
	}
}

func TestDiscoverWhereNothingIs(t *testing.T) {
	if got := discoverIn(t, t.TempDir()); len(got) != 0 {
		t.Errorf("in an empty folder: %s", summary(got))
	}
	root := t.TempDir()
	write(t, filepath.Join(root, "sys/bus/iio/devices"), "a file where a folder belongs")
	got := discoverIn(t, root)
	if len(got) != 1 || got[0].Name != "/sys/bus/iio/devices" || !strings.Contains(got[0].Note, "cannot be looked into") || got[0].Config != "" {
		t.Errorf("got %s", summary(got))
	}
	Type.Discover(t.Context(), sensors.Env{}) // this machine, whatever it has
}

func TestDiscoverNames(t *testing.T) {
	root := t.TempDir()
	hwmon := filepath.Join(root, "sys/class/hwmon")
	chip := func(i int, name, device string) {
		dir := filepath.Join(hwmon, fmt.Sprint("hwmon", i))
		write(t, filepath.Join(dir, "name"), name)
		write(t, filepath.Join(dir, "temp1_input"), "1000")
		if device != "" {
			path := filepath.Join(root, "sys/devices", device)
			if err := os.MkdirAll(path, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(path, filepath.Join(dir, "device")); err != nil {
				t.Fatal(err)
			}
		}
	}
	chip(0, "twin", "")                // nothing tells these two apart
	chip(1, "twin", "")                //
	chip(2, "it's \"odd\"\x1b", "a/x") // only its path can be written
	chip(3, "same", "b/1-0048")        // found by longer ends of their paths
	chip(4, "same", "c/1-0048")        //
	chip(5, "a b", "d/1")              // two names that become one
	chip(6, "a.b", "d/2")              //
	want := `hwmon twin: twin: temp1 (nothing that outlasts a reboot tells it from the others)
hwmon twin: twin: temp1 (nothing that outlasts a reboot tells it from the others)
hwmon x: temp1 ["x"]
hwmon b/1-0048: same: temp1 ["same-b-1-0048"]
hwmon c/1-0048: same: temp1 ["same-c-1-0048"]
hwmon a b: temp1 ["a-b"]
hwmon a.b: temp1 ["a-b"]
`
	if diff := cmp.Diff(want, summary(discoverIn(t, root))); diff != "" {
		t.Error(diff)
	}
}

func TestDiscoverManyProbes(t *testing.T) {
	root := t.TempDir()
	for i := range 8 {
		write(t, filepath.Join(root, fmt.Sprintf("sys/bus/w1/devices/28-00000000000%d/w1_slave", i)), "")
	}
	for _, o := range discoverIn(t, root) {
		if !strings.Contains(o.Config, "poll_interval_seconds = 16\n") {
			t.Errorf("%s", o.Config)
		}
	}
	idle := t.TempDir()
	write(t, filepath.Join(idle, "sys/bus/w1/devices/w1_bus_master1/w1_master_slave_count"), "0")
	if got := summary(discoverIn(t, idle)); got != "w1 w1_bus_master1: a 1-Wire bus (no thermometer answers)\n" {
		t.Error(got)
	}
}

func TestDiscoverI2CWithoutChips(t *testing.T) {
	root := t.TempDir()
	for i, name := range []string{"bcm2835 (i2c@7e804000)", "fef04500.i2c"} {
		write(t, filepath.Join(root, fmt.Sprintf("sys/bus/i2c/devices/i2c-%d/name", i+1)), name)
	}
	got := discoverIn(t, root)
	if len(got) != 2 || !strings.Contains(got[0].Note, "/sys/bus/i2c/devices/i2c-1/new_device") || got[1].Note != "no chip is declared on it" {
		t.Errorf("%+v", got)
	}
}
