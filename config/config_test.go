package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// probeOptions stands for the keys of an ingest type.
type probeOptions struct {
	Waveform  string              `toml:"waveform" enum:"sine,square" doc:"Shape."`
	Seed      int                 `toml:"seed" min:"0" doc:"Start of the noise."`
	URL       string              `toml:"url" doc:"Where."`
	CAFile    string              `toml:"ca_file" pem:"authorities" doc:"Whom to trust."`
	Token     string              `toml:"token" secret:"true" doc:"Key."`
	TokenFile string              `toml:"token_file" doc:"File of it."`
	Headers   map[string]string   `toml:"headers" secret:"true" doc:"Sent along."`
	Registers []register          `toml:"registers" doc:"What is read."`
	Limits    limits              `toml:"limits" doc:"Bounds."`
	Points    map[string]register `toml:"points" doc:"Named registers."`
}

type register struct {
	Address uint16 `toml:"address" required:"true" doc:"Number."`
	Width   int    `toml:"width" min:"1" doc:"Words."`
}

func (r *register) SetDefaults() { r.Width = 1 }

type limits struct {
	Most float64 `toml:"most" doc:"Upper end."`
}

var testTypes = map[string]func() any{
	"simulator": func() any { return &probeOptions{Waveform: "sine", Limits: limits{Most: 10}} },
	"sysfs":     func() any { return &struct{}{} },
}

// environment makes a LookupEnv of name, value pairs.
func environment(pairs ...string) func(string) (string, bool) {
	m := make(map[string]string)
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return func(name string) (string, bool) { v, ok := m[name]; return v, ok }
}

func testOptions(env ...string) Options {
	return Options{SensorTypes: testTypes, LookupEnv: environment(env...)}
}

func mustParse(t *testing.T, path, text string, o Options) *Config {
	t.Helper()
	c, err := Parse(path, []byte(text), o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// seedTemplate is the fleet template that must work as it stands.
const seedTemplate = `[sensors]
poll_interval_seconds = 5.0
devices = [ { name = "temp-01", ingest_type = "simulator", sensor_type = "temperature", unit = "C" } ]
[cloud]
enabled = true
endpoint = "https://api.example.com/v1/ingest"
api_key = "${API_KEY}"
batch_size = 100
flush_interval_seconds = 60.0
[privacy]
enabled = true
rules = [ { sensor_pattern = "*password*", action = "drop" }, { sensor_pattern = "*email*", action = "hash" } ]
[logging]
level = "INFO"
format = "json"
[health]
port = 8080
enabled = true
`

func TestTemplateLoads(t *testing.T) {
	c := mustParse(t, "config.toml", seedTemplate, testOptions("API_KEY", "s3cret"))
	want := Default()
	var s Sensor
	s.SetDefaults()
	s.Name, s.IngestType, s.SensorType, s.Unit = "temp-01", "simulator", "temperature", "C"
	s.Options = &probeOptions{Waveform: "sine", Limits: limits{Most: 10}}
	want.Sensors.Devices = []Sensor{s}
	want.Cloud.Enabled, want.Cloud.Endpoint, want.Cloud.APIKey = true, "https://api.example.com/v1/ingest", "s3cret"
	want.Privacy.Rules = []Rule{
		{SensorPattern: "*password*", Action: "drop", Replacement: "[redacted]", Statistic: "mean"},
		{SensorPattern: "*email*", Action: "hash", Replacement: "[redacted]", Statistic: "mean"},
	}
	want.Source = c.Source
	if diff := cmp.Diff(want, *c, cmpopts.IgnoreUnexported(Config{})); diff != "" {
		t.Errorf("config differs (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]Override{{Key: "cloud.api_key", Variable: "API_KEY"}}, c.Source.Overrides); diff != "" {
		t.Error(diff)
	}
}

func TestEmptyFileIsTheDefault(t *testing.T) {
	for path, text := range map[string]string{"c.toml": "", "c.json": "{}", "C.JSON": " {} ", "bom.toml": "\ufeff# nothing\n"} {
		c := mustParse(t, path, text, testOptions())
		want := Default()
		want.Source = c.Source
		if diff := cmp.Diff(want, *c, cmpopts.IgnoreUnexported(Config{})); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
	}
}

func TestSensorOptions(t *testing.T) {
	c := mustParse(t, "c.toml", `
[[sensors.devices]]
name = "plc"
ingest_type = "simulator"
waveform = "square"
seed = 7.0
headers = { "X-A.b" = "1" }
limits.most = 3
registers = [ { address = 40001 }, { address = 2, width = 2 } ]
valid_min = -5
reject_values = [85, 127.5]
[sensors.devices.tags]
room = "cellar"
[sensors.devices.points.a]
address = 9
`, testOptions())
	s := c.Sensors.Devices[0]
	want := &probeOptions{
		Waveform: "square", Seed: 7, Headers: map[string]string{"X-A.b": "1"}, Limits: limits{Most: 3},
		Registers: []register{{40001, 1}, {2, 2}}, Points: map[string]register{"a": {9, 1}},
	}
	if diff := cmp.Diff(want, s.Options); diff != "" {
		t.Error(diff)
	}
	if s.ValidMin == nil || *s.ValidMin != -5 || s.Tags["room"] != "cellar" || len(s.RejectValues) != 2 || s.Scale != 1 {
		t.Errorf("common keys: %v", s)
	}
}

func TestSubstitution(t *testing.T) {
	env := []string{"NAME", "kitchen", "EMPTY", "", "REF", "${NAME}", "PORT", "9000", "YES", "true"}
	for written, want := range map[string]string{
		"${NAME}":             "kitchen",
		"a-${NAME}-${NAME}":   "a-kitchen-kitchen",
		"${NONE:-spare}":      "spare",
		"${EMPTY:-spare}":     "spare",
		"${EMPTY}":            "",
		"${NONE:-}":           "",
		"${NONE:-a$$b:-c d}":  "a$$b:-c d",
		"${REF}":              "${NAME}",
		"$$":                  "$",
		"$${NAME}":            "${NAME}",
		"$$${NAME}":           "$kitchen",
		"costs 5$ or $NAME":   "costs 5$ or $NAME",
		"${NONE:-${NAME}}":    "${NAME}",
		"plain":               "plain",
		"${NAME:-spare} tail": "kitchen tail",
	} {
		c := mustParse(t, "c.toml", "[device]\ngroup = '"+written+"'", testOptions(env...))
		if c.Device.Group != want {
			t.Errorf("%s became %q, want %q", written, c.Device.Group, want)
		}
	}
	c := mustParse(t, "c.toml", "[device.labels]\n'${NAME}' = '${NAME}'\n[health]\nport = '${PORT}'\nenabled = '${YES}'\n[sensors]\npoll_interval_seconds = '${NONE:-2.5}'", testOptions(env...))
	if c.Health.Port != 9000 || !c.Health.Enabled || c.Sensors.PollIntervalSeconds != 2.5 {
		t.Errorf("numbers from the environment: %v", c)
	}
	if diff := cmp.Diff(map[string]string{"${NAME}": "kitchen"}, c.Device.Labels); diff != "" {
		t.Errorf("keys are never replaced: %s", diff)
	}
	want := []Override{
		{`device.labels."${NAME}"`, "NAME"}, {"health.port", "PORT"}, {"health.enabled", "YES"},
	}
	if diff := cmp.Diff(want, c.Source.Overrides); diff != "" {
		t.Error(diff)
	}
}

func TestSubstitutionIsBounded(t *testing.T) {
	text := "[device]\ngroup = \"" + strings.Repeat("${BIG}", 10000) + "\""
	_, err := Parse("c.toml", []byte(text), testOptions("BIG", strings.Repeat("x", 100000)))
	if err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("got %.200v", err)
	}
}

func TestSecretFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string, mode os.FileMode) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	write("api", "k-123\n", 0o600)
	write("token", "two\nlines\r\n", 0o644)
	write("config.toml", `[cloud]
api_key_file = "api"
[health]
admin_token = "${ADMIN:-}"
admin_token_file = "token"
[[sensors.devices]]
name = "a"
ingest_type = "simulator"
token_file = "./api"
`, 0o600)
	c, err := load(filepath.Join(dir, "config.toml"), testOptions())
	if err != nil {
		t.Fatal(err)
	}
	o := c.Sensors.Devices[0].Options.(*probeOptions)
	if c.Cloud.APIKey != "k-123" || c.Health.AdminToken != "two\nlines" || o.Token != "k-123" {
		t.Errorf("secrets are %q, %q and %q", c.Cloud.APIKey, c.Health.AdminToken, o.Token)
	}
	if c.Cloud.APIKeyFile != filepath.Join(dir, "api") {
		t.Errorf("files are not meant from the folder of the config: %v", c.Cloud)
	}
	if w := c.Source.Warnings; len(w) != 1 || !strings.Contains(w[0], "health.admin_token_file") {
		t.Errorf("warnings: %q", w)
	}

	write("empty", "\n", 0o600)
	write("big", strings.Repeat("x", maxSecretBytes+1), 0o600)
	for text, message := range map[string]string{
		"api_key_file = 'api'\napi_key = 'x'": "c.toml:2:1: cloud.api_key_file: api_key is given too; keep one of the two",
		"api_key_file = 'none'":               "no such file or directory",
		"api_key_file = 'empty'":              "is empty",
		"api_key_file = 'big'":                "is larger than 65536 bytes",
		"api_key_file = '.'":                  "is not a regular file",
	} {
		_, err := Parse(filepath.Join(dir, "c.toml"), []byte("[cloud]\n"+text), testOptions())
		if err == nil || !strings.Contains(err.Error(), message) || !strings.Contains(err.Error(), "cloud.api_key_file: ") {
			t.Errorf("%s: got %v, want %q", text, err, message)
		}
	}
}

func TestLoadFailsOnWhatIsNoFile(t *testing.T) {
	var bad *Error
	for _, path := range []string{t.TempDir(), filepath.Join(t.TempDir(), "none.toml")} {
		if _, err := load(path, testOptions()); err == nil || errors.As(err, &bad) {
			t.Errorf("%s: got %v", path, err)
		}
	}
}

// load reads and parses the file at path.
func load(path string, o Options) (*Config, error) {
	data, err := ReadFile(path)
	if err != nil {
		return nil, err
	}
	return Parse(path, data, o)
}
