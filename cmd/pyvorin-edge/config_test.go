package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/internal/cli"
	"github.com/pyvorin/pyvorin-edge/sensors/all"
)

// runCapture runs one command line and returns what it printed.
func runCapture(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out, errOut bytes.Buffer
	err := run(context.Background(), args, strings.NewReader(""), &out, &errOut)
	if errOut.Len() > 0 {
		t.Errorf("%q printed to standard error: %s", args, &errOut)
	}
	return out.String(), err
}

func writeConfig(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const cloudConfig = "[cloud]\nenabled = true\nendpoint = 'https://api.example.com/v1/ingest'\napi_key = '${EDGE_TEST_KEY}'\n"

func TestConfigCheck(t *testing.T) {
	t.Setenv("EDGE_TEST_KEY", "s3cret")
	path := writeConfig(t, "config.toml", cloudConfig)
	c, err := load(path)
	if err != nil {
		t.Fatal(err)
	}
	want := path + ": ok\nconfig_hash           " + c.Source.Hash + "\neffective_config_hash " + c.Source.EffectiveHash + "\n"
	for _, args := range [][]string{
		{"config", "check", path},
		{"config", "check", "--config", path},
		{"config", "check", "--base-dir", filepath.Dir(path)},
	} {
		out, err := runCapture(t, args...)
		if diff := cmp.Diff(want, out); err != nil || diff != "" {
			t.Errorf("%q: %v %s", args, err, diff)
		}
	}
}

func TestConfigCheckWarns(t *testing.T) {
	path := writeConfig(t, "config.toml", "[health]\nadmin_token_file = 'token'\n[privacy]\nenabled = false\n")
	token := filepath.Join(filepath.Dir(path), "token")
	if err := os.WriteFile(token, []byte("x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(token, 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := runCapture(t, "config", "check", path)
	if err != nil || !strings.Contains(out, "\nwarning: health.admin_token_file: every user can read "+token) || !strings.Contains(out, "\nwarning: privacy.enabled: ") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestConfigCheckListsAllProblems(t *testing.T) {
	path := writeConfig(t, "config.json", "{\"cloud\": {\n \"endpont\": \"x\",\n \"batch_size\": \"x\"}}")
	for _, verb := range []string{"check", "show"} {
		out, err := runCapture(t, "config", verb, path)
		want := path + " has 2 problems:\n" +
			path + ":2:2: cloud.endpont: unknown key; did you mean cloud.endpoint?\n" +
			path + ":3:2: cloud.batch_size: expected a whole number, found a string"
		if err == nil || err.Error() != want || out != "" {
			t.Errorf("%s: got %v %q, want %s", verb, err, out, want)
		}
		if exitCode(err) != exitConfig {
			t.Errorf("%s: exit code is %d", verb, exitCode(err))
		}
	}
}

// What only the parts can see comes with its place, and with all the rest.
func TestConfigCheckAsksTheParts(t *testing.T) {
	const text = `[cloud]
enabled = true
endpoint = "https://u:s3cret@api.example.com/v1"
[privacy]
rules = [
  { tag = "cellar", action = "drop" },
  { sensor_pattern = "*", action = "hash", step = 1 },
]
[sensors]
devices = [
  { name = "fine", ingest_type = "simulator" },
  { name = "m", ingest_type = "system", metrics = ["load1",
    "cpu"] },
  { name = "e", ingest_type = "exec", command = ["/bin/true"], regex = "(" },
  { name = "h", ingest_type = "http", url = "http://h/" },
  { name = "q", ingest_type = "mqtt", broker = "host:1883", topics = ["a"] },
  { name = "s", ingest_type = "simulator", min = 5, max = 1 },
  { name = "t", ingest_type = "simulator", min = 5, max = 1, wavefrom = "sine" },
]
[logging]
level = "LOUD"
`
	path := writeConfig(t, "config.toml", text)
	want := path + ` has 10 problems:
PATH:3:1: cloud.endpoint: must not hold a user or password; use api_key
PATH:6:5: privacy.rules[0].tag: "cellar" can match no tag: it is held against key=value, such as room=cellar or room=*
PATH:7:44: privacy.rules[1].step: belongs to action round, and this is "hash"
PATH:13:5: sensors.devices[1].metrics[1]: unknown metric "cpu"; there are cpu_percent, memory_percent, memory_used_bytes, disk_percent, load1, load5, load15, net_rx_bytes_per_second, net_tx_bytes_per_second, temperature_celsius, uptime_seconds, rss_bytes
PATH:14:64: sensors.devices[2].regex: error parsing regexp: missing closing ): ` + "`(`" + `
PATH:15:3: sensors.devices[3].json_path: is needed, or fields; @this is the whole answer
PATH:16:39: sensors.devices[4].broker: must be an address such as tcp://192.168.0.2:1883
PATH:17:44: sensors.devices[5].min: is above max (1)
PATH:18:62: sensors.devices[6].wavefrom: unknown key; did you mean sensors.devices[6].waveform?
PATH:21:1: logging.level: is not one of the allowed values; use one of DEBUG, INFO, WARN, ERROR`
	_, err := runCapture(t, "config", "check", path)
	if diff := cmp.Diff(strings.ReplaceAll(want, "PATH", path), fmt.Sprint(err)); diff != "" {
		t.Error(diff)
	}
	if exitCode(err) != exitConfig {
		t.Errorf("exit code is %d", exitCode(err))
	}

	// As the agent checks what POST /config/reload brings.
	if _, reload := new(app).checkConfig(path, []byte(text)); fmt.Sprint(reload) != fmt.Sprint(err) {
		t.Errorf("a reload says %v", reload)
	}
}

func TestMissingConfig(t *testing.T) {
	dir := t.TempDir()
	want := "no config: neither " + filepath.Join(dir, "config.toml") + " nor " + filepath.Join(dir, "config.json") +
		" exists; write one (docs/configuration.md) or name it with --config"
	for _, verb := range [][]string{{"config", "check"}, {"config", "hash"}, {"run"}} {
		_, err := runCapture(t, append(verb, "--base-dir", dir)...)
		if fmt.Sprint(err) != want || !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%q: %v", verb, err)
		}
	}
	_, err := runCapture(t, "config", "check", "--base-dir", dir, "--config", filepath.Join(dir, "config.toml"))
	if err == nil || !strings.HasPrefix(err.Error(), "read config: ") {
		t.Errorf("a file that was named: %v", err)
	}
}

func TestConfigShowHidesSecrets(t *testing.T) {
	t.Setenv("EDGE_TEST_KEY", "s3cret")
	out, err := runCapture(t, "config", "show", writeConfig(t, "c.toml", cloudConfig))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\napi_key = \"[hidden]\" # from the environment: EDGE_TEST_KEY\n", "\nbatch_size = 100\n", "\n[health.thresholds]\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
	if strings.Contains(out, "s3cret") {
		t.Error("the secret is shown")
	}
}

func TestConfigHash(t *testing.T) {
	path := writeConfig(t, "c.toml", cloudConfig)
	hash, err := config.Hash(path, []byte(cloudConfig))
	if err != nil {
		t.Fatal(err)
	}
	out, err := runCapture(t, "config", "hash", path)
	if err != nil || out != hash+"\n" {
		t.Errorf("without the variable: %v %q", err, out)
	}

	decode := func() (h hashes) {
		t.Helper()
		out, err := runCapture(t, "config", "hash", "--json", path)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(out), &h); err != nil {
			t.Fatal(err)
		}
		return h
	}
	without := hashes{ConfigHash: hash, Overrides: []override{}, Problems: []string{
		path + ":4:1: cloud.api_key: the environment variable EDGE_TEST_KEY is not set; set it, or write ${EDGE_TEST_KEY:-default}",
	}}
	if diff := cmp.Diff(without, decode()); diff != "" {
		t.Error(diff)
	}
	t.Setenv("EDGE_TEST_KEY", "s3cret")
	c, err := load(path)
	if err != nil {
		t.Fatal(err)
	}
	with := hashes{
		ConfigHash: hash, EffectiveConfigHash: &c.Source.EffectiveHash, Problems: []string{},
		Overrides: []override{{Key: "cloud.api_key", Variable: "EDGE_TEST_KEY"}},
	}
	if diff := cmp.Diff(with, decode()); diff != "" {
		t.Error(diff)
	}

	_, err = runCapture(t, "config", "hash", writeConfig(t, "bad.toml", "a ="))
	var bad *config.Error
	if !errors.As(err, &bad) {
		t.Errorf("a file that is no TOML: %v", err)
	}
}

func TestConfigUsage(t *testing.T) {
	for _, args := range [][]string{{"config"}, {"config", "chek"}, {"config", "check", "a", "b"}, {"config", "hash", "--jsn"}} {
		if _, err := runCapture(t, args...); exitCode(err) != cli.ExitUsage {
			t.Errorf("%q: %v", args, err)
		}
	}
	_, err := runCapture(t, "config", "check", filepath.Join(t.TempDir(), "none.toml"))
	if !errors.Is(err, os.ErrNotExist) || exitCode(err) != cli.ExitFailure {
		t.Errorf("a missing file: %v", err)
	}
}

// TestConfigurationDoc keeps docs/configuration.md and the code equal. With
// UPDATE_DOCS set it writes the reference anew instead (go generate does).
func TestConfigurationDoc(t *testing.T) {
	const path, mark = "../../docs/configuration.md", "<!-- reference -->\n"
	doc, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	intro, _, ok := strings.Cut(string(doc), mark)
	if !ok {
		t.Fatalf("%s has no line %s", path, mark)
	}
	want := intro + mark + "\n" + config.Reference(all.Options())
	if os.Getenv("UPDATE_DOCS") != "" {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, string(doc)); diff != "" {
		t.Errorf("docs/configuration.md is behind the code; run go generate ./cmd/pyvorin-edge (-code +doc):\n%s", diff)
	}
}

// load reads and parses the file at path, which has no sensors.
func load(path string) (*config.Config, error) {
	data, err := config.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return config.Parse(path, data, config.Options{})
}
