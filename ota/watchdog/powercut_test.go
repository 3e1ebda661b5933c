package watchdog

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/ota/disk"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// powerCut is what a supply panics with when it fails.
type powerCut struct{}

// supply is a disk.FS of a real folder whose power fails before operation
// number left. What was not synced until then is lost as ext4 loses it: names
// change in the order in which they were changed, so a number of the last
// changes is undone; and a file whose content was not synced is empty, or as
// long as it was when it was.
type supply struct {
	disk.FS
	dir  string
	left int // operations until it fails; -1 never does
	keep int // quarters of the changes since the last sync that survive

	changes []change             // since the last sync
	files   map[*source]struct{} // open or closed, with content that was not synced
	graves  string               // outside of dir: what was removed, until it is lost for good
	count   int
}

// change is one operation on names, and how it is undone.
type change struct{ undo func() }

// source is a file with content that a cut may take.
type source struct {
	path   string
	synced int64
}

// graves is added to the name of a rig's folder.
const graves = ".graves"

func newSupply(r *rig, left, keep int) *supply {
	kept := r.dir + graves
	must(r.t, os.RemoveAll(kept))
	must(r.t, os.Mkdir(kept, 0o700))
	return &supply{FS: r.real, dir: r.dir, left: left, keep: keep, files: map[*source]struct{}{}, graves: kept}
}

// use takes one operation's power.
func (s *supply) use() {
	if s.left == 0 {
		s.fail()
		panic(powerCut{})
	}
	s.left--
	s.count++
}

func (s *supply) path(name string) string { return filepath.Join(s.dir, name) }

// fail loses what was not synced.
func (s *supply) fail() {
	for f := range s.files {
		if info, err := os.Lstat(f.path); err == nil && info.Mode().IsRegular() && info.Size() > f.synced {
			_ = os.Truncate(f.path, f.synced)
		}
	}
	survive := len(s.changes) * s.keep / 4
	for len(s.changes) > survive {
		s.changes[len(s.changes)-1].undo()
		s.changes = s.changes[:len(s.changes)-1]
	}
}

// synced makes all changes of names durable, as a sync on ext4 does.
func (s *supply) synced() { s.changes = nil }

// bury keeps what name is, and returns what puts it back.
func (s *supply) bury(name string) func() {
	path := s.path(name)
	info, err := os.Lstat(path)
	if err != nil {
		return func() {}
	}
	switch {
	case info.IsDir():
		return func() { _ = os.Mkdir(path, info.Mode().Perm()) }
	case info.Mode()&fs.ModeSymlink != 0:
		target, _ := os.Readlink(path)
		return func() { _ = os.Symlink(target, path) }
	}
	s.count++
	grave := filepath.Join(s.graves, fmt.Sprint(s.count, "-", len(s.changes)))
	_ = os.Link(path, grave)
	return func() { _ = os.Link(grave, path) }
}

func (s *supply) changed(undo func()) { s.changes = append(s.changes, change{undo}) }

func (s *supply) Create(name string, perm fs.FileMode) (disk.File, error) {
	s.use()
	f, err := s.FS.Create(name, perm)
	if err != nil {
		return nil, err
	}
	s.changed(func() { _ = os.Remove(s.path(name)) })
	return s.track(f, name, 0), nil
}

func (s *supply) Append(name string, perm fs.FileMode) (disk.File, error) {
	s.use()
	size := int64(0)
	info, err := os.Lstat(s.path(name))
	if err == nil {
		size = info.Size()
	} else {
		s.changed(func() { _ = os.Remove(s.path(name)) })
	}
	f, err := s.FS.Append(name, perm)
	if err != nil {
		return nil, err
	}
	return s.track(f, name, size), nil
}

func (s *supply) track(f disk.File, name string, synced int64) disk.File {
	of := &source{s.path(name), synced}
	s.files[of] = struct{}{}
	return &tracked{File: f, s: s, of: of}
}

func (s *supply) Mkdir(name string, perm fs.FileMode) error {
	s.use()
	err := s.FS.Mkdir(name, perm)
	if err == nil {
		s.changed(func() { _ = os.RemoveAll(s.path(name)) })
	}
	return err
}

func (s *supply) Remove(name string) error {
	s.use()
	back := s.bury(name)
	err := s.FS.Remove(name)
	if err == nil {
		s.forget(name)
		s.changed(back)
	}
	return err
}

func (s *supply) Rename(oldName, newName string) error {
	s.use()
	back := s.bury(newName)
	err := s.FS.Rename(oldName, newName)
	if err != nil {
		return err
	}
	s.forget(newName)
	for f := range s.files {
		if f.path == s.path(oldName) {
			f.path = s.path(newName)
		}
	}
	s.changed(func() {
		_ = os.Rename(s.path(newName), s.path(oldName))
		back()
	})
	return nil
}

// forget has the content of what was at name no longer matter.
func (s *supply) forget(name string) {
	maps.DeleteFunc(s.files, func(f *source, _ struct{}) bool { return f.path == s.path(name) })
}

func (s *supply) Symlink(target, name string) error {
	s.use()
	err := s.FS.Symlink(target, name)
	if err == nil {
		s.changed(func() { _ = os.Remove(s.path(name)) })
	}
	return err
}

func (s *supply) SyncDir(name string) error {
	s.use()
	if _, err := s.FS.ReadDir(name); err != nil {
		return err
	}
	s.synced()
	return nil // really syncing would tell nothing here, and take long
}

// tracked is an open file whose writes and syncs are operations too.
type tracked struct {
	disk.File
	s  *supply
	of *source
}

func (f *tracked) Write(p []byte) (int, error) {
	if f.s.left == 0 && len(p) > 1 {
		_, _ = f.File.Write(p[:len(p)/2])
	}
	f.s.use()
	return f.File.Write(p)
}

func (f *tracked) Sync() error {
	f.s.use()
	if info, err := f.File.Stat(); err == nil {
		f.of.synced = info.Size()
	}
	f.s.synced()
	return nil
}

// story is something that a watchdog does and power cuts interrupt.
type story struct {
	name    string
	prepare func(*rig) // of what is asked
	want    string     // version that runs in the end, however often the power was cut
	sound   bool       // active names a complete release from the beginning
	seldom  bool       // it differs so little from another one that it is told with all cuts only
}

func stories() []story {
	return []story{
		{"install", func(r *rig) {
			r.ask(ota.Request{Action: ota.Install, Bundle: r.bundle("1.2.0", 12, nil)})
		}, "1.2.0", true, false},
		{"install of a crashing release", func(r *rig) {
			r.device.behaves["1.2.0"] = &behaviour{crashAfter: 1, exit: 1}
			r.ask(ota.Request{Action: ota.Install, Bundle: r.bundle("1.2.0", 12, nil)})
		}, "1.1.0", true, false},
		{"install of a delta", func(r *rig) {
			r.ask(ota.Request{Action: ota.Install, Bundle: r.delta("1.1.0", 11, "1.2.0", 12)})
		}, "1.2.0", true, true},
		{"rollback during a trial", func(r *rig) {
			r.ask(ota.Request{Action: ota.Install, Bundle: r.bundle("1.2.0", 12, nil)})
			r.runUntil(6)
			r.ask(ota.Request{Action: ota.Rollback})
		}, "1.1.0", true, false},
		{"rollback", func(r *rig) {
			r.ask(ota.Request{Action: ota.Rollback, Command: r.order(wire.Command{Command: wire.CommandRollback})})
		}, "1.0.0", true, false},
		{"rescue", func(r *rig) {
			r.device.behaves["1.1.0"] = &behaviour{crashAfter: 1, exit: 1, gaveUp: true}
		}, "1.0.0", true, false},
		{"refusal", func(r *rig) {
			r.ask(ota.Request{Action: ota.Install, Bundle: r.bundle("0.9.0", 9, nil)})
		}, "1.1.0", true, false},
		{"repair of a damaged release", func(r *rig) {
			r.damage("active")
		}, "1.0.0", false, false},
		{"repair with the seed", func(r *rig) {
			must(r.t, os.RemoveAll(filepath.Join(r.dir, "slot-a")))
			must(r.t, os.RemoveAll(filepath.Join(r.dir, "slot-b")))
		}, "1.0.0", false, false},
		{"first start", func(r *rig) {
			for _, name := range []string{"slot-a", "slot-b", "active", "ota"} {
				must(r.t, os.RemoveAll(filepath.Join(r.dir, name)))
			}
		}, "1.0.0", false, false},
	}
}

// TestPowerCutBeforeEveryOperation plays each story with the power cut before
// its first, second, third … operation on the disk, and cut again during the
// recovery. Whatever was synced or not by then, the device ends with one
// complete release, the right one, and nothing half-done. With PYVORIN_EVERY_CUT
// each first cut is followed by each second one, and each is tried with all,
// with half and with none of what was not synced.
func TestPowerCutBeforeEveryOperation(t *testing.T) {
	every := os.Getenv("PYVORIN_EVERY_CUT") != ""
	for _, story := range stories() {
		if story.seldom && !every {
			continue
		}
		t.Run(story.name, func(t *testing.T) {
			t.Parallel()
			begin := newRig(t)
			begin.install("1.1.0", 11)
			story.prepare(begin)
			runs, operations := 0, 0
			for first, cut := 0, true; cut; first += thinned {
				cut = false
				for keep := range 3 {
					if !every && keep == first%3 {
						continue
					}
					after := begin.fork()
					if !after.boot(first, 2*keep, story.sound) {
						after.arrived(story)
						after.remove()
						runs++
						continue
					}
					cut, operations = true, first+1
					for second, again := 0, true; again; second++ {
						if !every { // one second cut, and somewhere else each time
							second = (first*7 + keep*5) % 20
						}
						end := after.fork()
						again = end.boot(second, 2*keep, story.sound) && every
						end.boot(-1, 0, story.sound)
						end.arrived(story)
						end.remove()
						runs++
						if t.Failed() {
							t.Fatalf("cut before operation %d, then before %d, with %d of 4 unsynced changes kept", first, second, 2*keep)
						}
					}
					after.remove()
				}
			}
			t.Logf("%d runs, %d operations", runs, operations)
		})
	}
}

// boot starts the machine, whose power fails before operation number left, and
// reports whether it got to that. When active must be sound, it is at each end.
func (r *rig) boot(left, keep int, sound bool) (failed bool) {
	r.t.Helper()
	r.disk = newSupply(r, left, keep)
	failed = cut(func() {
		r.reboot()
		must(r.t, r.watchdog().Run(r.t.Context()))
	})
	r.disk = r.real
	if sound || !failed {
		r.sound()
	}
	return failed
}

// arrived checks how a story ends.
func (r *rig) arrived(story story) {
	r.t.Helper()
	s := r.check(r.watchdog())
	if s.Active.Version != story.want || r.device.running != story.want {
		r.t.Errorf("active %s, running %s, want %s: %v", s.Active.Version, r.device.running, story.want, s.Last)
	}
}

// cut runs f and reports whether the power failed.
func cut(f func()) (failed bool) {
	defer func() {
		if what := recover(); what != nil {
			if _, ok := what.(powerCut); !ok {
				panic(what)
			}
			failed = true
		}
	}()
	f()
	return false
}
