package config

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// sensor is a valid sensor to which a test adds one line.
const sensor = "[[sensors.devices]]\nname = 'a'\ningest_type = 'simulator'\n"

// TestProblems holds one row per mistake that a file can have.
func TestProblems(t *testing.T) {
	for _, test := range []struct {
		name, path, text, want string
	}{
		// Syntax.
		{"toml syntax", "c.toml", "[cloud]\nenabled = yes", `c.toml:2:11: not valid TOML: unexpected character U+0079 'y' at start of value; write true or false`},
		{"toml no", "c.toml", "[cloud]\nenabled = no # not yet", `c.toml:2:11: not valid TOML: expected keyword "nan"; write true or false`},
		{"toml bare text", "c.toml", "[logging]\nlevel = INFO", `c.toml:2:9: not valid TOML: unexpected character U+0049 'I' at start of value; write a text in quotes`},
		{"toml leading zero", "c.toml", "[cloud]\nbatch_size = 010", `c.toml:2:14: not valid TOML: integers cannot have leading zeroes`},
		{"toml open string", "c.toml", "[cloud]\n  endpoint = \"https", `c.toml:2:19: not valid TOML: unterminated basic string`},
		{"toml duplicate key", "c.toml", "[cloud]\nenabled = true\nenabled = true", `c.toml:3:1: not valid TOML: key enabled is already defined`},
		{"toml duplicate table", "c.toml", "[cloud]\n[device]\n[cloud]", `c.toml:3:2: not valid TOML: table cloud already exists`},
		{"toml date", "c.toml", "[device]\ngroup = 2026-01-01", `c.toml:2:1: device.group: dates and times are not used here; put the value in quotes`},
		{"toml nan", "c.toml", "[sensors]\npoll_interval_seconds = nan", `c.toml:2:1: sensors.poll_interval_seconds: a number must be finite`},
		{"toml inf", "c.toml", "[sensors]\npoll_interval_seconds = -inf", `c.toml:2:1: sensors.poll_interval_seconds: a number must be finite`},
		{"toml large integer", "c.toml", "[cloud]\nmax_queue_bytes = 9007199254740993", `c.toml:2:1: cloud.max_queue_bytes: 9.007199254740992e+15 is out of the range of this key`},
		{"not utf-8", "c.toml", "[device]\ngroup = \"\xff\"", `c.toml:2:10: the file is not valid UTF-8; save it as UTF-8`},
		{"json syntax", "c.json", "{\n \"cloud\": {\"enabled\": yes}}", `c.json:2:23: not valid JSON: invalid character 'y' looking for beginning of value; write true or false`},
		{"json null or no", "c.json", `{"cloud": {"enabled": no}}`, `c.json:1:24: not valid JSON: invalid character 'o' in literal null (expecting 'u'); write true or false`},
		{"yaml", "c.yaml", "cloud:\n  enabled: true\n", `c.yaml:1:1: YAML is not read: write TOML (.toml) or JSON (.json)`},
		{"yaml in short", "c.YML", "", `c.YML:1:1: YAML is not read: write TOML (.toml) or JSON (.json)`},
		{"json end", "c.json", `{"cloud": {`, `c.json:1:11: not valid JSON: unexpected end of JSON input`},
		{"json empty", "c.json", ``, `c.json:1:1: not valid JSON: unexpected end of JSON input`},
		{"json trailing data", "c.json", "{}\n{}", `c.json:2:1: not valid JSON: invalid character '{' after top-level value`},
		{"json comment", "c.json", "{} // no", `c.json:1:4: not valid JSON: invalid character '/' after top-level value`},
		{"json duplicate key", "c.json", "{\"health\":\n{\"enabled\": true,\n \"enabled\": true}}", `c.json:3:2: health.enabled: this key is given twice; keep one of them`},
		{"json list", "c.json", "\n [1]", `c.json:2:2: a config file holds one object of sections, found a list`},
		{"json null", "c.json", `{"device": {"group": null}}`, `c.json:1:13: device.group: expected a string, found null; leave the key out to take the default`},
		{"json infinite", "c.json", `{"sensors": {"poll_interval_seconds": 1e999}}`, `c.json:1:14: sensors.poll_interval_seconds: a number must be finite`},

		// Unknown keys.
		{"unknown key", "c.toml", "# x\n[cloud]\n  endpont = 'https://x'", `c.toml:3:3: cloud.endpont: unknown key; did you mean cloud.endpoint?`},
		{"unknown key json", "c.json", "{\"cloud\":{\n  \"endpont\":\"https://x\"}}", `c.json:2:3: cloud.endpont: unknown key; did you mean cloud.endpoint?`},
		{"unknown dotted", "c.toml", "health.thresholds.disk_warnin_percent = 1", `c.toml:1:19: health.thresholds.disk_warnin_percent: unknown key; did you mean health.thresholds.disk_warning_percent?`},
		{"unknown section", "c.toml", "[helath]\nport = 1", `c.toml:1:2: helath: unknown key; did you mean health?`},
		{"no section is near", "c.toml", "[xyzzy]", `c.toml:1:2: xyzzy: unknown key; the sections are cloud, device, health, logging, ota, privacy, sensors`},
		{"no key is near", "c.toml", "[cloud]\nxyzzy = 1", `c.toml:2:1: cloud.xyzzy: unknown key; see docs/configuration.md for the keys of cloud`},
		{"quoted key", "c.toml", "[cloud]\n\"é a\" = 1", `c.toml:2:1: cloud."é a": unknown key; see docs/configuration.md for the keys of cloud`},
		{"column counts characters", "c.toml", "device = { labels = { \"é\" = \"ü\" }, gruop = \"\" }", `c.toml:1:36: device.gruop: unknown key; did you mean device.group?`},
		{"unknown key of a sensor", "c.toml", sensor + "sede = 1", `c.toml:4:1: sensors.devices[0].sede: unknown key; did you mean sensors.devices[0].seed?`},
		{"unknown key in options", "c.toml", sensor + "registers = [\n { address = 1 },\n { address = 2, wdth = 2 } ]", `c.toml:6:17: sensors.devices[0].registers[1].wdth: unknown key; did you mean sensors.devices[0].registers[1].width?`},

		// Types.
		{"string for number", "c.toml", "[health]\nport = '8080'", `c.toml:2:1: health.port: expected a whole number, found a string`},
		{"number for string", "c.json", `{"device":{"group":5}}`, `c.json:1:12: device.group: expected a string, found a number`},
		{"string for bool", "c.toml", "[cloud]\nenabled = 'true'", `c.toml:2:1: cloud.enabled: expected true or false, found a string`},
		{"fraction", "c.toml", "[health]\nport = 80.5", `c.toml:2:1: health.port: expected a whole number, found 80.5`},
		{"table for list", "c.toml", "[sensors.devices]\nname = 'a'", `c.toml:1:10: sensors.devices: expected a list, found a table`},
		{"value for table", "c.toml", "cloud = true", `c.toml:1:1: cloud: expected a table, found true or false`},
		{"element", "c.toml", sensor + "reject_values = [ 1,\n 'x' ]", `c.toml:5:2: sensors.devices[0].reject_values[1]: expected a number, found a string`},
		{"table element", "c.toml", "[sensors]\ndevices = [ 5 ]", `c.toml:2:13: sensors.devices[0]: expected a table, found a number`},
		{"label", "c.toml", "[device.labels]\na = 1", `c.toml:2:1: device.labels.a: expected a string, found a number`},
		{"text of the environment", "c.toml", "[health]\nport = '${TEXT}'", `c.toml:2:1: health.port: expected a whole number, found another text in the environment`},
		{"text of a default", "c.toml", "[health]\nport = '${NONE:-abc}'", `c.toml:2:1: health.port: expected a whole number, found another text as the default after :-`},
		{"text of both", "c.toml", "[health]\nport = '${TEXT}${NONE:-abc}'", `c.toml:2:1: health.port: expected a whole number, found another text in the environment`},

		// Values.
		{"too large by default", "c.toml", "[health]\nport = '${NONE:-65536}'", `c.toml:2:1: health.port: 65536 is too large; the most is 65535`},
		{"decimals", "c.toml", "[privacy]\nrules = [ { tag = '*', action = 'truncate', decimals = 7 } ]", `c.toml:2:45: privacy.rules[0].decimals: 7 is too large; the most is 6`},
		{"too small", "c.toml", "[cloud]\nbatch_size = 0", `c.toml:2:1: cloud.batch_size: 0 is too small; the least is 1`},
		{"too large", "c.toml", "[health]\nport = 65536", `c.toml:2:1: health.port: 65536 is too large; the most is 65535`},
		{"out of range", "c.toml", sensor + "registers = [ { address = 70000 } ]", `c.toml:4:17: sensors.devices[0].registers[0].address: 70000 is out of the range of this key`},
		{"negative", "c.toml", sensor + "registers = [ { address = -1 } ]", `c.toml:4:17: sensors.devices[0].registers[0].address: -1 is out of the range of this key`},
		{"enum", "c.toml", "[logging]\nlevel = 'info'", `c.toml:2:1: logging.level: is not one of the allowed values; did you mean INFO? Use one of DEBUG, INFO, WARN, ERROR`},
		{"enum far", "c.toml", "[cloud]\ncompression = 'lzma9'", `c.toml:2:1: cloud.compression: is not one of the allowed values; use one of zstd, gzip, none`},
		{"ingest type", "c.toml", "[[sensors.devices]]\nname = 'a'\ningest_type = 'simulater'\nown = 1", `c.toml:3:1: sensors.devices[0].ingest_type: there is no such ingest type; did you mean simulator? Use one of simulator, sysfs`},
		{"required", "c.toml", "[[sensors.devices]]\ningest_type = 'sysfs'", `c.toml:1:11: sensors.devices[0].name: is missing; it is required here`},
		{"required json", "c.json", "{\"privacy\":{\"rules\":[\n{\"sensor_pattern\":\"*\"}]}}", `c.json:2:1: privacy.rules[0].action: is missing; it is required here`},
		{"required and empty", "c.toml", "[[sensors.devices]]\nname = ''\ningest_type = 'sysfs'", `c.toml:2:1: sensors.devices[0].name: must not be empty`},
		{"second table", "c.toml", sensor + "[[sensors.devices]]\nname = 'b'", `c.toml:4:11: sensors.devices[1].ingest_type: is missing; it is required here`},

		// The environment.
		{"missing variable", "c.toml", "[cloud]\napi_key = 'x${NONE}'", `c.toml:2:1: cloud.api_key: the environment variable NONE is not set; set it, or write ${NONE:-default}`},
		{"open reference", "c.toml", "[cloud]\napi_key = '${NONE'", `c.toml:2:1: cloud.api_key: a ${ is not followed by NAME} or NAME:-default}; write $${ for the characters themselves`},
		{"bad name", "c.toml", "[cloud]\napi_key = '${1A}'", `c.toml:2:1: cloud.api_key: a ${ is not followed by NAME} or NAME:-default}; write $${ for the characters themselves`},

		// Impossible together.
		{"same name", "c.toml", sensor + sensor, `c.toml:5:1: sensors.devices[1].name: sensors.devices[0] has this name already; names must be unique`},
		{"control character", "c.toml", "[[sensors.devices]]\nname = \"a\\n\"\ningest_type = 'sysfs'", `c.toml:2:1: sensors.devices[0].name: has a control character in it`},
		{"reserved name", "c.toml", "[[sensors.devices]]\nname = 'pyvorin.queue'\ningest_type = 'sysfs'", `c.toml:2:1: sensors.devices[0].name: is reserved: the readings of pyvorin are the agent's own, such as the announcement of a loss; choose another`},
		{"reserved by its channels", "c.toml", "[[sensors.devices]]\nname = 'pyvorin'\ningest_type = 'sysfs'", `c.toml:2:1: sensors.devices[0].name: is reserved: the readings of pyvorin are the agent's own, such as the announcement of a loss; choose another`},
		{"long name", "c.toml", "[[sensors.devices]]\nname = '" + strings.Repeat("n", 129) + "'\ningest_type = 'sysfs'", `c.toml:2:1: sensors.devices[0].name: is longer than 128 bytes`},
		{"scale", "c.toml", sensor + "scale = 0", `c.toml:4:1: sensors.devices[0].scale: 0 would make every value the same; leave it out for 1`},
		{"range", "c.toml", sensor + "valid_max = 1\nvalid_min = 2", `c.toml:5:1: sensors.devices[0].valid_min: is above valid_max, so that no reading would be valid`},
		{"reduce", "c.toml", sensor + "reduce = 'mean'", `c.toml:4:1: sensors.devices[0].reduce: needs window_seconds, the length of its window`},
		{"window", "c.toml", sensor + "window_seconds = 5", `c.toml:4:1: sensors.devices[0].window_seconds: needs reduce, which says what is sent of a window`},
		{"max silence", "c.toml", sensor + "max_silence_seconds = 5", `c.toml:4:1: sensors.devices[0].max_silence_seconds: needs deadband or stale_after_seconds; without either it has no effect`},
		{"no endpoint", "c.toml", "\n[cloud]\nenabled = true", `c.toml:2:2: cloud.endpoint: is missing; an enabled cloud needs the URL to deliver to`},
		{"endpoint", "c.toml", "[cloud]\nendpoint = 'ftp://x'", `c.toml:2:1: cloud.endpoint: must be a URL such as https://api.example.com/v1/ingest`},
		{"endpoint without host", "c.toml", "[cloud]\nendpoint = 'https://'", `c.toml:2:1: cloud.endpoint: must be a URL such as https://api.example.com/v1/ingest`},
		{"endpoint with password", "c.toml", "[cloud]\nendpoint = 'https://u:s3cret@x'", `c.toml:2:1: cloud.endpoint: must not hold a user or password; use api_key`},
		{"key of another table", "c.toml", "endpoint = 'x'\n[cloud]\nenabled = true", "c.toml has 2 problems:\nc.toml:1:1: endpoint: unknown key; the sections are cloud, device, health, logging, ota, privacy, sensors\nc.toml:2:2: cloud.endpoint: is missing; an enabled cloud needs the URL to deliver to"},
		{"certificate alone", "c.toml", "[cloud]\ncert_file = 'x'", `c.toml:2:1: cloud.cert_file: needs key_file, the certificate's key`},
		{"key alone", "c.toml", "[cloud]\nkey_file = 'x'", `c.toml:2:1: cloud.key_file: needs cert_file, the certificate of this key`},
		{"retry", "c.toml", "[cloud]\nretry_max_seconds = 0.5", `c.toml:2:1: cloud.retry_max_seconds: retry_min_seconds (1) is above retry_max_seconds (0.5)`},
		{"address with port", "c.toml", "[health]\naddress = '127.0.0.1:8080'", `c.toml:2:1: health.address: must be an IP address such as 127.0.0.1, or a host name; the port goes into health.port`},
		{"thresholds", "c.toml", "[health.thresholds]\ndisk_warning_percent = 98", `c.toml:2:1: health.thresholds.disk_warning_percent: disk_warning_percent (98) is above disk_critical_percent (97)`},
		{"rule matches nothing", "c.json", "{\"privacy\":{\"rules\":[ {\"action\":\"drop\"}]}}", `c.json:1:23: privacy.rules[0]: matches nothing; give sensor_pattern, sensor_type, ingest_type, tag or field (* matches all)`},
		{"round", "c.toml", "[privacy]\nrules = [ { tag = '*', action = 'round' } ]", `c.toml:2:11: privacy.rules[0].step: must be above 0 for the action round`},
		{"aggregate", "c.toml", "[privacy]\nrules = [ { tag = '*', action = 'aggregate', window_minutes = 0 } ]", `c.toml:2:46: privacy.rules[0].window_minutes: must be above 0 for the action aggregate`},
		{"encrypt", "c.toml", "[privacy]\nrules = [ { tag = '*', action = 'encrypt', recipient = 'abcd' } ]", `c.toml:2:44: privacy.rules[0].recipient: must be a public key of 64 hex digits for the action encrypt`},
		{"action", "c.toml", "[privacy]\nrules = [ { tag = '*', action = 'dorp' } ]", `c.toml:2:24: privacy.rules[0].action: is not one of the allowed values; did you mean drop? Use one of drop, drop_field, redact, hash, mask, truncate, round, aggregate, encrypt`},
		{"probe http", "c.toml", probe("http", "target = 'localhost'"), `c.toml:4:1: health.probes[0].target: must be a URL such as http://localhost:9000/health for the type http`},
		{"probe tcp", "c.toml", probe("tcp", "target = 'localhost'"), `c.toml:4:1: health.probes[0].target: must be host:port for the type tcp`},
		{"probe exec", "c.toml", probe("exec", ""), `c.toml:1:10: health.probes[0].command: must name a program for the type exec`},
		{"probe systemd", "c.toml", probe("systemd", ""), `c.toml:1:10: health.probes[0].target: must name a unit for the type systemd`},
		{"probe file", "c.toml", probe("file_age", "max_age_seconds = 1"), `c.toml:1:10: health.probes[0].target: must name a file for the type file_age`},
		{"probe age", "c.toml", probe("file_age", "target = '/x'"), `c.toml:1:10: health.probes[0].max_age_seconds: must be above 0 for the type file_age`},
		{"probe of a built-in name", "c.toml", "[[health.probes]]\nname = 'queue'\ntype = 'systemd'\ntarget = 'x'", `c.toml:2:1: health.probes[0].name: is the name of a built-in check; choose another`},
		{"probe twice", "c.toml", probe("systemd", "target = 'x'") + "\n" + probe("systemd", "target = 'x'"), `c.toml:6:1: health.probes[1].name: health.probes[0] has this name already; names must be unique`},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := Parse(test.path, []byte(test.text), testOptions("TEXT", "s3cret"))
			var bad *Error
			if !errors.As(err, &bad) {
				t.Fatalf("got %v", err)
			}
			if diff := cmp.Diff(test.want, err.Error()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func probe(typ, line string) string {
	return "[[health.probes]]\nname = 'p'\ntype = '" + typ + "'\n" + line
}

func TestAllProblemsAreReportedInOrder(t *testing.T) {
	_, err := Parse("c.toml", []byte("[health]\nport = 'x'\nadress = ''\n[cloud]\nenabled = 1\nendpoint = 5\n[cluod]\n"), testOptions())
	want := `c.toml has 5 problems:
c.toml:2:1: health.port: expected a whole number, found a string
c.toml:3:1: health.adress: unknown key; did you mean health.address?
c.toml:5:1: cloud.enabled: expected true or false, found a number
c.toml:6:1: cloud.endpoint: expected a string, found a number
c.toml:7:2: cluod: unknown key; did you mean cloud?`
	if diff := cmp.Diff(want, fmt.Sprint(err)); diff != "" {
		t.Error(diff)
	}
}

func TestProblemsAreBounded(t *testing.T) {
	var text strings.Builder
	for i := range 500 {
		fmt.Fprintf(&text, "k%d = 1\n", i)
	}
	_, err := Parse("c.toml", []byte(text.String()), testOptions())
	var bad *Error
	if !errors.As(err, &bad) {
		t.Fatal(err)
	}
	if len(bad.Problems) != maxProblems || bad.Omitted != 480 || bad.Problems[19].Line != 20 {
		t.Errorf("%d listed up to line %d, %d omitted", len(bad.Problems), bad.Problems[19].Line, bad.Omitted)
	}
	if !strings.HasSuffix(err.Error(), "\nand 480 more") {
		t.Error(err)
	}
}

func TestBounds(t *testing.T) {
	deep := strings.Repeat("a.", maxDepth) + "a"
	var devices strings.Builder
	for i := range 1025 {
		fmt.Fprintf(&devices, "[[sensors.devices]]\nname='%d'\ningest_type='sysfs'\n", i)
	}
	for name, test := range map[string]struct{ path, text, want string }{
		"size":        {"c.toml", strings.Repeat("#", maxFileBytes+1), "larger than 1048576 bytes"},
		"dotted":      {"c.toml", deep + " = 1", "c.toml:1:49: tables and lists are nested more than 24 deep"},
		"header":      {"c.toml", "\n[" + deep + "]", "c.toml:2:50: tables and lists"},
		"lists":       {"c.toml", "a = " + strings.Repeat("[", 100) + strings.Repeat("]", 100), "c.toml:1:1: tables and lists"},
		"many lists":  {"c.toml", "a = " + strings.Repeat("[", 200000), "nested more than"},
		"tables":      {"c.toml", strings.Repeat("a={", 100) + strings.Repeat("}", 100), "tables and lists"},
		"json":        {"c.json", strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100), "c.json:1:125: tables and lists"},
		"json deeper": {"c.json", strings.Repeat("[", 500000), "c.json:1:10001: not valid JSON: invalid character '[' exceeded max depth"},
		"devices":     {"c.toml", devices.String(), "sensors.devices: has 1025 entries; the most is 1024"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse(test.path, []byte(test.text), testOptions())
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %.200v, want %q", err, test.want)
			}
		})
	}
}

func TestNearest(t *testing.T) {
	candidates := []string{"endpoint", "enabled", "api_key", "DEBUG", "batch_size"}
	for given, want := range map[string]string{
		"endpont": "endpoint", "edpnoint": "endpoint", "ednpoint": "endpoint", "Enabled": "enabled", "apikey": "api_key",
		"debug": "DEBUG", "batchsize": "batch_size", "port": "", "": "", strings.Repeat("endpoint", 10): "",
	} {
		if got := nearest(given, candidates); got != want {
			t.Errorf("nearest to %q is %q, want %q", given, got, want)
		}
	}
}
