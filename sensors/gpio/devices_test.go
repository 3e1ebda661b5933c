package gpio

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/warthog618/go-gpiocdev/uapi"
	"golang.org/x/sys/unix"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
)

// needKernel skips a test where an emulator of another processor stands in for
// the kernel and does not know the calls of GPIO chips.
func needKernel(t *testing.T) {
	t.Helper()
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := uapi.GetChipInfo(f.Fd()); errors.Is(err, unix.ENOSYS) {
		t.Skip("needs a kernel, not an emulator of its calls")
	}
}

// machine lays out a root folder whose GPIO chips are the named files of /dev,
// each made what it maps to: "" is absent, "/…" a link to that.
func machine(t *testing.T, chips map[string]string) string {
	t.Helper()
	root := t.TempDir()
	class := filepath.Join(root, "sys/bus/gpio/devices")
	for _, dir := range []string{class, filepath.Join(root, "dev")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, file := range chips {
		device := filepath.Join(root, "sys/devices/platform/"+name+".gpio", name)
		if err := os.MkdirAll(device, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(device, filepath.Join(class, name)); err != nil {
			t.Fatal(err)
		}
		if file != "" {
			if err := os.Symlink(file, filepath.Join(root, "dev", name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return root
}

func TestWhatIsNoChip(t *testing.T) {
	needKernel(t)
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		root string
		want []string
	}{
		{"no GPIO in the kernel", t.TempDir(), []string{"absent", "no GPIO chip"}},
		{"no chip", machine(t, nil), []string{"absent", "no GPIO chip"}},
		{"/dev/null", machine(t, map[string]string{"gpiochip0": os.DevNull}), []string{"dev/gpiochip0 is no GPIO chip"}},
		{"a plain file", machine(t, map[string]string{"gpiochip0": plain}), []string{"dev/gpiochip0 is no GPIO chip"}},
		{"a FIFO", machine(t, map[string]string{"gpiochip0": fifo}), []string{"dev/gpiochip0 is no GPIO chip"}},
		{"no node", machine(t, map[string]string{"gpiochip0": ""}), []string{"dev/gpiochip0 is missing"}},
	} {
		for _, o := range []Options{{Line: "GPIO17"}, {Line: "17", Chip: "pinctrl-bcm2711"}} {
			s, err := New(config.Sensor{Options: filled(o)}, sensors.Env{SysRoot: tt.root})
			if err != nil {
				t.Fatal(err)
			}
			_, err = s.Read(t.Context())
			wantError(t, tt.name, err, tt.want...)
		}
		offers := Type.Discover(t.Context(), sensors.Env{SysRoot: tt.root})
		if len(tt.want) > 1 {
			if len(offers) > 0 {
				t.Errorf("%s: %+v", tt.name, offers)
			}
		} else if len(offers) != 1 || offers[0].Name != "gpiochip0.gpio" || offers[0].Note == "" || offers[0].Config != "" {
			t.Errorf("%s: %+v", tt.name, offers)
		}
	}
}

func TestChipsAreInTheOrderOfTheirNumbers(t *testing.T) {
	root := machine(t, map[string]string{"gpiochip10": "", "gpiochip2": "", "gpiochip0": "", "other": ""})
	nodes, err := devices{root}.nodes()
	if err != nil || len(nodes) != 3 {
		t.Fatalf("%+v, %v", nodes, err)
	}
	for i, name := range []string{"gpiochip0", "gpiochip2", "gpiochip10"} {
		want := node{path: filepath.Join(root, "dev", name), device: filepath.Join(root, "sys/devices/platform", name+".gpio")}
		if nodes[i] != want {
			t.Errorf("%+v, want %+v", nodes[i], want)
		}
	}
}

// What the kernel answers where there is no chip behind the file.
func TestRequestsOfWhatIsNoChip(t *testing.T) {
	needKernel(t)
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	c := &deviceChip{f: f, name: "null", n: 1}
	defer c.Close()
	if _, err := c.info(0); !errors.Is(err, unix.ENOTTY) {
		t.Errorf("info: %v", err)
	}
	if _, err := c.request(0, request{consumer: consumer("x"), rising: true, debounce: time.Second}); !errors.Is(err, unix.ENOTTY) {
		t.Errorf("request: %v", err)
	}
}

func TestFlags(t *testing.T) {
	for _, tt := range []struct {
		r    request
		want uapi.LineFlagV2
	}{
		{request{bias: "as-is"}, uapi.LineFlagV2Input},
		{request{bias: "pull-up", activeLow: true}, uapi.LineFlagV2Input | uapi.LineFlagV2BiasPullUp | uapi.LineFlagV2ActiveLow},
		{request{bias: "pull-down", rising: true}, uapi.LineFlagV2Input | uapi.LineFlagV2BiasPullDown | uapi.LineFlagV2EdgeRising},
		{request{bias: "disabled", falling: true}, uapi.LineFlagV2Input | uapi.LineFlagV2BiasDisabled | uapi.LineFlagV2EdgeFalling},
		{request{rising: true, falling: true}, uapi.LineFlagV2Input | uapi.LineFlagV2EdgeBoth},
	} {
		if got := flags(tt.r); got != tt.want {
			t.Errorf("%+v: %#x, want %#x", tt.r, got, tt.want)
		}
	}
}

// pipeLine is a line whose kernel is a pipe.
func pipeLine(t *testing.T) (l *deviceLine, kernel int) {
	t.Helper()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fds[1]) })
	l, err := newDeviceLine(fds[0], true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, fds[1]
}

// encode lays an event out as the kernel does (struct gpio_v2_line_event).
func encode(b []byte, stamp uint64, rising bool, number uint32) []byte {
	id := uint32(2)
	if rising {
		id = 1
	}
	b = binary.NativeEndian.AppendUint64(b, stamp)
	for _, word := range [10]uint32{id, 3, number, number} {
		b = binary.NativeEndian.AppendUint32(b, word)
	}
	return b
}

func monotonic(t *testing.T) uint64 {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		t.Fatal(err)
	}
	return uint64(ts.Nano())
}

func TestEventsOfAFile(t *testing.T) {
	l, kernel := pipeLine(t)
	if got, err := l.events(0); len(got) != 0 || err != nil {
		t.Fatalf("none yet: %v, %v", got, err)
	}
	if got, err := l.events(time.Millisecond); len(got) != 0 || err != nil {
		t.Fatalf("none in time: %v, %v", got, err)
	}
	if eventBytes != 48 || uapi.LineEventRisingEdge != 1 {
		t.Fatal("the library's event is not the kernel's")
	}

	const n = batch + 6
	stamp, now := monotonic(t), time.Now()
	var written []byte
	for i := range n {
		written = encode(written, stamp-uint64(time.Hour)+uint64(i)*uint64(time.Second), i%2 == 0, uint32(i+1))
	}
	go unix.Write(kernel, written)
	var got []event
	for len(got) < n {
		some, err := l.events(10 * time.Second)
		if err != nil || len(some) == 0 || len(some) > batch {
			t.Fatalf("%d events, %v", len(some), err)
		}
		got = append(got, some...)
	}
	for i, e := range got {
		if e.number != uint32(i+1) || e.rising != (i%2 == 0) {
			t.Fatalf("event %d is %+v", i, e)
		}
		want := now.Add(-time.Hour + time.Duration(i)*time.Second)
		if off := e.at.Sub(want).Abs(); off > 5*time.Second {
			t.Fatalf("event %d is %v off", i, off)
		}
		if e.at.Round(0) == e.at {
			t.Fatal("the time has lost its monotonic reading")
		}
	}
}

func TestAStampOfTheFutureIsOfNow(t *testing.T) {
	l, kernel := pipeLine(t)
	unix.Write(kernel, encode(nil, monotonic(t)+uint64(time.Hour), true, 1))
	got, err := l.events(10 * time.Second)
	if err != nil || len(got) != 1 || got[0].at.After(time.Now()) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestInterruptEndsAllWaiting(t *testing.T) {
	l, _ := pipeLine(t)
	done := make(chan error)
	go func() {
		for range 3 { // the present call, and later ones
			if got, err := l.events(time.Hour); len(got) != 0 || err != nil {
				done <- errors.New("events of an interrupted line")
			}
		}
		done <- nil
	}()
	l.interrupt()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("still waiting")
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	l.interrupt()
	if _, err := l.events(time.Second); err == nil {
		t.Error("a closed line has events")
	}
}

// A pipe whose writer is gone is at its end, which a line never is.
func TestNoKernelNoSpin(t *testing.T) {
	l, kernel := pipeLine(t)
	unix.Close(kernel)
	if got, err := l.events(time.Hour); len(got) != 0 || err == nil {
		t.Errorf("%v, %v", got, err)
	}
}

func TestALevelNeedsNoPolling(t *testing.T) {
	needKernel(t)
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd, err := unix.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	l, err := newDeviceLine(fd, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.value(); !errors.Is(err, unix.ENOTTY) {
		t.Errorf("value: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func BenchmarkDecode(b *testing.B) {
	l := &deviceLine{out: make([]event, 0, batch)}
	var full []byte
	for i := range batch {
		full = encode(full, uint64(i), true, uint32(i))
	}
	b.ReportAllocs()
	for b.Loop() {
		if got, err := l.decode(full); len(got) != batch || err != nil {
			b.Fatal(err)
		}
	}
}
