package provision

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/trust"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Two boards, with the ids that the Python of the article gives them.
const (
	boardA = "processor\t: 0\nRevision\t: c04170\nSerial\t\t: 9b4c1f2e7d3a5860\nModel\t\t: Raspberry Pi 5 Model B Rev 1.0\n"
	boardB = "Hardware\t: BCM2835\nSerial\t\t: 000000003d1d1c36\n"
	idA    = "FLEET-3a4c73a54aba"
	idB    = "FLEET-a23e0ab3af31"
)

// someTemplate is a config without sensors.
const someTemplate = `[cloud]
enabled = true
endpoint = "https://api.example.com/v1/ingest"
api_key = "${API_KEY}"
[device]
labels = { id = "${DEVICE_ID}" }
`

func rendered(id, key string) string {
	return strings.NewReplacer("${DEVICE_ID}", id, "${API_KEY}", key).Replace(someTemplate)
}

// rig is a device to be provisioned.
type rig struct {
	t    *testing.T
	root string // with proc, sys and boot
	o    Options
}

// newRig returns a device that was never provisioned, and what to do it with.
func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, root: t.TempDir()}
	r.board(boardA)
	must(t, os.MkdirAll(filepath.Join(r.root, "boot/firmware"), 0o755))
	base := filepath.Join(t.TempDir(), "base")
	r.o = Options{
		BaseDir:  base,
		Config:   filepath.Join(base, "config.toml"),
		Root:     r.root,
		Template: &Template{Name: "fleet.toml", Text: []byte(someTemplate)},
		Anchor:   anchor(t, 1),
		Vars:     map[string]string{"API_KEY": "s3cret-key"},
		Check:    check,
		Now:      time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC),
	}
	return r
}

// check is the config's real loader.
func check(path string, content []byte) ([]string, error) {
	c, err := config.Parse(path, content, config.Options{LookupEnv: func(string) (string, bool) { return "", false }})
	if err != nil {
		return nil, err
	}
	return c.Source.Warnings, nil
}

// anchor returns one whose key is made of n.
func anchor(t *testing.T, n byte) *trust.Anchor {
	t.Helper()
	key, err := trust.ParsePublicKey(strings.Repeat(fmt.Sprintf("b%d", n), 32))
	must(t, err)
	a, err := trust.SingleKey(key)
	must(t, err)
	return a
}

// board makes the device another one.
func (r *rig) board(cpuinfo string) { write(r.t, filepath.Join(r.root, "proc/cpuinfo"), cpuinfo) }

func (r *rig) dropPath() string { return filepath.Join(r.root, "boot/firmware", DropFile) }

// run provisions, and wants that to succeed.
func (r *rig) run() *Report {
	r.t.Helper()
	report, err := Run(r.t.Context(), r.o)
	must(r.t, err)
	return report
}

// refused provisions, and wants a refusal that says all of words and leaves the
// base dir as it was.
func (r *rig) refused(words ...string) error {
	r.t.Helper()
	before := tree(r.t, r.o.BaseDir)
	_, err := Run(r.t.Context(), r.o)
	if err == nil {
		r.t.Fatal("it was not refused")
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			r.t.Errorf("the refusal does not say %q: %v", word, err)
		}
	}
	if after := tree(r.t, r.o.BaseDir); after != before {
		r.t.Errorf("a refused provisioning changed the base dir from\n%s\nto\n%s", before, after)
	}
	return err
}

// unchanged provisions, and wants nothing to be done, and that to be said.
func (r *rig) unchanged() {
	r.t.Helper()
	before := tree(r.t, r.root) + tree(r.t, r.o.BaseDir)
	report := r.run()
	for _, s := range report.Steps {
		if report.Changed || s.Outcome != Unchanged && s.Outcome != Kept {
			r.t.Errorf("changed: %t; %+v", report.Changed, s)
		}
	}
	if after := tree(r.t, r.root) + tree(r.t, r.o.BaseDir); after != before {
		r.t.Errorf("the files were\n%s\nand are\n%s", before, after)
	}
}

// base returns the content of a file in the base dir, or "" when it is not there.
func (r *rig) base(name string) string { return content(r.t, filepath.Join(r.o.BaseDir, name)) }

func (r *rig) want(name, text string) {
	r.t.Helper()
	if got := r.base(name); got != text {
		r.t.Errorf("%s is\n%s\nwant\n%s", name, got, text)
	}
}

func content(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return string(data)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(text), 0o644))
}

// tree is all that is below dir, with inode numbers, but for the lock.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.Name() == lockFile || path == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		b.WriteString(path + " " + info.Mode().String() + " " + inode(info))
		if info.Mode().IsRegular() {
			b.WriteString(" " + content(t, path))
		}
		b.WriteByte('\n')
		return nil
	})
	must(t, err)
	return b.String()
}

func inode(info fs.FileInfo) string { return fmt.Sprint(info.Sys().(*syscall.Stat_t).Ino) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
