package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/pyvorin/pyvorin-edge/sensors"
)

// board unpacks a fixture of the sysfs sensor, in which lines with an arrow are
// symbolic links.
func board(t *testing.T, name string) string {
	t.Helper()
	a, err := txtar.ParseFile(filepath.Join("../../sensors/sysfs/testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	place := func(name string) string {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, f := range a.Files {
		if err := os.WriteFile(place(f.Name), f.Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for line := range strings.Lines(string(a.Comment)) {
		if link, target, ok := strings.Cut(strings.TrimSpace(line), " -> "); ok {
			if err := os.Symlink(target, place(link)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return root
}

// All that is printed for a board is a config that passes the check, and once it
// is the present one there is nothing left to paste.
func TestDiscoverPrintsAConfig(t *testing.T) {
	for _, name := range []string{"pi.txtar", "pi5.txtar", "jetson.txtar", "jetson-nano.txtar", "jetson-orin.txtar"} {
		root, base := board(t, name), t.TempDir()
		args := []string{"sensors", "discover", "--sys-root", root, "--base-dir", base}
		out, err := runCapture(t, args...)
		if err != nil || strings.Count(out, "[[sensors.devices]]") < 3 {
			t.Errorf("%s: %v\n%s", name, err, out)
			continue
		}
		file := filepath.Join(base, "config.toml")
		if err := os.WriteFile(file, []byte(out), 0o600); err != nil {
			t.Fatal(err)
		}
		if checked, err := runCapture(t, "config", "check", file); err != nil {
			t.Errorf("%s: %v %s\n%s", name, err, checked, out)
		}
		again, err := runCapture(t, args...)
		if err != nil || strings.Contains(again, "[[sensors.devices]]") || !strings.Contains(strings.ToLower(again), "configured as cpu") {
			t.Errorf("%s, when all is configured: %v\n%s", name, err, again)
		}
	}
}

func TestDiscoverBesideAConfig(t *testing.T) {
	root, base := board(t, "pi5.txtar"), t.TempDir()
	file := filepath.Join(base, "config.toml")
	text := `
[sensors]
devices = [
    { name = "supply", ingest_type = "sysfs", bus = "hwmon", chip = "ina226", channel = "in1" },
    { name = "bmp280", ingest_type = "simulator" },
]
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := runCapture(t, "sensors", "discover", "--json", "--sys-root", root, "--base-dir", base)
	if err != nil {
		t.Fatal(err)
	}
	var offers []foundOffer
	if err := json.Unmarshal([]byte(out), &offers); err != nil {
		t.Fatal(err)
	}
	get := func(kind, name string) foundOffer {
		i := slices.IndexFunc(offers, func(o foundOffer) bool { return o.Kind == kind && o.Name == name })
		if i < 0 {
			t.Fatalf("no %s %s in %s", kind, name, out)
		}
		return offers[i]
	}
	if o := get("hwmon", "ina226"); o.ConfiguredAs != "supply" || o.IngestType != "sysfs" {
		t.Errorf("a chip of which a part is read: %+v", o)
	}
	if o := get("iio", "bmp280"); o.ConfiguredAs != "" || !strings.Contains(o.Config, "name = \"bmp280-2\"\n") {
		t.Errorf("a chip whose name is taken: %+v", o)
	}
	if o := get("i2c", "1-0040"); o.Config != "" || o.Note == "" {
		t.Errorf("a chip without a driver: %+v", o)
	}

	if err := os.WriteFile(file, []byte("[sensors\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr output
	err = run(t.Context(), []string{"sensors", "discover", "--sys-root", root, "--base-dir", base}, strings.NewReader(""), &stdout, &stderr)
	if err != nil || !strings.Contains(stderr.String(), "has errors") || !strings.Contains(stdout.String(), `name = "bmp280"`) {
		t.Errorf("beside a broken config: %v %s\n%s", err, &stderr, &stdout)
	}
}

func TestDiscoverOnAnEmptyMachine(t *testing.T) {
	root := t.TempDir()
	out, err := runCapture(t, "sensors", "discover", "--sys-root", root, "--base-dir", root)
	if diff := cmp.Diff(nothingFound, out); err != nil || diff != "" {
		t.Error(err, diff)
	}
	if out, err = runCapture(t, "sensors", "discover", "--json", "--sys-root", root, "--base-dir", root); err != nil || out != "[]\n" {
		t.Error(err, out)
	}
}

func TestDiscoverOutlivesItsTypes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		defer close(release)
		offer := func(name string) []sensors.Offer { return []sensors.Offer{{Kind: "k", Name: name}} }
		types := []sensors.Type{
			{Name: "none"},
			{Name: "hangs", Discover: func(context.Context, sensors.Env) []sensors.Offer { <-release; return offer("late") }},
			{Name: "panics", Discover: func(context.Context, sensors.Env) []sensors.Offer { panic("21.5") }},
			{Name: "obeys", Discover: func(ctx context.Context, _ sensors.Env) []sensors.Offer { <-ctx.Done(); return offer("half") }},
			{Name: "works", Discover: func(context.Context, sensors.Env) []sensors.Offer { return offer("whole") }},
		}
		offers, failures := discover(t.Context(), types, sensors.Env{})
		if diff := cmp.Diff([]string{"hangs was not done within 10 s", "panics panicked (string)"}, failures); diff != "" {
			t.Error(diff)
		}
		var names []string
		for _, o := range offers {
			names = append(names, o.IngestType+" "+o.Name)
		}
		if diff := cmp.Diff([]string{"obeys half", "works whole"}, names); diff != "" {
			t.Error(diff)
		}
	})
}

func TestOffersThatCannotBePasted(t *testing.T) {
	offers := []foundOffer{
		{IngestType: "sysfs", Offer: sensors.Offer{Name: "broken", Config: "[[sensors.devices]]\nname = \"a\"\ningest_type = \"sysfs\"\n"}},
		{IngestType: "sysfs", Offer: sensors.Offer{Name: "odd\x1b[2J", Note: "busy", Config: "[[sensors.devices]]\nname = \"b\"\ningest_type = \"sysfs\"\nbus = \"thermal\"\n"}},
	}
	(&app{baseDir: t.TempDir()}).settle(offers, nil)
	if offers[0].Config != "" || !strings.Contains(offers[0].Note, "by hand") {
		t.Errorf("%+v", offers[0])
	}
	var out output
	if err := printOffers(&out, offers, false); err != nil {
		t.Fatal(err)
	}
	if text := out.String(); strings.Contains(text, "\x1b") || !strings.Contains(text, "\n# busy\n[[sensors.devices]]\nname = \"b\"\n") {
		t.Errorf("%q", text)
	}
}
