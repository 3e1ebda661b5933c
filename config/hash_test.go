package config

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
	"pgregory.net/rapid"
)

func mustHash(t *testing.T, path, text string) string {
	t.Helper()
	h, err := Hash(path, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestHashIgnoresSpelling(t *testing.T) {
	want := mustHash(t, "c.toml", seedTemplate)
	for name, test := range map[string]struct{ path, text string }{
		"reordered, other tables, comments, 5 for 5.0": {"other.toml", `# the same
health.enabled = true
health.port = 8_080
[[privacy.rules]]
action = 'drop'          # first
sensor_pattern = "*password*"
[[privacy.rules]]
action = "hash"
sensor_pattern = "*em\u0061il*"
[privacy]
enabled = true
[logging]
format = "json"
level = "INFO"
[cloud]
flush_interval_seconds = 6e1
batch_size = 0x64
api_key = "${API_KEY}"
endpoint = "https://api.example.com/v1/ingest"
enabled = true
[sensors]
poll_interval_seconds = 5
[[sensors.devices]]
unit = "C"
sensor_type = "temperature"
ingest_type = "simulator"
name = "temp-01"
`},
		"json": {"c.json", `{
 "health": {"enabled": true, "port": 8.08e3},
 "logging": {"level": "INFO", "format": "json"},
 "privacy": {"enabled": true, "rules": [
  {"sensor_pattern": "*password*", "action": "drop"}, {"sensor_pattern": "*email*", "action": "hash"}]},
 "cloud": {"enabled": true, "endpoint": "https:\/\/api.example.com/v1/ingest", "api_key": "${API_KEY}",
  "batch_size": 100, "flush_interval_seconds": 60.0},
 "sensors": {"poll_interval_seconds": 5.0, "devices": [
  {"name": "temp-01", "ingest_type": "simulator", "sensor_type": "temperature", "unit": "C"}]}}`},
	} {
		if got := mustHash(t, test.path, test.text); got != want {
			t.Errorf("%s: hash is %s, want %s", name, got, want)
		}
	}
	for from, to := range map[string]string{
		"5.0":        "5.1",
		`"C"`:        `"c"`,
		"drop":       "mask",
		"API_KEY":    "API_KEY2",
		"port":       "prot",
		"[health]\n": "[health]\naddress = ''\n", // the default, written out, is another declaration
	} {
		if mustHash(t, "c.toml", strings.Replace(seedTemplate, from, to, 1)) == want {
			t.Errorf("the hash does not see %q become %q", from, to)
		}
	}
}

// The documented example; see docs/configuration.md.
const (
	exampleText      = "[cloud]\nenabled = true\nendpoint = \"https://api.example.com/v1/ingest\"\napi_key = \"${API_KEY}\"\nbatch_size = 50\n"
	exampleCanonical = `{"cloud":{"api_key":"${API_KEY}","batch_size":50,"enabled":true,"endpoint":"https://api.example.com/v1/ingest"}}`
)

func TestDocumentedHashes(t *testing.T) {
	doc, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	c := mustParse(t, "config.toml", exampleText, testOptions("API_KEY", "s3cret"))
	effective := strings.Replace(exampleCanonical, "${API_KEY}", hasher{key: []byte(defaultDigestKey)}.digest("s3cret"), 1)
	if c.Source.Hash != mustHash(t, "c.json", exampleCanonical) || c.Source.EffectiveHash != mustHash(t, "c.json", effective) {
		t.Error("the example's hashes are not those of its canonical forms")
	}
	for _, want := range []string{exampleText, exampleCanonical, effective, c.Source.Hash, c.Source.EffectiveHash, defaultDigestKey} {
		if !strings.Contains(string(doc), want) {
			t.Errorf("docs/configuration.md does not hold %s", want)
		}
	}
}

func TestHashNeedsNoSurroundings(t *testing.T) {
	text := "[cloud]\napi_key = '${NOT_SET}'\n[[sensors.devices]]\ningest_type = 'of the future'\n"
	if mustHash(t, "c.toml", text) == "" {
		t.Error("no hash")
	}
	if _, err := Hash("c.toml", []byte("a = nan")); err == nil {
		t.Error("a file with a problem has a hash")
	}
}

func TestEffectiveHash(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "key"), []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	effective := func(line, secret, digestKey string) string {
		o := testOptions("API_KEY", secret, "GROUP", "north")
		o.DigestKey = []byte(digestKey)
		return mustParse(t, filepath.Join(dir, "c.toml"), line, o).Source.EffectiveHash
	}
	const byEnv, byFile = "[cloud]\napi_key = '${API_KEY}'", "[cloud]\napi_key_file = 'key'"
	first := effective(byEnv, "s3cret", "k")
	if effective("[cloud]\napi_key = 's3cret'", "", "k") != first {
		t.Error("where a value comes from changes the hash")
	}
	if effective(byEnv, "other", "k") == first {
		t.Error("the hash does not see the secret")
	}
	if effective(byEnv, "s3cret", "k2") == first {
		t.Error("the hash does not depend on the digest key")
	}
	if effective("[device]\ngroup='${GROUP}'", "", "k") != effective("[device]\ngroup='north'", "", "k2") {
		t.Error("a config without secrets depends on the digest key")
	}
	file := effective(byFile, "", "k")
	if err := os.WriteFile(filepath.Join(dir, "key"), []byte("rotated\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if effective(byFile, "", "k") == file {
		t.Error("the hash does not see the content of the file")
	}
	const password = sensor + "url='http://u:a@h/'"
	if effective(password, "", "k") == effective(password, "", "k2") {
		t.Error("a password in a URL is hashed without the key")
	}
}

// TestHashIsEqualInBothSyntaxes writes random trees as TOML and as JSON.
func TestHashIsEqualInBothSyntaxes(t *testing.T) {
	scalar := rapid.OneOf(
		rapid.Map(rapid.String(), func(s string) any { return s }),
		rapid.Map(rapid.Int64(), func(i int64) any { return i }),
		rapid.Map(rapid.Float64(), func(f float64) any { return f }),
		rapid.Map(rapid.Bool(), func(b bool) any { return b }),
	)
	key := rapid.StringMatching(`[a-zA-Zé. "]{0,6}`)
	var tree func(depth int) *rapid.Generator[any]
	tree = func(depth int) *rapid.Generator[any] {
		if depth == 0 {
			return scalar
		}
		return rapid.OneOf(scalar,
			rapid.Map(rapid.SliceOfN(tree(depth-1), 0, 4), func(l []any) any { return l }),
			rapid.Map(rapid.MapOfN(key, tree(depth-1), 0, 4), func(m map[string]any) any { return m }),
		)
	}
	rapid.Check(t, func(t *rapid.T) {
		root := rapid.MapOfN(key, tree(3), 0, 5).Draw(t, "root")
		asTOML, err := toml.Marshal(root)
		if err != nil {
			t.Fatal(err)
		}
		asJSON, err := json.Marshal(root)
		if err != nil {
			t.Fatal(err)
		}
		a, err := Hash("c.toml", asTOML)
		if err != nil {
			t.Fatalf("%v in\n%s", err, asTOML)
		}
		b, err := Hash("c.json", asJSON)
		if err != nil {
			t.Fatalf("%v in\n%s", err, asJSON)
		}
		if a != b {
			t.Fatalf("hashes differ:\n%s\n%s", asTOML, asJSON)
		}
	})
}

// FuzzTOML and FuzzJSON: no input panics, and what parses has the hash of its
// canonical form.
func FuzzTOML(f *testing.F) {
	for _, s := range []string{seedTemplate, exampleText, "", "a.b.c = [ {x=1}, [[]], {} ]\n[a.d]\n[[e]]\n[e.f]\n[[e]]\n", "x = '''\n'''", sensor} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) { fuzz(t, "c.toml", data) })
}

func FuzzJSON(f *testing.F) {
	for _, s := range []string{exampleCanonical, "{}", `{"a":[{"b":null},[],-0.0e-5],"é":"\ud83d\ude00"}`, `{"a":1,"a":2}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) { fuzz(t, "c.json", data) })
}

func fuzz(t *testing.T, path string, data []byte) {
	c, err := Parse(path, data, testOptions("API_KEY", "x"))
	if err == nil {
		c.Redacted()
	} else if strings.TrimSpace(err.Error()) == "" {
		t.Error("an error without a text")
	}
	hash, err := Hash(path, data)
	if err != nil {
		return
	}
	canonical, err := json.Marshal(hasher{}.plain(parse(path, data).root, false))
	if err != nil {
		t.Fatal(err)
	}
	again, err := Hash("again.json", canonical)
	if err != nil {
		t.Fatalf("%v in %s", err, canonical)
	}
	if again != hash {
		t.Errorf("%q hashes to %s and as %s to %s", data, hash, canonical, again)
	}
}
