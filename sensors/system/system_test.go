package system

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// machine is a tree of proc and sys that a test writes.
type machine string

func (m machine) write(t *testing.T, name, content string) {
	t.Helper()
	path := filepath.Join(string(m), name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// newMachine returns one of which every figure is known.
func newMachine(t *testing.T) machine {
	m := machine(t.TempDir())
	m.cpu(t, 100, 300)
	m.traffic(t, 1000, 500)
	m.write(t, "proc/meminfo", "MemTotal: 1000 kB\nMemFree: 100 kB\nMemAvailable: 250 kB\nCached: 100 kB\n")
	m.write(t, "proc/loadavg", "0.50 0.25 0.10 1/100 1234\n")
	m.write(t, fmt.Sprintf("proc/%d/statm", os.Getpid()), "500 100 50 10 0 200 0\n")
	return m
}

func (m machine) cpu(t *testing.T, busy, idle int) {
	m.write(t, "proc/stat", fmt.Sprintf("cpu  %d 0 0 %d 0 0 0 0 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0\n", busy, idle))
}

func (m machine) traffic(t *testing.T, rx, tx int) {
	m.write(t, "proc/net/dev", fmt.Sprintf(`Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 99999999 1 0 0 0 0 0 0 99999999 1 0 0 0 0 0 0
  eth0: %d 1 0 0 0 0 0 0 %d 1 0 0 0 0 0 0
 wlan0: 7 1 0 0 0 0 0 0 7 1 0 0 0 0 0 0
`, rx, tx))
}

func open(t *testing.T, root string, o Options) *sensor {
	t.Helper()
	if o.Path == "" {
		o.Path = "/"
	}
	s, err := Type.New(config.Sensor{Name: "host", Options: &o}, sensors.Env{SysRoot: root})
	if err != nil {
		t.Fatal(err)
	}
	return s.(*sensor)
}

// read returns one read's samples by channel.
func read(t *testing.T, s sensors.Sensor) map[string]sensors.Sample {
	t.Helper()
	samples, err := s.Read(t.Context())
	if err != nil {
		t.Errorf("read: %v", err)
	}
	all := map[string]sensors.Sample{}
	for _, s := range samples {
		if s.Value.Kind() != wire.Number || s.Type == "" {
			t.Errorf("%+v", s)
		}
		all[s.Channel] = s
	}
	return all
}

func float(s sensors.Sample) float64 { f, _ := s.Value.Float(); return f }

func TestKnownMachine(t *testing.T) {
	m := newMachine(t)
	m.write(t, "sys/class/thermal/thermal_zone0/type", "cpu-thermal\n")
	m.write(t, "sys/class/thermal/thermal_zone0/temp", "48312\n")
	m.write(t, "sys/class/thermal/thermal_zone1/type", "off\n")
	m.write(t, "sys/class/thermal/thermal_zone1/temp", "-256000\n")
	s := open(t, string(m), Options{})

	first := read(t, s)
	for _, absent := range []string{"cpu_percent", "net_rx_bytes_per_second", "net_tx_bytes_per_second"} {
		if _, ok := first[absent]; ok {
			t.Errorf("%s in the first read", absent)
		}
	}
	m.cpu(t, 125, 375)
	m.traffic(t, 21000, 10500)
	s.lastAt = s.lastAt.Add(-10 * time.Second)
	second := read(t, s)
	for channel, want := range map[string]struct {
		value float64
		unit  string
	}{
		"cpu_percent": {25, "%"}, "memory_percent": {75, "%"}, "memory_used_bytes": {750 * 1024, "B"},
		"load1": {0.5, ""}, "load5": {0.25, ""}, "load15": {0.1, ""},
		"temperature_celsius": {48.31, "C"}, "rss_bytes": {float64(100 * os.Getpagesize()), "B"},
	} {
		if got := second[channel]; float(got) != want.value || got.Unit != want.unit {
			t.Errorf("%s is %v %s, want %g %s", channel, got.Value, got.Unit, want.value, want.unit)
		}
	}
	if rx, tx := float(second["net_rx_bytes_per_second"]), float(second["net_tx_bytes_per_second"]); rx < 1900 || rx > 2000 || tx < 950 || tx > 1000 {
		t.Errorf("%g B/s received, %g sent", rx, tx)
	}
}

func TestAbsentIsNotFailed(t *testing.T) {
	got := read(t, open(t, string(newMachine(t)), Options{}))
	if _, ok := got["temperature_celsius"]; ok {
		t.Error("a temperature without a sensor")
	}
	for _, present := range []string{"memory_percent", "disk_percent", "load1", "uptime_seconds", "rss_bytes"} {
		if _, ok := got[present]; !ok {
			t.Errorf("%s is missing", present)
		}
	}
}

// A driver that has no value now can keep a reader waiting for ever, as a FIFO
// without a writer does.
func TestSilentTemperatureCostsOnlyItself(t *testing.T) {
	m := newMachine(t)
	m.write(t, "sys/class/hwmon/hwmon0/temp1_input", "48312\n")
	if err := unix.Mkfifo(filepath.Join(string(m), "sys/class/hwmon/hwmon0/temp2_input"), 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan float64, 1)
	go func() { done <- float(read(t, open(t, string(m), Options{}))["temperature_celsius"]) }()
	select {
	case got := <-done:
		if got != 48.31 {
			t.Errorf("got %g", got)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("hung")
	}
}

func TestFailureCostsOnlyItsMetric(t *testing.T) {
	m := newMachine(t)
	if err := os.Remove(filepath.Join(string(m), "proc/net/dev")); err != nil {
		t.Fatal(err)
	}
	samples, err := open(t, string(m), Options{Path: "/does/not/exist"}).Read(t.Context())
	if err == nil || !strings.Contains(err.Error(), "read network") || !strings.Contains(err.Error(), "read disk_percent of /does/not/exist") {
		t.Errorf("got %v", err)
	}
	if len(samples) < 5 {
		t.Errorf("only %d samples", len(samples))
	}
}

func TestInterfaces(t *testing.T) {
	m := newMachine(t)
	only := Options{Metrics: []string{"net_rx_bytes_per_second"}}
	rate := func(interfaces []string, before, after int) (float64, bool) {
		o := only
		o.Interfaces = interfaces
		s := open(t, string(m), o)
		m.traffic(t, before, 0)
		read(t, s)
		s.lastAt = s.lastAt.Add(-1000 * time.Second)
		m.traffic(t, after, 0)
		got, ok := read(t, s)["net_rx_bytes_per_second"]
		return float(got), ok
	}
	if got, ok := rate([]string{"eth*"}, 0, 5_000_000); !ok || got < 4900 || got > 5000 {
		t.Errorf("eth*: %g, %t", got, ok)
	}
	if got, ok := rate([]string{"wlan0"}, 0, 5_000_000); !ok || got != 0 {
		t.Errorf("wlan0: %g, %t", got, ok)
	}
	if _, ok := rate([]string{"eth0"}, 5_000_000, 10); ok {
		t.Error("a rate over a counter that began again")
	}
	if _, ok := rate([]string{"wwan0"}, 0, 10); ok {
		t.Error("a rate of an interface that is not there")
	}
}

func TestOnlyWhatIsAskedFor(t *testing.T) {
	got := read(t, open(t, string(newMachine(t)), Options{Metrics: []string{"load5", "rss_bytes"}}))
	if len(got) != 2 || float(got["load5"]) != 0.25 {
		t.Errorf("got %v", got)
	}
}

func TestRefusesConfig(t *testing.T) {
	for want, o := range map[string]Options{
		`unknown metric "cpu"`: {Metrics: []string{"cpu"}},
		`"[" is no valid`:      {Interfaces: []string{"["}},
	} {
		if _, err := Type.New(config.Sensor{Options: &o}, sensors.Env{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestThisMachine(t *testing.T) {
	s := open(t, "/", Options{})
	read(t, s)
	// The kernel counts in hundredths of a second.
	deadline := time.Now().Add(10 * time.Second)
	for {
		got := read(t, s)
		if cpu, ok := got["cpu_percent"]; ok {
			if v := float(cpu); v < 0 || v > 100 {
				t.Errorf("cpu_percent is %g", v)
			}
			if v := float(got["memory_percent"]); v <= 0 || v >= 100 {
				t.Errorf("memory_percent is %g", v)
			}
			if v := float(got["rss_bytes"]); v < 1<<20 {
				t.Errorf("rss_bytes is %g", v)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("no cpu_percent")
		}
		runtime.Gosched()
	}
}

func BenchmarkRead(b *testing.B) {
	o := Options{Path: "/"}
	s, err := Type.New(config.Sensor{Options: &o}, sensors.Env{})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Read(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
