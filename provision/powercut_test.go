package provision

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pyvorin/pyvorin-edge/ota/disk"
	"github.com/pyvorin/pyvorin-edge/trust"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// powerCut is what a supply panics with when it fails.
type powerCut struct{}

// supply is the power of a device. It fails before operation number left on any
// of its disks, which then lose what was not synced.
type supply struct {
	left  int // operations until it fails; -1 never does
	count int
	loses bool // whether what was not synced is lost
	disks []*cutDisk
}

// use takes one operation's power.
func (s *supply) use() {
	if s.left == 0 {
		if s.loses {
			for _, d := range s.disks {
				d.lose()
			}
		}
		panic(powerCut{})
	}
	s.left--
	s.count++
}

// cutDisk is a real folder, of which it is known what would survive: the names
// that a folder had when it was synced, and the content that a file had when it
// was.
type cutDisk struct {
	disk.FS
	s     *supply
	dir   string
	names map[string]map[string]fs.FileInfo // by folder
	data  map[uint64][]byte                 // by inode
}

func (s *supply) open(t *testing.T) func(dir string) (disk.FS, error) {
	return func(dir string) (disk.FS, error) {
		fsys, err := openDisk(dir)
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { fsys.(*disk.OS).Close() })
		d := &cutDisk{fsys, s, dir, map[string]map[string]fs.FileInfo{}, map[uint64][]byte{}}
		s.disks = append(s.disks, d)
		return d, filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				rel, _ := filepath.Rel(dir, name)
				d.keepNames(rel)
			} else if err == nil {
				info, _ := e.Info()
				d.data[number(info)], err = os.ReadFile(name)
			}
			return err
		})
	}
}

func number(info fs.FileInfo) uint64 { return info.Sys().(*syscall.Stat_t).Ino }

func (d *cutDisk) keepNames(folder string) {
	d.names[folder] = map[string]fs.FileInfo{}
	entries, _ := os.ReadDir(filepath.Join(d.dir, folder))
	for _, e := range entries {
		if info, err := e.Info(); err == nil && e.Name() != lockFile {
			d.names[folder][e.Name()] = info
		}
	}
}

// lose makes the folder what it would be after a power cut.
func (d *cutDisk) lose() {
	entries, _ := os.ReadDir(d.dir)
	for _, e := range entries {
		if e.Name() != lockFile {
			_ = os.RemoveAll(filepath.Join(d.dir, e.Name()))
		}
	}
	var restore func(folder string)
	restore = func(folder string) {
		for name, info := range d.names[folder] {
			at := path.Join(folder, name)
			if info.IsDir() {
				_ = os.Mkdir(filepath.Join(d.dir, at), info.Mode().Perm())
				restore(at)
			} else {
				_ = os.WriteFile(filepath.Join(d.dir, at), d.data[number(info)], info.Mode().Perm())
			}
		}
	}
	restore(".")
}

func (d *cutDisk) Create(name string, perm fs.FileMode) (disk.File, error) {
	d.s.use()
	f, err := d.FS.Create(name, perm)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil {
		delete(d.data, number(info)) // the inode may have been another file's
	}
	return &cutFile{f, d, name}, err
}

func (d *cutDisk) Mkdir(name string, perm fs.FileMode) error {
	d.s.use()
	return d.FS.Mkdir(name, perm)
}

func (d *cutDisk) Remove(name string) error {
	d.s.use()
	return d.FS.Remove(name)
}

func (d *cutDisk) Rename(oldName, newName string) error {
	d.s.use()
	return d.FS.Rename(oldName, newName)
}

func (d *cutDisk) SyncDir(name string) error {
	d.s.use()
	d.keepNames(name)
	return nil
}

type cutFile struct {
	disk.File
	d    *cutDisk
	name string
}

func (f *cutFile) Write(p []byte) (int, error) {
	if f.d.s.left == 0 {
		_, _ = f.File.Write(p[:len(p)/2])
	}
	f.d.s.use()
	return f.File.Write(p)
}

func (f *cutFile) Sync() error {
	f.d.s.use()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	f.d.data[number(info)], err = os.ReadFile(filepath.Join(f.d.dir, f.name))
	return err
}

// TestPowerCutBeforeEveryOperation plays each story with the power cut before
// its first, second, third … operation on the disk, and again during what
// follows. Each file is whole at any time, nothing that was dropped is lost, and
// in the end the device is as if the power had never gone.
func TestPowerCutBeforeEveryOperation(t *testing.T) {
	again := func(change func(r *rig)) func(r *rig) {
		return func(r *rig) {
			cut(r.t, r, -1, false) // as run, without waiting for a real disk
			change(r)
		}
	}
	stories := map[string]struct {
		prepare func(r *rig)
		config  string // KEY of the template, or "drop"
		id      string // "" is any
	}{
		"first":            {func(*rig) {}, "s3cret-key", idA},
		"no serial number": {func(r *rig) { r.board("") }, "s3cret-key", ""},
		"import":           {func(r *rig) { write(r.t, r.dropPath(), someDrop) }, "drop", idA},
		"a new template":   {again(func(r *rig) { r.o.Vars = map[string]string{"API_KEY": "another-key"} }), "another-key", idA},
		"a later import":   {again(func(r *rig) { write(r.t, r.dropPath(), someDrop) }), "drop", idA},
		"all of it forced": {again(func(r *rig) {
			r.board(boardB)
			r.o.Anchor = anchor(r.t, 2)
			r.o.Vars = map[string]string{"API_KEY": "another-key"}
			r.o.Force = Force{true, true, true}
		}), "another-key", idB},
	}
	for name, story := range stories {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			runs := 0
			for _, loses := range []bool{false, true} {
				for first, more := 0, true; more && !t.Failed(); first++ {
					runs++
					second := first * 7 % 40
					r := newRig(t)
					story.prepare(r)
					before := states(r)
					must(t, os.MkdirAll(r.o.BaseDir, 0o755))
					var cuts []bool
					for _, left := range []int{first, second, -1} {
						cuts = append(cuts, cut(t, r, left, loses))
						r.whole(before, story.config, fmt.Sprintf("cut before operations %v of %d, %d; unsynced lost: %t", cuts, first, second, loses))
					}
					if story.id != "" {
						r.want("device_id", story.id+"\n")
					}
					id := strings.TrimSpace(r.base("device_id"))
					r.want("config.toml", wantConfig(id, story.config))
					if a, err := trust.LoadAnchor(filepath.Join(r.o.BaseDir, anchorFile)); err != nil || fmt.Sprint(a.Keys()) != fmt.Sprint(r.o.Anchor.Keys()) {
						t.Errorf("the anchor is %v, %v", a, err)
					}
					if content(t, r.dropPath()) != "" {
						t.Error("what was imported is still there")
					}
					r.o.Force = Force{}
					r.unchanged()
					more = cuts[0]
				}
			}
			t.Logf("%d runs", runs)
		})
	}
}

func wantConfig(id, key string) string {
	if key == "drop" {
		return imported(id)
	}
	return rendered(id, key)
}

// states are the contents of the files before a story.
func states(r *rig) map[string]string {
	was := map[string]string{}
	for _, name := range []string{"device_id", "trust_anchor.json", "config.toml", "provision.json", "secrets/privacy.key"} {
		was[name] = r.base(name)
	}
	return was
}

// cut provisions with so much power, and reports whether it was too little.
func cut(t *testing.T, r *rig, left int, loses bool) (failed bool) {
	t.Helper()
	s := &supply{left: left, loses: loses}
	r.o.open = s.open(t)
	defer func() {
		r.o.open = nil
		if what := recover(); what != nil {
			if _, ok := what.(powerCut); !ok {
				panic(what)
			}
			failed = true
		}
	}()
	r.run()
	if loses {
		for _, d := range s.disks {
			d.lose() // what is done is done
		}
	}
	return false
}

// whole wants every file to be as it was before or as it shall be.
func (r *rig) whole(was map[string]string, key, when string) {
	r.t.Helper()
	bad := func(name, text string) { r.t.Errorf("%s: %s is %q", when, name, text) }
	id := r.base("device_id")
	if id != was["device_id"] && !wire.ValidDeviceID(strings.TrimSuffix(id, "\n")) {
		bad("device_id", id)
	}
	if text := r.base("trust_anchor.json"); text != was["trust_anchor.json"] {
		if _, err := trust.ParseAnchor([]byte(text)); err != nil {
			bad("trust_anchor.json", text)
		}
	}
	if text := r.base("secrets/privacy.key"); text != was["secrets/privacy.key"] && (was["secrets/privacy.key"] != "" || len(text) != 65) {
		bad("secrets/privacy.key", text)
	}
	if text := r.base("provision.json"); text != was["provision.json"] && !strings.HasSuffix(text, "}\n") {
		bad("provision.json", text)
	}
	config := r.base("config.toml")
	done := config == wantConfig(strings.TrimSpace(id), key)
	if config != was["config.toml"] && !done {
		bad("config.toml", config)
	}
	if key == "drop" && !done && content(r.t, r.dropPath()) != someDrop {
		r.t.Errorf("%s: the dropped file is lost, and not imported", when)
	}
}
