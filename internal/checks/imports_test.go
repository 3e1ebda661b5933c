package checks

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/pyvorin/pyvorin-edge"

type pkg struct {
	ImportPath string
	Name       string
	Doc        string
	Imports    []string
	Deps       []string
	GoFiles    []string
	Standard   bool
}

func load(t *testing.T) map[string]pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Name,Doc,Imports,Deps,GoFiles,Standard", "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	pkgs := map[string]pkg{}
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs[strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")] = p
	}
	if len(pkgs) < 10 {
		t.Fatalf("go list found only %d packages", len(pkgs))
	}
	return pkgs
}

// within reports whether the package path is tree or below it.
func within(path, tree string) bool {
	return path == tree || strings.HasPrefix(path, tree+"/")
}

// deviceTrees are the packages that end up on the device.
var deviceTrees = []string{"agent", "sensors", "privacy", "syncqueue", "health", "config", "command", "ota", "provision", "cmd/pyvorin-edge"}

// TestForbiddenImports proves what the two-process design rests on: the
// controller shares only messages with the device, and what judges an update
// shares no code with what it judges.
func TestForbiddenImports(t *testing.T) {
	tests := []struct {
		from []string // trees
		to   []string // import paths; those of this module without its prefix
		deep bool     // also through other packages
		why  string
	}{
		{deviceTrees, []string{"fleet", "cmd/pyvorin-fleet"}, true, "a device carries no controller"},
		{[]string{"fleet", "cmd/pyvorin-fleet"}, []string{"agent", "sensors", "syncqueue", "privacy"}, true, "a controller carries no agent"},
		{[]string{"ota/watchdog"}, []string{
			"config", "sensors", "syncqueue", "privacy", "agent", "health", "modernc.org/sqlite", "github.com/eclipse/paho.mqtt.golang",
		}, true, "the judge shares no code with what it judges"},
		{[]string{"syncqueue"}, []string{"sensors"}, false, "only a cleared reading can be queued"},
		{[]string{"wire", "internal"}, []string{"agent", "config", "sensors", "syncqueue", "privacy", "health", "fleet"}, true, "leaves import no branch"},
		{[]string{"sensors", "privacy", "syncqueue", "health", "config"}, []string{"agent"}, true, "the agent builds the parts, not the reverse"},
		{deviceTrees, []string{"google.golang.org/protobuf", "html/template"}, true, "with them the device's binary was a third larger"},
	}
	pkgs := load(t)
	for _, tt := range tests {
		for path, p := range pkgs {
			if !slices.ContainsFunc(tt.from, func(tree string) bool { return within(path, tree) }) {
				continue
			}
			imports := p.Imports
			if tt.deep {
				imports = p.Deps
			}
			for _, imp := range imports {
				short := strings.TrimPrefix(imp, module+"/")
				if slices.ContainsFunc(tt.to, func(tree string) bool { return within(short, tree) }) && !within(short, path) {
					t.Errorf("%s imports %s: %s", path, short, tt.why)
				}
			}
		}
	}
}

// TestTheJudgeStandsAlone has all that is linked into what decides, as root,
// what a device runs: by any way, and but for the standard library. Each
// addition is one more thing that can keep a device from being saved.
func TestTheJudgeStandsAlone(t *testing.T) {
	allowed := []string{
		"ota", "ota/bundle", "ota/disk", "trust", "wire",
		"internal/atomicfile", "internal/clock", "internal/procgroup", "internal/strictjson",
		"github.com/Masterminds/semver/v3", "github.com/coreos/go-systemd/v22/dbus", "github.com/godbus/dbus/v5",
		"github.com/gofrs/flock", "github.com/klauspost/compress", "github.com/rs/zerolog",
		"github.com/mattn/go-colorable", "github.com/mattn/go-isatty", "golang.org/x/sync/errgroup", "golang.org/x/sys/unix",
	}
	judge, ok := load(t)["ota/watchdog"]
	if !ok {
		t.Fatal("there is no ota/watchdog")
	}
	needed := map[string]bool{}
	for _, imp := range judge.Deps {
		short := strings.TrimPrefix(imp, module+"/")
		if first, _, _ := strings.Cut(imp, "/"); !strings.Contains(first, ".") || strings.HasPrefix(imp, "vendor/") {
			continue // the standard library
		}
		i := slices.IndexFunc(allowed, func(name string) bool {
			return short == name || !strings.HasPrefix(imp, module) && within(short, name)
		})
		if i < 0 {
			t.Errorf("ota/watchdog needs %s", short)
			continue
		}
		needed[allowed[i]] = true
	}
	for _, name := range allowed {
		if !needed[name] {
			t.Errorf("ota/watchdog does not need %s any more", name)
		}
	}
}

func TestPackagesTellTheirStory(t *testing.T) {
	for path, p := range load(t) {
		if len(p.GoFiles) == 0 {
			continue // tests only
		}
		want := "Package " + p.Name + " "
		if p.Name == "main" {
			want = "Command "
		}
		if !strings.HasPrefix(p.Doc, want) {
			t.Errorf("%s: the package doc must begin with %q, not %q", path, want, p.Doc)
		}
	}
}
