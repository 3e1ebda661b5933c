package gpio

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

func TestNewRefuses(t *testing.T) {
	tests := []struct {
		name, key string
		o         Options
		d         config.Sensor
	}{
		{"no line", "line", Options{}, config.Sensor{}},
		{"a number without a chip", "chip", Options{Line: "17"}, config.Sensor{}},
		{"a number that no chip has", "line", Options{Line: "70000", Chip: "a"}, config.Sensor{}},
		{"a counted chip", "chip", Options{Line: "17", Chip: "gpiochip0"}, config.Sensor{}},
		{"a counted node", "chip", Options{Line: "17", Chip: "/dev/gpiochip10"}, config.Sensor{}},
		{"an edge of a level", "edge", Options{Line: "A", Edge: "both"}, config.Sensor{}},
		{"a debounced level", "debounce_seconds", Options{Line: "A", DebounceSeconds: 0.1}, config.Sensor{}},
		{"mode", "mode", Options{Line: "A", Mode: "pulse"}, config.Sensor{}},
		{"edge", "edge", Options{Line: "A", Mode: "edge", Edge: "up"}, config.Sensor{}},
		{"rate_per", "rate_per", Options{Line: "A", Mode: "count", RatePer: "day"}, config.Sensor{}},
		{"an offset to a rate", "offset", Options{Line: "A", Mode: "count"}, config.Sensor{Offset: 3}},
	}
	for _, tt := range tests {
		tt.d.Options = filled(tt.o)
		_, err := New(tt.d, sensors.Env{})
		var problem config.Problem
		if !errors.As(err, &problem) || problem.Key != tt.key {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if _, err := New(config.Sensor{}, sensors.Env{}); err == nil {
		t.Error("New took the options of another type")
	}
}

func TestConsumerFitsTheKernel(t *testing.T) {
	for name, want := range map[string]string{
		"door":                        "pyvorin-edge:door",
		"a\x00b":                      "pyvorin-edge:ab",
		strings.Repeat("x", 40):       "pyvorin-edge:" + strings.Repeat("x", 18),
		strings.Repeat("x", 17) + "é": "pyvorin-edge:" + strings.Repeat("x", 17),
	} {
		if got := consumer(name); got != want || len(got) > 31 {
			t.Errorf("consumer(%q) = %q, want %q", name, got, want)
		}
	}
}

// A Pi with two expanders of one kind, one of which has a line called as one of
// the Pi's.
func board() *fakeKernel {
	return &fakeKernel{chips: []*fakeChip{
		fakeChipOf("pinctrl-bcm2711", "/sys/devices/platform/soc/fe200000.gpio", "ID_SDA", "GPIO17", "DOOR", "TWICE", "TWICE"),
		fakeChipOf("mcp23017", "/sys/devices/platform/soc/fe804000.i2c/i2c-1/1-0020", "", "DOOR"),
		fakeChipOf("mcp23017", "/sys/devices/platform/soc/fe804000.i2c/i2c-1/1-0021", "", "17"),
	}}
}

func TestTheLineIsFound(t *testing.T) {
	for _, tt := range []struct {
		o            Options
		chip, offset int // that is meant
	}{
		{Options{Line: "GPIO17"}, 0, 1},
		{Options{Line: "GPIO17", Chip: "pinctrl-bcm2711"}, 0, 1},
		{Options{Line: "4", Chip: "pinctrl-bcm2711"}, 0, 4},
		{Options{Line: "DOOR", Chip: "mcp23017"}, 1, 1},
		{Options{Line: "0", Chip: "1-0021"}, 2, 0},
		{Options{Line: "0", Chip: "i2c-1/1-0020"}, 1, 0},
		{Options{Line: "DOOR", Chip: "fe200000.gpio"}, 0, 2},
		{Options{Line: "3", Chip: "soc/fe200000.gpio"}, 0, 3},
	} {
		k := board()
		s := makeSensor(t, k, tt.o)
		if k.opened() != 0 {
			t.Fatal("New opened a chip")
		}
		got, err := s.Read(t.Context())
		if err != nil || len(got) != 1 || got[0].Value != wire.BoolValue(false) {
			t.Errorf("%+v: %+v, %v", tt.o, got, err)
			continue
		}
		if k.chips[tt.chip].line(tt.offset) == nil {
			t.Errorf("%+v: another line was taken", tt.o)
		}
		if k.opened() != 0 {
			t.Errorf("%+v: %d chips are open", tt.o, k.opened())
		}
		if err := s.(sensors.Closer).Close(); err != nil || k.chips[tt.chip].line(tt.offset) != nil {
			t.Errorf("%+v: Close did not give the line back: %v", tt.o, err)
		}
	}
}

func TestTheReasonSaysWhatToDo(t *testing.T) {
	hold := func(consumer string) func(*fakeKernel) {
		return func(k *fakeKernel) { k.chips[0].lines[1] = lineInfo{name: "GPIO17", used: true, consumer: consumer} }
	}
	refuse := func(err error) func(*fakeKernel) {
		return func(k *fakeKernel) { k.chips[0].refuse = func(request) error { return err } }
	}
	unreadable := func(err error) func(*fakeKernel) {
		return func(k *fakeKernel) { k.chips[0].openErr = err }
	}
	for _, tt := range []struct {
		name   string
		o      Options
		change func(*fakeKernel)
		want   []string
	}{
		{"no chip", Options{Line: "GPIO17"}, func(k *fakeKernel) { k.chips = nil }, []string{"absent", "no GPIO chip", "driver"}},
		{"another chip", Options{Line: "3", Chip: "cp2102"}, nil, []string{"absent", `"cp2102"`, "pinctrl-bcm2711", "mcp23017 at 1-0021", "plugged in"}},
		{"part of a path's name", Options{Line: "0", Chip: "0020"}, nil, []string{"absent"}},
		{"path of two chips", Options{Line: "0", Chip: "i2c-1"}, nil, []string{"ambiguous", "at 1-0020", "at 1-0021"}},
		{"nothing of a path", Options{Line: "0", Chip: "/"}, nil, []string{"absent"}},
		{"no such name", Options{Line: "GPIO99"}, nil, []string{"absent", `"GPIO99"`, "gpioinfo"}},
		{"ambiguous label", Options{Line: "0", Chip: "mcp23017"}, nil, []string{"ambiguous", "at 1-0020", "at 1-0021", "device path"}},
		{"ambiguous name", Options{Line: "DOOR"}, nil, []string{"ambiguous", "fe200000.gpio", "1-0020", "set chip"}},
		{"a chip's own ambiguous name", Options{Line: "TWICE"}, nil, []string{"ambiguous", "number of the line"}},
		{"no such number", Options{Line: "5", Chip: "pinctrl-bcm2711"}, nil, []string{"line 5", "0 to 4"}},
		{"no permission", Options{Line: "GPIO17"}, unreadable(unix.EACCES), []string{"/dev/gpiochip", "permission denied"}},
		{"no permission, by label", Options{Line: "1", Chip: "pinctrl-bcm2711"}, unreadable(unix.EACCES), []string{"permission denied"}},
		{"sandbox", Options{Line: "GPIO17"}, unreadable(unix.EPERM), []string{"DeviceAllow"}},
		{"no node", Options{Line: "GPIO17"}, unreadable(unix.ENOENT), []string{"/dev/gpiochip", "missing"}},
		{"old kernel", Options{Line: "GPIO17"}, func(k *fakeKernel) { k.chips[0].infoErr = unix.EINVAL }, []string{"5.10"}},
		{"taken", Options{Line: "GPIO17"}, hold("spi0 CS0"), []string{"line GPIO17 of pinctrl-bcm2711", `held by "spi0 CS0"`}},
		{"taken by an agent", Options{Line: "1", Chip: "pinctrl-bcm2711"}, hold("pyvorin-edge:gate"), []string{"line 1 of", `the sensor "gate" of a running agent`}},
		{"taken by nobody", Options{Line: "GPIO17"}, hold(""), []string{"held by the kernel"}},
		{"no interrupt", Options{Line: "GPIO17", Mode: "edge"}, refuse(unix.ENXIO), []string{"no interrupt", `mode = "level"`}},
		{"no interrupt, on older kernels", Options{Line: "GPIO17", Mode: "count"}, refuse(unix.ENODEV), []string{"no interrupt"}},
		{"no interrupt to debounce", Options{Line: "GPIO17", Mode: "count", DebounceSeconds: 0.1}, refuse(unix.ENXIO), []string{"no interrupt"}},
		{"interrupt taken", Options{Line: "GPIO17", Mode: "count"}, refuse(unix.EBUSY), []string{"interrupt", "in use"}},
		{"no bias", Options{Line: "GPIO17", Bias: "pull-up"}, refuse(unix.EINVAL), []string{"refuses", `bias = "pull-up"`, "invalid argument"}},
		{"one edge only", Options{Line: "GPIO17", Mode: "edge"}, refuse(unix.EINVAL), []string{"refuses", "both edges"}},
		{"not supported", Options{Line: "GPIO17", Bias: "pull-down"}, refuse(unix.Errno(524)), []string{"refuses"}},
		{"no answer", Options{Line: "GPIO17"}, refuse(unix.EREMOTEIO), []string{"take line GPIO17 of pinctrl-bcm2711", "remote I/O error"}},
		{"gone meanwhile", Options{Line: "1", Chip: "pinctrl-bcm2711"}, func(k *fakeKernel) {
			k.chips[0].infoErr, k.chips[0].refuse = unix.ENODEV, func(request) error { return unix.ENODEV }
		}, []string{"the chip is gone"}},
	} {
		k := board()
		if tt.change != nil {
			tt.change(k)
		}
		s := makeSensor(t, k, tt.o)
		var err error
		if l, ok := s.(sensors.Listener); ok {
			err = l.Run(t.Context(), func() {})
		} else {
			var got []sensors.Sample
			if got, err = s.Read(t.Context()); len(got) > 0 {
				t.Errorf("%s: %+v", tt.name, got)
			}
		}
		wantError(t, tt.name, err, tt.want...)
		if err != nil && len(err.Error()) > 256 {
			t.Errorf("%s: %d bytes, of which 256 are told: %s", tt.name, len(err.Error()), err)
		}
		if k.opened() != 0 {
			t.Errorf("%s: %d chips are open", tt.name, k.opened())
		}
	}
}

// One chip that may not be opened is no reason why a line of another one
// should not be read.
func TestAnUnreadableChipHarmsNoOther(t *testing.T) {
	k := board()
	k.chips[0].openErr = unix.EACCES
	if _, err := makeSensor(t, k, Options{Line: "DOOR"}).Read(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestWhatIsAskedOfTheKernel(t *testing.T) {
	for _, tt := range []struct {
		o    Options
		want request
	}{
		{Options{Line: "GPIO17"}, request{bias: "as-is"}},
		{Options{Line: "GPIO17", Bias: "pull-up", ActiveLow: true}, request{bias: "pull-up", activeLow: true}},
		{Options{Line: "GPIO17", Mode: "count"}, request{bias: "as-is", rising: true}},
		{Options{Line: "GPIO17", Mode: "count", Edge: "falling", DebounceSeconds: 0.25}, request{bias: "as-is", falling: true, debounce: 250e6}},
		{Options{Line: "GPIO17", Mode: "count", Edge: "both"}, request{bias: "as-is", rising: true, falling: true}},
	} {
		k := board()
		if _, err := makeSensor(t, k, tt.o).Read(t.Context()); err != nil {
			t.Errorf("%+v: %v", tt.o, err)
			continue
		}
		tt.want.consumer = "pyvorin-edge:door"
		if got := k.chips[0].wants; len(got) != 1 || got[0] != tt.want {
			t.Errorf("%+v: %+v, want %+v", tt.o, got, tt.want)
		}
	}
}
