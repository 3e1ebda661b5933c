package offer

import (
	"strings"
	"testing"

	"github.com/pyvorin/pyvorin-edge/config"
)

func TestTable(t *testing.T) {
	type options struct {
		Device string `toml:"device"`
		Rate   int    `toml:"rate"`
	}
	for _, tt := range []struct{ device, name string }{
		{"GPIO17", "gpio17"},
		{`/dev/serial/by-id/usb-A\x20"B"_C-if00`, "dev-serial-by-id-usb-a-x20-b-_c-if00"},
		{"CPU-therm", "cpu-therm"},
		{"…", "sensor"},
	} {
		text := Table(Name(tt.device), "x", Key{"device", tt.device}, Key{"rate", 9600})
		c, err := config.Parse("c.toml", []byte(text), config.Options{
			SensorTypes: map[string]func() any{"x": func() any { return new(options) }},
		})
		if err != nil {
			t.Errorf("%v\n%s", err, text)
			continue
		}
		if d := c.Sensors.Devices[0]; d.Name != tt.name || *d.Options.(*options) != (options{tt.device, 9600}) {
			t.Errorf("%+v of\n%s", d, text)
		}
	}
}

func TestPlain(t *testing.T) {
	for text, want := range map[string]bool{
		"pinctrl-bcm2711": true, "i2c-1/1-0040": true, "dht11@11": true, "Z (left)": true,
		"": false, "a\"b": false, "a\\b": false, "a\nb": false, "é": false, strings.Repeat("x", 101): false,
	} {
		if Plain(text) != want {
			t.Errorf("%q: %v", text, !want)
		}
	}
}
