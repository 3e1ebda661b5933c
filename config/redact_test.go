package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/rs/zerolog"
)

// withSecrets holds the word "s3cret" wherever a secret can be.
const withSecrets = `[cloud]
endpoint = "https://api.example.com/?x=1&api_key=s3cret"
api_key = "${API_KEY}"
[health]
admin_token = "s3cret"
probes = [ { name = "p", type = "http", target = "http://u:s3cret@h:80/?token=s3cret#x" } ]
[[sensors.devices]]
name = "a"
ingest_type = "simulator"
token = "s3cret"
url = "mqtts://u:s3cret@h"
headers = { Authorization = "Bearer s3cret" }
`

func TestNoPrintingShowsSecrets(t *testing.T) {
	c := mustParse(t, "c.toml", withSecrets, testOptions("API_KEY", "s3cret"))
	shown := map[string]string{"Redacted": c.Redacted()}
	for name, v := range map[string]any{
		"config": *c, "pointer": c, "cloud": c.Cloud, "health": &c.Health, "probe": c.Health.Probes[0], "probes": c.Health.Probes,
		"sensors": c.Sensors, "sensor": c.Sensors.Devices[0], "inside": struct{ Cloud Cloud }{c.Cloud},
	} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
			shown[name+verb] = fmt.Sprintf(verb, v)
		}
		asJSON, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		shown[name+" json"] = string(asJSON)
		var log bytes.Buffer
		logger := zerolog.New(&log)
		logger.Info().Any("config", v).Interface("again", v).Msgf("%v", v)
		shown[name+" log"] = log.String()
	}
	for name, text := range shown {
		if strings.Contains(text, "s3cret") || strings.Contains(text, fmt.Sprintf("%x", "s3cret")) {
			t.Errorf("%s shows a secret: %s", name, text)
		}
		if !strings.Contains(text, hidden) {
			t.Errorf("%s hides nothing: %s", name, text)
		}
	}
}

func TestNoErrorShowsSecrets(t *testing.T) {
	for _, text := range []string{
		"[cloud]\nendpoint = '${KEY}'",
		"[logging]\nlevel = '${KEY}'",
		"[health]\nport = '${KEY}'",
		"[health]\nport = '${NUMBER}'",
		"[health]\nenabled = '${KEY}'",
		"[[sensors.devices]]\nname='a'\ningest_type = '${KEY}'",
		"[[health.probes]]\nname='a'\ntype='${KEY}'",
		"[cloud]\napi_key = { s = 's3cret' }",
		"[cloud]\nendpoint = 'ftp://u:s3cret@h'",
	} {
		_, err := Parse("c.toml", []byte(text), testOptions("KEY", "s3cret", "NUMBER", "733333"))
		if err == nil || strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), "733333") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestRedactedSaysWhereValuesCameFrom(t *testing.T) {
	c := mustParse(t, "c.toml", "[device]\ngroup = '${G}'\nlabels = { a = '${A}', b = '${B}', c = '${B}' }\n[cloud]\napi_key = '${K:-none}'\n[[sensors.devices]]\nname='${G}'\ningest_type='simulator'\ntoken='${T}'\n",
		testOptions("G", "north", "A", "1", "B", "2", "T", "s3cret"))
	text := c.Redacted()
	for _, want := range []string{
		"[device]\ngroup = \"north\" # from the environment: G\nlabels = { a = \"1\", b = \"2\", c = \"2\" } # from the environment: A, B\n",
		"\napi_key = \"[hidden]\"\n",
		"\n[[sensors.devices]]\nname = \"north\" # from the environment: G\n",
		"\ntoken = \"[hidden]\" # from the environment: T\n",
		"\nport = 8080\n",
		"\n[health.thresholds]\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
}

// TestRedactedLoads proves that what `config show` prints is a config file
// with the same meaning, but for secrets.
func TestRedactedLoads(t *testing.T) {
	first := mustParse(t, "c.toml", exampleText+`
[device]
labels = { "a b" = "\"\u0001\\ $${X} $$$$ $5", "é" = "", multi = "a\nb\tc" }
[[health.probes]]
name = "p"
type = "exec"
command = ["sh", "-c", "true"]
[[sensors.devices]]
name = "b"
ingest_type = "simulator"
registers = [ { address = 1 }, { address = 2 } ]
points = { one = { address = 3, width = 2 } }
limits = { most = 1e300 }
valid_min = 1e-7
`, testOptions("API_KEY", ""))
	second := mustParse(t, "c.toml", first.Redacted(), testOptions())
	first.Source, second.Source = Source{}, Source{}
	if diff := cmp.Diff(first, second, cmpopts.EquateEmpty(), cmpopts.IgnoreUnexported(Config{})); diff != "" {
		t.Error(diff)
	}
}
