package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/internal/cli"
	"github.com/pyvorin/pyvorin-edge/privacy"
)

// privacyConfig holds the rules of the fleet guide's template, and one that
// keeps occupancy private.
const privacyConfig = `
[privacy]
enabled = true
rules = [
    { sensor_pattern = "*password*", action = "drop" },
    { sensor_pattern = "*email*", action = "hash" },
    { sensor_pattern = "power", action = "aggregate", window_minutes = 15 },
    { sensor_type = "temperature", action = "round", step = 0.5 },
]
`

// runPrivacy runs `privacy args…` in a base dir with the given config.
func runPrivacy(t *testing.T, baseDir, config string, args ...string) (string, error) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(baseDir, "config.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return runCapture(t, append([]string{"--base-dir", baseDir, "privacy"}, args...)...)
}

func TestPrivacyExplain(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
		want []string
	}{
		{"value", []string{"--sensor", "user_Email", "--value", "bob@example.com"}, []string{
			"privacy.rules[0]  drop", "no match", `sensor_pattern "*password*" matches neither the name nor a metadata field`,
			"privacy.rules[1]  hash", "MATCH", "covers the value; hash acts on the value",
			`sensor_type "temperature" does not match ""`,
			"outcome: transform", `"h1:`, "throw-away key",
		}},
		{"field", []string{"--sensor", "door", "--value", "true", "--meta", "email=bob", "--meta", "n=7"}, []string{
			"hash acts on meta.email", "outcome: transform", "value       true", `meta.n      7`,
		}},
		{"drop", []string{"--sensor", "door", "--value", "1", "--meta", "Password=x", "--meta", "email=y"}, []string{
			"covers meta.Password; drops the reading", "idle, since privacy.rules[0] drops the reading",
			"outcome: drop (dropped by privacy.rules[0])",
		}},
		{"round", []string{"--sensor", "t", "--type", "Temperature", "--value", "21.37"}, []string{"value  21.5"}},
		{"inapplicable", []string{"--sensor", "t", "--type", "temperature", "--value", `"21.37"`}, []string{
			"outcome: error (dropped because privacy.rules[3] could not be applied: round applies to numbers)",
		}},
		{"aggregate", []string{"--sensor", "power", "--value", "5"}, []string{"outcome: aggregate", "mean of each 15 min"}},
		{"pass", []string{"--sensor", "x", "--tag", "a=b"}, []string{"outcome: pass", "value  null", "\nnote: without --value", "\nnote: no sensor of the config is called \"x\""}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			out, err := runPrivacy(t, dir, privacyConfig, append([]string{"explain"}, tt.args...)...)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range tt.want {
				if !strings.Contains(out, want) {
					t.Errorf("the output lacks %q:\n%s", want, out)
				}
			}
			if _, err := os.Stat(filepath.Join(dir, "secrets")); err == nil {
				t.Error("explain made a key")
			}
		})
	}
}

func TestPrivacyExplainJSON(t *testing.T) {
	dir := t.TempDir()
	key, err := privacy.EnsureKey(filepath.Join(dir, "secrets", "privacy.key"))
	if err != nil {
		t.Fatal(err)
	}
	const sensor = `sensors.devices = [ { name = "email", ingest_type = "simulator" } ]` + "\n"
	out, err := runPrivacy(t, dir, sensor+privacyConfig, "explain", "--json", "--sensor", "email", "--value", "bob@example.com")
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		privacy.Explanation
		Note string
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got.Outcome != privacy.Transform || len(got.Rules) != 4 || !got.Rules[1].Matches || got.Note != "" {
		t.Errorf("explained as %s", out)
	}
	if token, _ := got.Left.Value.Text(); !strings.HasPrefix(token, "h1:"+privacy.KeyID(key)+":") {
		t.Errorf("the value is %q, want a token of the device's key", token)
	}
}

// A sensor of the config needs no --type, --ingest and --tag.
func TestPrivacyExplainTakesSensorsFromConfig(t *testing.T) {
	const sensor = `
[sensors]
devices = [ { name = "temp-01", ingest_type = "simulator", sensor_type = "temperature", tags = { site = "berlin" } } ]
[privacy]
rules = [ { sensor_type = "temperature", ingest_type = "sim*", tag = "site=*", action = "redact" } ]
`
	for _, name := range []string{"temp-01", "temp-01.humidity"} {
		out, err := runPrivacy(t, t.TempDir(), sensor, "explain", "--sensor", name, "--value", "1")
		if err != nil || !strings.Contains(out, `"[redacted]"`) || strings.Contains(out, "no sensor of the config") {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

func TestPrivacyExplainRefuses(t *testing.T) {
	var usage cli.UsageError
	for _, args := range [][]string{
		{"explain"}, {"explain", "--sensor", "x", "--meta", "novalue"}, {"explain", "--sensor", "x", "--tag", "=v"},
		{"explain", "stray", "--sensor", "x"}, {"test"}, {},
	} {
		if _, err := runPrivacy(t, t.TempDir(), privacyConfig, args...); !errors.As(err, &usage) {
			t.Errorf("%q: %v, want a usage error", args, err)
		}
	}
	var bad *config.Error
	if _, err := runPrivacy(t, t.TempDir(), `privacy.rules = [ { sensor_pattern = "x", action = "round" } ]`,
		"explain", "--sensor", "x"); !errors.As(err, &bad) || !strings.Contains(err.Error(), "privacy.rules[0]") {
		t.Errorf("a rule without its step: %v, want a config error that names it", err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "secrets", "privacy.key")
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("not a key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := runPrivacy(t, dir, privacyConfig, "explain", "--sensor", "x"); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a broken key file: %v", err)
	}
}

func TestPrivacyTest(t *testing.T) {
	const good = `# what must never leave
{"sensor":"user_email","value":"bob@example.com","expect":"transform","value_expected":"h1:????????:*"}

{"name":"hint","sensor":"door","value":1,"meta":{"password_hint":"x"},"expect":"drop"}
{"sensor":"t","type":"temperature","value":21.37,"expect":"transform","value_expected":21.5,"meta_expected":{}}
{"sensor":"t","type":"temperature","value":"warm","expect":"drop"}
{"sensor":"t","type":"temperature","value":"warm","expect":"error"}
{"sensor":"door","value":true,"meta":{"email":"b","n":7},"expect":"transform","value_expected":true,"meta_expected":{"email":"h1:*","n":7}}
{"sensor":"power","value":3,"expect":"aggregate"}
{"sensor":"hall","value":3,"tags":{"a":"b"},"ingest":"x","reason":"r","expect":"pass","value_expected":3}
`
	run := func(t *testing.T, cases string) (string, error) {
		path := filepath.Join(t.TempDir(), "cases.jsonl")
		if err := os.WriteFile(path, []byte(cases), 0o600); err != nil {
			t.Fatal(err)
		}
		return runPrivacy(t, t.TempDir(), privacyConfig, "test", path)
	}
	if out, err := run(t, good); err != nil || !strings.Contains(out, "ok: 8 cases") {
		t.Errorf("%v\n%s", err, out)
	}
	for _, tt := range []struct{ name, line, want string }{
		{"outcome", `{"name":"case","sensor":"x","value":1,"expect":"drop"}`, "case: the outcome is pass"},
		{"value", `{"sensor":"t","type":"temperature","value":21.37,"expect":"transform","value_expected":21.37}`, "the value is 21.5, expected 21.37"},
		{"token", `{"sensor":"email","value":"x","expect":"transform","value_expected":"h2:*"}`, `expected "h2:*"`},
		{"metadata", `{"sensor":"x","meta":{"n":1},"expect":"pass","meta_expected":{"n":2}}`, `the metadata is {"n":1}, expected {"n":2}`},
		{"unknown key", `{"sensor":"x","expected":"pass"}`, `unknown key "expected"; did you mean expect?`},
		{"strange key", `{"sensor":"x","sensitivity":1}`, "there are name, sensor, type"},
		{"no JSON", `sensor x`, "cases.jsonl:11: invalid character"},
		{"no sensor", `{"expect":"pass"}`, "names no sensor"},
		{"no expectation", `{"sensor":"x"}`, "expect is pass"},
		{"two", `{"sensor":"x","expect":"pass"} {}`, "one case a line"},
		{"array", `{"sensor":"x","value":[1],"expect":"pass"}`, "a value is a number"},
		{"nothing left", `{"sensor":"password","expect":"drop","value_expected":1}`, "nothing leaves"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, err := run(t, good+tt.line+"\n"+`{"name":"behind it","sensor":"x","expect":"drop"}`)
			if err == nil || err.Error() != "2 of 10 cases failed" || exitCode(err) != cli.ExitFailure {
				t.Errorf("error %v, want 2 of 10", err)
			}
			if !strings.Contains(out, "cases.jsonl:12: behind it: ") {
				t.Errorf("the rest was not run: %q", out)
			}
			if !strings.Contains(out, "cases.jsonl:11: ") || !strings.Contains(out, tt.want) {
				t.Errorf("output %q, want line 11 and %q", out, tt.want)
			}
		})
	}
	for name, cases := range map[string]string{
		"empty":   "# nothing\n",
		"endless": `{"sensor":"` + strings.Repeat("x", maxCaseBytes) + `","expect":"pass"}`,
	} {
		if out, err := run(t, cases); err == nil {
			t.Errorf("%s: accepted: %s", name, out)
		}
	}
	if _, err := runPrivacy(t, t.TempDir(), privacyConfig, "test", "absent"); err == nil {
		t.Error("a file that is not there was accepted")
	}
}

// What docs/privacy.md shows is what happens.
func TestPrivacyDocs(t *testing.T) {
	page, err := os.ReadFile("../../docs/privacy.md")
	if err != nil {
		t.Fatal(err)
	}
	block := func(start string) string {
		_, rest, found := strings.Cut(string(page), "```"+start)
		text, _, closed := strings.Cut(rest, "\n```")
		if !found || !closed {
			t.Fatalf("no block begins with %q", start)
		}
		return text
	}
	dir := t.TempDir()
	cases := filepath.Join(dir, "cases.jsonl")
	if err := os.WriteFile(cases, []byte("#"+block("\n# what must never leave")), 0o600); err != nil {
		t.Fatal(err)
	}
	rules := block("toml\n")
	if out, err := runPrivacy(t, dir, rules, "test", cases); err != nil || !strings.Contains(out, "ok: 4 cases") {
		t.Errorf("the cases: %v\n%s", err, out)
	}
	out, err := runPrivacy(t, dir, rules, "explain", "--sensor", "door", "--value", "true", "--meta", "user_email=bob@example.com")
	if err != nil {
		t.Fatal(err)
	}
	// The token and the note depend on the key.
	token := regexp.MustCompile(`"h1:.*"`)
	shown := token.ReplaceAllString(block("\n$ pyvorin-edge privacy explain"), "token")
	_, shown, _ = strings.Cut(shown, "\n")
	out, _, _ = strings.Cut(token.ReplaceAllString(out, "token"), "\nnote:")
	if shown != out {
		t.Errorf("the page shows\n%s\nand explain prints\n%s", shown, out)
	}
}
