package provision

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pyvorin/pyvorin-edge/ota/disk"
)

const someDrop = "[cloud]\nenabled = true\nendpoint = \"https://drop.example.com\"\napi_key = \"t0ken\"\n[device]\nlabels = { id = \"${DEVICE_ID}\" }\n"

func imported(id string) string { return strings.ReplaceAll(someDrop, "${DEVICE_ID}", id) }

func (r *rig) dropError() string { return filepath.Join(filepath.Dir(r.dropPath()), dropErrorFile) }

func TestImport(t *testing.T) {
	r := newRig(t)
	write(t, r.dropPath(), someDrop)
	report := r.run()
	if len(report.Warnings) != 1 || !strings.Contains(report.Warnings[0], "fleet.toml was not used") {
		t.Errorf("%+v", report)
	}
	r.want("config.toml", imported(idA))
	if _, err := os.Lstat(r.dropPath()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the imported file is still there: %v", err)
	}
	r.unchanged() // the template does not come back

	// Another one replaces what was imported, and not what the fleet pushed since.
	write(t, r.dropPath(), someDrop+"# 2\n")
	r.run()
	r.want("config.toml", imported(idA)+"# 2\n")
	write(t, filepath.Join(r.o.BaseDir, "config.toml"), "# pushed\n")
	write(t, r.dropPath(), someDrop+"# 3\n")
	r.refused("--force=config")
	r.o.Force.Config = true
	r.run()
	r.want("config.toml", imported(idA)+"# 3\n")
	if got := content(t, r.dropError()); got != "" {
		t.Errorf("the explanation is still there: %s", got)
	}
}

func TestImportAlone(t *testing.T) {
	r := newRig(t)
	r.o.Template, r.o.Anchor, r.o.Vars = nil, nil, nil
	old := filepath.Join(r.root, "boot", DropFile) // where older systems mount it
	write(t, old, someDrop)
	if report := r.run(); len(report.Warnings) != 1 || !strings.Contains(report.Warnings[0], "no trust anchor") {
		t.Errorf("%+v", report)
	}
	r.want("config.toml", imported(idA))
	if content(t, old) != "" {
		t.Error("the imported file is still there")
	}
}

func TestABadDropStaysAndIsExplained(t *testing.T) {
	for name, tt := range map[string]struct{ text, why string }{
		"unknown key":  {"[cloud]\napi_key = \"t0ken\"\nendpont = \"x\"\n", "boot/firmware/pyvorin-edge.toml:3:1: cloud.endpont: unknown key; did you mean cloud.endpoint?"},
		"not TOML":     {"[cloud]\napi_key = \"t0ken\n", "not valid TOML"},
		"no variable":  {"[cloud]\napi_key = \"t0ken ${NO_SUCH}\"\n", "pyvorin-edge.toml:2:18: ${NO_SUCH} has no value"},
		"not a text":   {"\xff\xfe[\x00", "not UTF-8"},
		"wrong values": {"[cloud]\nbatch_size = \"t0ken\"\n[logging]\nlevel = \"t0ken\"\n", "has 2 problems"},
		"too large":    {"# t0ken" + strings.Repeat(" ", maxRenderedBytes), "larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.run()
			write(t, r.dropPath(), tt.text)
			r.refused(tt.why)
			if content(t, r.dropPath()) != tt.text {
				t.Error("the file did not stay as it was")
			}
			told := content(t, r.dropError())
			if !strings.Contains(told, tt.why) || strings.Contains(told, "t0ken") {
				t.Errorf("the explanation, which should have %q and no secret:\n%s", tt.why, told)
			}
			before := tree(t, r.root)
			r.refused(tt.why)
			if tree(t, r.root) != before {
				t.Error("the same explanation was written again")
			}
			must(t, os.Remove(r.dropPath()))
			r.run()
			if told := content(t, r.dropError()); told != "" {
				t.Errorf("nothing is wrong any more, but it says\n%s", told)
			}
			r.unchanged()
		})
	}
}

func TestADropThatIsNoFile(t *testing.T) {
	r := newRig(t)
	must(t, os.Symlink("/etc/passwd", r.dropPath()))
	r.refused("not a regular file")
	if told := content(t, r.dropError()); !strings.Contains(told, "not a regular file") {
		t.Errorf("the explanation: %s", told)
	}
}

// readOnly is a folder of which nothing can be removed.
type readOnly struct{ disk.FS }

var errReadOnly = errors.New("read-only file system")

func (readOnly) Remove(string) error                           { return errReadOnly }
func (readOnly) Create(string, fs.FileMode) (disk.File, error) { return nil, errReadOnly }

// A file that cannot be removed is imported once, and never again over what came
// later.
func TestAnImportThatCannotBeRemoved(t *testing.T) {
	r := newRig(t)
	write(t, r.dropPath(), someDrop)
	r.o.open = func(dir string) (disk.FS, error) {
		fsys, err := openDisk(dir)
		if err == nil && dir == filepath.Dir(r.dropPath()) {
			t.Cleanup(func() { fsys.(*disk.OS).Close() })
			return readOnly{fsys}, nil
		}
		return fsys, err
	}
	for range 2 {
		if _, err := Run(t.Context(), r.o); !errors.Is(err, errReadOnly) || !strings.Contains(err.Error(), "may hold a secret") {
			t.Errorf("%v", err)
		}
		if r.base("config.toml") != "# pushed\n" {
			r.want("config.toml", imported(idA))
		}
		write(t, filepath.Join(r.o.BaseDir, "config.toml"), "# pushed\n")
	}
	r.o.open = nil
	r.run()
	r.want("config.toml", "# pushed\n")
	if content(t, r.dropPath()) != "" {
		t.Error("it was not removed when that was possible")
	}
}
