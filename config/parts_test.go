package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPartsAreCheckedToo(t *testing.T) {
	const text = `[cloud]
batch_size = 0
[privacy]
rules = [ { sensor_pattern = 'x', action = 'drop' } ]
[[sensors.devices]]
name = 'a'
ingest_type = 'simulator'
registers = [ { address = 1 },
  { address = 2 } ]
[[sensors.devices]]
name = 'b'
ingest_type = 'simulator'
sede = 1
url = 'x'
[[sensors.devices]]
name = 'c'
ingest_type = 'simulator'
url = '${URL}'
[health]
port = 'x'
`
	own := []string{
		"c.toml:2:1: cloud.batch_size: 0 is too small; the least is 1",
		"c.toml:13:1: sensors.devices[1].sede: unknown key; did you mean sensors.devices[1].seed?",
		"c.toml:20:1: health.port: expected a whole number, found a string",
	}
	o := testOptions("URL", `a"bc`)
	for _, test := range []struct {
		name string
		err  error
		want string
	}{
		{"nothing", nil, ""},
		{"the place of a key", Problem{Key: "sensors.devices[0].registers[1].address", Message: "no"}, "c.toml:9:5: sensors.devices[0].registers[1].address: no"},
		{"the entry of a missing key", Problem{Key: "sensors.devices[0].waveform", Message: "no"}, "c.toml:5:11: sensors.devices[0].waveform: no"},
		{"an entry", Problem{Key: "privacy.rules[0]", Message: "no"}, "c.toml:4:11: privacy.rules[0]: no"},
		{"an entry that is not there", Problem{Key: "privacy.rules[7].tag", Message: "no"}, "c.toml:4:1: privacy.rules[7].tag: no"},
		{"a section that is not there", Problem{Key: "device.group", Message: "no"}, "c.toml:1:1: device.group: no"},
		{"no key", Problem{Message: "no"}, "c.toml:1:1: no"},
		{"odd keys", Join(Problem{Key: "privacy.rules[x", Message: "no"}, Problem{Key: "privacy..[-1]", Message: "no"}),
			"c.toml:3:2: privacy..[-1]: no\nc.toml:4:1: privacy.rules[x: no"},
		{"another error", errors.New("no"), "c.toml:1:1: no"},
		{"broken already", Join(Problem{Key: "sensors.devices[1].url", Message: "no"}, Problem{Key: "cloud.endpoint", Message: "no"}, Problem{Key: "health", Message: "no"}), ""},
		{"a value of the environment", Problem{Key: "sensors.devices[2].url", Message: fmt.Sprintf(`%s or %q`, `a"bc`, `a"bc`)},
			`c.toml:18:1: sensors.devices[2].url: [hidden] or "[hidden]"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			o.Check = func(c *Config) error {
				if len(c.Sensors.Devices) != 3 {
					t.Errorf("checked %v", c)
				}
				return test.err
			}
			_, err := Parse("c.toml", []byte(text), o)
			var bad *Error
			if !errors.As(err, &bad) {
				t.Fatal(err)
			}
			var added []string
			for _, p := range bad.Problems {
				if !slices.Contains(own, p.String()) {
					added = append(added, p.String())
				}
			}
			if len(bad.Problems)-len(added) != len(own) {
				t.Errorf("of %q some are missing: %v", own, err)
			}
			if diff := cmp.Diff(test.want, strings.Join(added, "\n")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestProblemsOfThePartsAreSortedInAndBounded(t *testing.T) {
	const text = "[health]\nport = 'x'\n[device]\ngroup = 'g'\n[privacy]\nenabled = 1\n"
	o := testOptions()
	o.Check = func(*Config) error { return Problem{Key: "device.group", Message: "no"} }
	_, err := Parse("c.toml", []byte(text), o)
	want := `c.toml has 3 problems:
c.toml:2:1: health.port: expected a whole number, found a string
c.toml:4:1: device.group: no
c.toml:6:1: privacy.enabled: expected true or false, found a number`
	if diff := cmp.Diff(want, fmt.Sprint(err)); diff != "" {
		t.Error(diff)
	}

	o.Check = func(*Config) error {
		many := &Error{Omitted: 3}
		for i := range 300 {
			many.Problems = append(many.Problems, Problem{Key: fmt.Sprintf("device.labels.a%d", i), Message: "no"})
		}
		return many
	}
	_, err = Parse("c.toml", []byte(text), o)
	var bad *Error
	if !errors.As(err, &bad) || len(bad.Problems) != maxProblems || len(bad.Problems)+bad.Omitted != 305 {
		t.Errorf("got %v", err)
	}
}

func TestJoinAndUnder(t *testing.T) {
	if err := Join(nil, nil); err != nil {
		t.Errorf("joined to %v", err)
	}
	err := Join(
		nil,
		&Error{Problems: []Problem{{Key: "a", Message: "1"}}, Omitted: 1},
		Under("b[0]", Problemf("c", "%d", 2)),
		Under("b[1]", fmt.Errorf("wrapped: %w", Problem{Message: "3"})),
		Under("b[2]", errors.New("4")),
		errors.New("5"),
	)
	if diff := cmp.Diff("the config has 6 problems:\na: 1\nb[0].c: 2\nb[1]: 3\nb[2]: 4\n5\nand 1 more", fmt.Sprint(err)); diff != "" {
		t.Error(diff)
	}
}

func TestHealthAddress(t *testing.T) {
	for address, ok := range map[string]bool{
		"": true, "127.0.0.1": true, "::1": true, "fe80::1%eth0": true, "localhost": true, "edge-7.example.com": true, "_h": true, "a.": true,
		"127.0.0.1:8080": false, "[::1]": false, "[::1]:80": false, "localhost:80": false, ":8080": false, "foo bar": false, "127.0.0": false,
		"1.2.3.999": false, "-a": false, "a..b": false, "http://a": false, "a/b": false, strings.Repeat("a.", 130) + "a": false,
	} {
		_, err := Parse("c.toml", []byte("[health]\naddress = '"+address+"'"), testOptions())
		if (err == nil) != ok {
			t.Errorf("%q: %v", address, err)
		}
	}
}
