package modbus

import (
	"context"
	"fmt"
	"io"
	"log"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	mb "github.com/simonvetter/modbus"
	"pgregory.net/rapid"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

func TestDecode(t *testing.T) {
	tests := []struct {
		r    Register
		raw  string
		want wire.Value
		why  string
	}{
		{Register{DataType: "uint16"}, "\xff\xfe", wire.NumberValue(65534), ""},
		{Register{}, "\x00\x07", wire.NumberValue(7), ""},
		{Register{DataType: "int16"}, "\xff\xfe", wire.NumberValue(-2), ""},
		{Register{DataType: "int16", ByteOrder: "little"}, "\xfe\xff", wire.NumberValue(-2), ""},
		{Register{DataType: "int16", Scale: 0.5}, "\x00\x05", wire.NumberValue(2.5), ""},
		{Register{DataType: "int32"}, "\xff\xff\xff\xfe", wire.NumberValue(-2), ""},
		{Register{DataType: "uint32"}, "\x12\x34\x56\x78", wire.NumberValue(0x12345678), ""},
		{Register{DataType: "uint32", WordOrder: "little"}, "\x56\x78\x12\x34", wire.NumberValue(0x12345678), ""},
		{Register{DataType: "uint32", ByteOrder: "little"}, "\x34\x12\x78\x56", wire.NumberValue(0x12345678), ""},
		{Register{DataType: "uint32", ByteOrder: "little", WordOrder: "little"}, "\x78\x56\x34\x12", wire.NumberValue(0x12345678), ""},
		{Register{DataType: "uint64", WordOrder: "little"}, "\x00\x04\x00\x03\x00\x02\x00\x01", wire.NumberValue(0x0001000200030004), ""},
		{Register{DataType: "int64"}, "\x80\x00\x00\x00\x00\x00\x00\x00", wire.NumberValue(math.MinInt64), ""},
		{Register{DataType: "int64"}, "\xff\xdf\xff\xff\xff\xff\xff\xff", wire.NumberValue(-(1 << 53)), "rounded"},
		{Register{DataType: "uint64"}, "\x00\x1f\xff\xff\xff\xff\xff\xff", wire.NumberValue(1<<53 - 1), ""},
		{Register{DataType: "uint64"}, "\x00\x20\x00\x00\x00\x00\x00\x01", wire.NumberValue(1 << 53), "rounded"},
		{Register{DataType: "uint64"}, "\xff\xff\xff\xff\xff\xff\xff\xff", wire.NumberValue(1 << 64), "rounded"},
		{Register{DataType: "float32"}, "\x43\x66\x19\x9a", wire.NumberValue(230.1), ""},
		{Register{DataType: "float64"}, "\x40\x6c\xc3\x33\x33\x33\x33\x33", wire.NumberValue(230.1), ""},
		{Register{DataType: "float32"}, "\x7f\xc0\x00\x00", wire.Value{}, "the register holds NaN"},
		{Register{DataType: "float64"}, "\xff\xf0\x00\x00\x00\x00\x00\x00", wire.Value{}, "an infinite number"},
		{Register{DataType: "float64", Scale: 1e300}, "\x7f\xe0\x00\x00\x00\x00\x00\x00", wire.Value{}, "not finite after scale"},
		{Register{DataType: "bool"}, "\x01\x00", wire.BoolValue(true), ""},
		{Register{DataType: "bool"}, "\x00\x00", wire.BoolValue(false), ""},
		{Register{Bit: at(0)}, "\xff\xfe", wire.BoolValue(false), ""},
		{Register{Bit: at(15)}, "\x80\x00", wire.BoolValue(true), ""},
		{Register{Bit: at(15), ByteOrder: "little"}, "\x00\x80", wire.BoolValue(true), ""},
		{Register{DataType: "string(5)"}, "ABCDEF", wire.TextValue("ABCDE"), ""},
		{Register{DataType: "string(6)", WordOrder: "little"}, "AB  \x00x", wire.TextValue("AB"), ""},
		{Register{DataType: "string(4)", ByteOrder: "little"}, "BADC", wire.TextValue("ABCD"), ""},
	}
	for _, tt := range tests {
		if tt.r.Scale == 0 {
			tt.r.Scale = 1
		}
		v, err := newValue(tt.r)
		if err != nil {
			t.Fatal(err)
		}
		if 2*v.count != len(tt.raw) {
			t.Errorf("%+v takes %d registers", tt.r, v.count)
			continue
		}
		data := answer{registers: append([]byte{9, 9}, tt.raw...)}
		v.address = 8
		got, quality, why := v.from(data, query{address: 7})
		if got != tt.want || !strings.Contains(why, tt.why) || (quality == "") != (tt.why == "") {
			t.Errorf("%+v of %x: %v %s %q, want %v", tt.r, tt.raw, got, quality, why, tt.want)
		}
	}
}

// TestOrdersAgreeWithTheLibrary compares all orders with what the library makes
// of the same registers.
func TestOrdersAgreeWithTheLibrary(t *testing.T) {
	far := &slave{words: map[int]uint16{0: 0x4366, 1: 0x199a, 2: 0x1234, 3: 0x5678}}
	address := far.onTCP(t)
	client, err := mb.NewClient(&mb.ClientConfiguration{URL: "rtuovertcp://" + address, Timeout: patience, Logger: log.New(io.Discard, "", 0)})
	if err == nil {
		err = client.Open()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, byteOrder := range []string{"big", "little"} {
		for _, wordOrder := range []string{"big", "little"} {
			endianness, words := mb.BIG_ENDIAN, mb.HIGH_WORD_FIRST
			if byteOrder == "little" {
				endianness = mb.LITTLE_ENDIAN
			}
			if wordOrder == "little" {
				words = mb.LOW_WORD_FIRST
			}
			if err := client.SetEncoding(endianness, words); err != nil {
				t.Fatal(err)
			}
			u32, err1 := client.ReadUint32(0, mb.HOLDING_REGISTER)
			u64, err2 := client.ReadUint64(0, mb.HOLDING_REGISTER)
			if err1 != nil || err2 != nil {
				t.Fatal(err1, err2)
			}
			s := newSensor(t, nil, "meter", func(o *Options) {
				o.URL, o.ByteOrder, o.WordOrder, o.ResponseTimeoutSeconds = "rtuovertcp://"+address, byteOrder, wordOrder, 10
				o.Registers = []Register{
					{Channel: "u32", Address: 0, DataType: "uint32", Scale: 1},
					{Channel: "u64", Address: 0, DataType: "uint64", Scale: 1},
				}
			})
			got, err := read(t, s)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(map[string]float64{"u32": float64(u32), "u64": float64(u64)}, numbers(got)); diff != "" {
				t.Errorf("%s bytes, %s words:\n%s", byteOrder, wordOrder, diff)
			}
		}
	}
}

func TestPlanCoversEverything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kinds := rapid.SampledFrom([]string{"holding", "input", "coil", "discrete"})
		maxGap := rapid.IntRange(0, 124).Draw(t, "max_gap")
		var values []value
		for i := range rapid.IntRange(1, 60).Draw(t, "values") {
			v := value{channel: fmt.Sprint(i), kind: kinds.Draw(t, "kind"), count: 1}
			v.address = rapid.OneOf(rapid.IntRange(0, 300), rapid.IntRange(65000, 65400)).Draw(t, "address")
			if !isBit(v.kind) {
				v.count = rapid.IntRange(1, maxRegisters).Draw(t, "count")
			}
			values = append(values, v)
		}
		// Whatever is refused, nothing is lost on the way down.
		depth := 0
		for plan := newPlan(values, maxGap); len(plan) > 0; depth++ {
			seen := map[string]bool{}
			for _, b := range plan {
				end := b.address
				for _, v := range b.values {
					if v.kind != b.kind || v.address < b.address || v.end() > b.address+b.count {
						t.Fatalf("%+v is outside of %+v", v, b.query)
					}
					if depth == 0 && v.address-end > maxGap {
						t.Fatalf("a gap of %d in %+v", v.address-end, b.query)
					}
					end = max(end, v.end())
					seen[v.channel] = true
				}
				if end != b.address+b.count || b.count > maxBits || !isBit(b.kind) && b.count > maxRegisters {
					t.Fatalf("%+v, but its values end at %d", b.query, end)
				}
			}
			if len(seen) != len(values) {
				t.Fatalf("%d of %d values", len(seen), len(values))
			}
			left := 0
			var next []*block
			for _, b := range plan {
				if len(b.values) > 1 {
					first, second := b.split()
					next = append(next, first, second)
					left += len(b.values)
				}
			}
			plan, values = next, values[:left]
		}
	})
}

func TestAddresses(t *testing.T) {
	for url, want := range map[string]string{
		"tcp://plc":                          "tcp://plc:502",
		"tcp://PLC:0502/":                    "tcp://plc:502",
		"tcp://[::1]:1502":                   "tcp://[::1]:1502",
		"TCP://192.168.0.20:502":             "tcp://192.168.0.20:502",
		"rtuovertcp://moxa:4001":             "rtuovertcp://moxa:4001",
		"rtu:///dev/serial/by-id/usb-A_B:1%": "rtu:///dev/serial/by-id/usb-A_B:1%",
		"rtu:///dev//../dev/ttyUSB0":         "rtu:///dev/ttyUSB0",
		"plc:502":                            "",
		"rtu://ttyUSB0":                      "",
		"rtu:///":                            "",
		"rtuovertcp://moxa":                  "",
		"tcp://":                             "",
		"tcp://plc:0":                        "",
		"tcp://plc:70000":                    "",
		"tcp://user:hunter2@plc:502":         "",
		"tcp://plc/x":                        "",
		"udp://plc:502":                      "",
		"tcp+tls://plc:802":                  "",
		"tcp://a:b:c":                        "",
	} {
		a, err := parseAddress(url)
		if want == "" {
			if err == nil || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s: %v, %v", url, a, err)
			}
			continue
		}
		if err != nil || a.String() != want {
			t.Errorf("%s: %v, %v, want %s", url, a, err, want)
		}
	}
}

func TestConfig(t *testing.T) {
	const text = `
[[sensors.devices]]
name = "meter"
ingest_type = "modbus"
url = "rtu:///dev/ttyUSB0"
unit_id = 3
register = "input"
data_type = "float32"
parity = "even"
registers = [
  { channel = "voltage", address = 0, unit = "V", sensor_type = "voltage" },
  { channel = "energy", address = 342, scale = 0.1, word_order = "little" },
  { channel = "relay", register = "coil", address = 1 },
  { channel = "alarm", register = "holding", address = 7, data_type = "bool", bit = 4 },
]
`
	parse := func(text string) (*config.Config, error) {
		return config.Parse("c.toml", []byte(text), config.Options{SensorTypes: map[string]func() any{"modbus": Type.Options}})
	}
	c, err := parse(text)
	if err != nil {
		t.Fatal(err)
	}
	d := c.Sensors.Devices[0]
	s, err := New(d, sensors.Env{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, b := range s.(*sensor).plan {
		for _, v := range b.values {
			got = append(got, fmt.Sprintf("%s: %v of %s, scale %g", v.channel, b.query, v.dataType, v.scale))
		}
	}
	slices.Sort(got)
	want := []string{
		"alarm: holding register 7 of bool, scale 1",
		"energy: input registers 342 to 343 of float32, scale 0.1",
		"relay: coil 1 of bool, scale 1",
		"voltage: input registers 0 to 1 of float32, scale 1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for change, problem := range map[[2]string]string{
		{"address = 0", "address = 65536"}:                                       "sensors.devices[0].registers[0].address: 65536 is too large",
		{"address = 0", "adress = 0"}:                                            "registers[0].adress: unknown key; did you mean sensors.devices[0].registers[0].address?",
		{"address = 0, ", ""}:                                                    "registers[0].address: is missing",
		{`channel = "relay"`, `channel = ""`}:                                    "registers[2].channel: must not be empty",
		{`word_order = "little"`, `word_order = "middle"`}:                       "registers[1].word_order: is not one of the allowed values",
		{`ingest_type = "modbus"`, "ingest_type = \"modbus\"\nurk = 1\n"}:        "sensors.devices[0].urk: unknown key",
		{`registers = [`, "registers = [ 7,"}:                                    "registers[0]: expected a table, found a number",
		{`url = "rtu:///dev/ttyUSB0"`, "url = \"rtu:///dev/ttyUSB0\"\nbit = 16"}: "sensors.devices[0].bit: 16 is too large",
	} {
		if _, err := parse(strings.Replace(text, change[0], change[1], 1)); err == nil || !strings.Contains(err.Error(), problem) {
			t.Errorf("%q: %v", change[1], err)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	one := Register{Channel: "a", Scale: 1}
	for problem, change := range map[string]func(*Options){
		"url: must be an address":                    func(o *Options) { o.URL = "/dev/ttyUSB0" },
		"unit_id: 0 is no address":                   func(o *Options) { o.UnitID = 0 },
		"unit_id: 248 is no address":                 func(o *Options) { o.UnitID = 248 },
		"baud_rate: 9601 is not one of":              func(o *Options) { o.BaudRate = 9601 },
		"address: is missing":                        func(o *Options) { o.Address = nil },
		"address: belongs into the entries":          func(o *Options) { o.Registers = []Register{one} },
		"bit: belongs into the entries":              func(o *Options) { o.Address, o.Bit, o.Registers = nil, at(1), []Register{one} },
		"registers[1].channel: another register has": func(o *Options) { o.Address, o.Registers = nil, []Register{one, one} },
		"registers[0].scale: 0 leaves nothing":       func(o *Options) { o.Address, o.Registers = nil, []Register{{Channel: "a"}} },
		`data_type: "float" is none of`:              func(o *Options) { o.DataType = "float" },
		"data_type: a string needs its length":       func(o *Options) { o.DataType = "string" },
		`data_type: "string(0)" has no length`:       func(o *Options) { o.DataType = "string(0)" },
		`data_type: "string(251)" has no length`:     func(o *Options) { o.DataType = "string(251)" },
		"data_type: a coil holds one bit":            func(o *Options) { o.Register, o.DataType = "coil", "uint16" },
		"bit: needs data_type bool":                  func(o *Options) { o.DataType, o.Bit = "uint16", at(3) },
		"bit: a coil holds only one":                 func(o *Options) { o.Register, o.Bit = "coil", at(3) },
		"address: the value reaches beyond":          func(o *Options) { o.Address, o.DataType = at(65535), "float32" },
		"response_timeout_seconds: is not less than": func(o *Options) { o.ResponseTimeoutSeconds = 2 },
		"registers[0].scale: needs a number; a bool": func(o *Options) { o.Address, o.Registers = nil, []Register{{Channel: "a", Register: "coil", Scale: 2}} },
		"registers[0].data_type: a discrete holds on": func(o *Options) {
			o.Address, o.Registers = nil, []Register{{Channel: "a", Register: "discrete", DataType: "int16", Scale: 1}}
		},
	} {
		o := Type.Options().(*Options)
		o.URL, o.Address = "rtu:///dev/ttyUSB0", at(0)
		change(o)
		if _, err := New(config.Sensor{TimeoutSeconds: 2, Options: o}, sensors.Env{}); err == nil || !strings.HasPrefix(err.Error(), problem) {
			t.Errorf("%v, want %q", err, problem)
		}
	}
}

func TestSensorsOfALineAgree(t *testing.T) {
	shared := &sensors.Shared{}
	of := func(name string, change func(*Options)) error {
		o := Type.Options().(*Options)
		o.URL, o.Address = "rtu:///dev/ttyUSB0", at(0)
		change(o)
		_, err := New(config.Sensor{Name: name, Options: o}, sensors.Env{Shared: shared})
		return err
	}
	if err := of("first", func(*Options) {}); err != nil {
		t.Fatal(err)
	}
	for key, change := range map[string]func(*Options){
		"baud_rate: is 19200 here and 9600 in the sensor first": func(o *Options) { o.BaudRate = 19200 },
		"data_bits: is 7 here":      func(o *Options) { o.DataBits = 7 },
		"parity: is even here":      func(o *Options) { o.Parity = "even" },
		"stop_bits: is 2 here":      func(o *Options) { o.StopBits = 2 },
		"parity: is odd here and n": func(o *Options) { o.URL, o.Parity = "RTU:///dev/./ttyUSB0", "odd" },
	} {
		if err := of("second", change); err == nil || !strings.HasPrefix(err.Error(), key) {
			t.Errorf("%v, want %q", err, key)
		}
	}
	for _, change := range []func(*Options){
		func(o *Options) { o.UnitID = 2 },
		func(o *Options) { o.URL, o.BaudRate = "rtu:///dev/ttyUSB1", 19200 },
	} {
		if err := of("third", change); err != nil {
			t.Error(err)
		}
	}
}

// TestResponseTimeout is how the wait for an answer fits into that for a read.
func TestResponseTimeout(t *testing.T) {
	for _, tt := range []struct {
		url           string
		baud          int
		chosen, limit float64
		registers     int
		want          string
	}{
		{"tcp://x", 9600, 0, 5, 1, "1s"},
		{"tcp://x", 9600, 0, 0.5, 1, "400ms"},
		{"tcp://x", 9600, 3, 5, 1, "3s"},
		{"rtu:///dev/x", 9600, 0, 5, 1, "520ms"},
		{"rtu:///dev/x", 9600, 0, 5, 125, "800ms"},
		{"rtu:///dev/x", 1200, 0, 5, 125, "2.91s"},
		{"rtu:///dev/x", 300, 0, 5, 125, "4s"},
		{"rtuovertcp://x:1", 115200, 0, 5, 1, "1s"},
	} {
		o := Type.Options().(*Options)
		o.URL, o.BaudRate, o.ResponseTimeoutSeconds, o.Address = tt.url, tt.baud, tt.chosen, at(0)
		o.DataType = fmt.Sprintf("string(%d)", 2*tt.registers)
		s, err := New(config.Sensor{TimeoutSeconds: tt.limit, Options: o}, sensors.Env{})
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := s.(*sensor).bus.limits(); got.String() != tt.want {
			t.Errorf("%+v: %v", tt, got)
		}
	}
}

// FuzzAnswer has a line answer with anything: it is refused, or it is what the
// rules of the frame say it is.
func FuzzAnswer(f *testing.F) {
	good := (&slave{}).frame(request{unit: 1}, []byte{3, 4, 0x12, 0x34, 0x56, 0x78})
	f.Add(false, good)
	f.Add(false, good[:5])
	f.Add(false, append([]byte{0, 0}, good...))
	f.Add(false, rtu(1, []byte{0x83, 2}))
	f.Add(true, []byte("\x00\x01\x00\x00\x00\x07\x01\x03\x04\x12\x34\x56\x78"))
	f.Add(true, []byte("\x00\x01\x00\x00\x00\x03\x01\x83\x0b"))
	f.Add(true, []byte("\x00\x01\x00\x00\x00\x00\x01"))
	lines := map[bool]*slave{false: {}, true: {tcp: true}}
	f.Fuzz(func(t *testing.T, tcp bool, sent []byte) {
		if len(sent) > 1024 {
			return
		}
		far := lines[tcp]
		far.behave(func(request, []byte) []byte { return append(slices.Clone(sent), hangUp...) })
		scheme := map[bool]string{false: "rtuovertcp", true: "tcp"}[tcp]
		o := Type.Options().(*Options)
		o.URL, o.Address, o.DataType, o.Retries, o.BaudRate = scheme+"://"+far.onTCP(t), at(0), "uint32", 0, 921600
		s, err := New(config.Sensor{Options: o}, sensors.Env{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.(*sensor).Close()
		got, err := s.Read(context.Background())
		if err != nil {
			if strings.Contains(err.Error(), "internal error") {
				t.Fatal(err)
			}
			return
		}
		if len(got) != 1 {
			t.Fatalf("%+v", got)
		}
		if got[0].Quality == wire.Bad {
			return
		}
		if v, ok := expected(tcp, sent); !ok || got[0].Value != wire.NumberValue(v) {
			t.Errorf("%x gave %v", sent, got[0].Value)
		}
	})
}

// expected finds the value in what a line answered to the first request for two
// registers of unit 1.
func expected(tcp bool, sent []byte) (float64, bool) {
	if !tcp {
		if len(sent) < 9 || !slices.Equal(sent[:3], []byte{1, 3, 4}) || !slices.Equal(crc16(sent[:7]), sent[7:9]) {
			return 0, false
		}
		return float64(uint32(sent[3])<<24 | uint32(sent[4])<<16 | uint32(sent[5])<<8 | uint32(sent[6])), true
	}
	for len(sent) >= 7 { // frames of other requests may come before it
		length := int(sent[4])<<8 | int(sent[5])
		if length < 2 || length > 254 || len(sent) < 6+length {
			return 0, false
		}
		frame := sent[:6+length]
		sent = sent[6+length:]
		if !slices.Equal(frame[:4], []byte{0, 1, 0, 0}) {
			continue
		}
		if length != 7 || !slices.Equal(frame[6:9], []byte{1, 3, 4}) {
			return 0, false
		}
		return float64(uint32(frame[9])<<24 | uint32(frame[10])<<16 | uint32(frame[11])<<8 | uint32(frame[12])), true
	}
	return 0, false
}
