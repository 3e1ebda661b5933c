package watchdog

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/ota/disk"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// fullDisk is a disk.FS whose disk is full from the operation number from on,
// for as many operations that need space, and has some again for whatever the
// ballast made room for.
type fullDisk struct {
	disk.FS
	from, length int
	ballast      int // operations that the removal of the ballast makes room for
	room         int // what is left of that
	full         int // operations that failed
}

// use takes an operation that needs space.
func (d *fullDisk) use(op, name string) error {
	d.from--
	switch {
	case d.from >= 0 || d.length <= 0:
		return nil
	case d.room > 0:
		d.room--
		return nil
	}
	d.length--
	d.full++
	return &fs.PathError{Op: op, Path: name, Err: syscall.ENOSPC}
}

func (d *fullDisk) Create(name string, perm fs.FileMode) (disk.File, error) {
	if err := d.use("create", name); err != nil {
		return nil, err
	}
	f, err := d.FS.Create(name, perm)
	if err != nil {
		return nil, err
	}
	return &fullFile{f, d, name}, nil
}

func (d *fullDisk) Append(name string, perm fs.FileMode) (disk.File, error) {
	f, err := d.FS.Append(name, perm)
	if err != nil {
		return nil, err
	}
	return &fullFile{f, d, name}, nil
}

func (d *fullDisk) Mkdir(name string, perm fs.FileMode) error {
	if _, err := d.FS.Lstat(name); err == nil {
		return d.FS.Mkdir(name, perm) // which fails, and needs no space for that
	}
	if err := d.use("mkdir", name); err != nil {
		return err
	}
	return d.FS.Mkdir(name, perm)
}

func (d *fullDisk) Symlink(target, name string) error {
	if err := d.use("symlink", name); err != nil {
		return err
	}
	return d.FS.Symlink(target, name)
}

func (d *fullDisk) Remove(name string) error {
	err := d.FS.Remove(name)
	if err == nil && name == ballastFile {
		d.room = d.ballast
	}
	return err
}

type fullFile struct {
	disk.File
	d    *fullDisk
	name string
}

// Write writes half of it when the disk is full by then.
func (f *fullFile) Write(p []byte) (int, error) {
	if err := f.d.use("write", f.name); err != nil {
		n, _ := f.File.Write(p[:len(p)/2])
		return n, err
	}
	return f.File.Write(p)
}

// fullKinds are the ways in which a disk is full: for good but for what the
// ballast makes room for, for a moment, and with others who take that room.
var fullKinds = []struct{ length, ballast int }{{1 << 20, 12}, {1, 12}, {2, 12}, {5, 12}, {1 << 20, 2}, {1 << 20, 0}}

// TestTheDiskIsFull has the disk full from each operation on that needs space,
// for a moment or until someone frees some. At each end of the watchdog active
// names a complete release, and when there is space again all comes to an end
// that the history tells.
func TestTheDiskIsFull(t *testing.T) {
	tests := []struct {
		name    string
		prepare func(*rig) (id string)
		want    []string // versions that may run in the end
	}{
		{"install", func(r *rig) string {
			return r.ask(ota.Request{Action: ota.Install, Bundle: r.bundle("1.2.0", 12, nil)})
		}, []string{"1.1.0", "1.2.0"}},
		{"install of a crashing release", func(r *rig) string {
			r.device.behaves["1.2.0"] = &behaviour{crashAfter: 1, exit: 1}
			return r.ask(ota.Request{Action: ota.Install, Bundle: r.bundle("1.2.0", 12, nil)})
		}, []string{"1.1.0"}},
		{"rollback", func(r *rig) string {
			return r.ask(ota.Request{Action: ota.Rollback, Command: r.order(wire.Command{Command: wire.CommandRollback})})
		}, []string{"1.0.0"}},
		{"rescue", func(r *rig) string {
			r.device.behaves["1.1.0"] = &behaviour{crashAfter: 1, exit: 1, gaveUp: true}
			return ""
		}, []string{"1.0.0"}},
		{"repair with the seed", func(r *rig) string {
			r.damage("slot-a")
			r.damage("slot-b")
			return ""
		}, []string{"1.0.0"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			begin := newRig(t)
			begin.install("1.1.0", 11)
			id := tt.prepare(begin)
			sound := tt.name != "repair with the seed"
			runs := 0
			for from, hit := 0, true; hit; from += thinned {
				hit = false
				for i, kind := range fullKinds {
					if i > 0 && i != 1+from/thinned%(len(fullKinds)-1) {
						continue // each with some operations is enough
					}
					r := begin.fork()
					full := &fullDisk{FS: r.real, from: from, length: kind.length, ballast: kind.ballast}
					runs++
					run := func(f func() error) {
						r.disk = full
						if err := f(); err != nil && !errors.Is(err, syscall.ENOSPC) {
							t.Errorf("%v", err)
						}
						if r.disk = r.real; sound {
							r.sound()
						}
					}
					for range 4 { // the service manager starts it again
						run(func() error { return r.watchdog().Run(t.Context()) })
					}
					run(func() error { return r.watchdog().Boot() })
					hit = hit || full.full > 0
					r.reboot()
					s := r.run()
					if !strings.Contains(strings.Join(tt.want, " "), s.Active.Version) || r.device.running != s.Active.Version {
						t.Errorf("active %s, running %s, %v", s.Active.Version, r.device.running, s.Last)
					}
					if id != "" && r.outcome(id).ID != id {
						t.Errorf("nothing was said of the request")
					}
					if o := r.outcome(id); o.Result == ota.Refused && (o.Remedy != ota.AskLater || !strings.Contains(o.Reason, "no space left")) {
						t.Errorf("%+v", o)
					}
					if t.Failed() {
						t.Fatalf("full from operation %d on, %+v", from, kind)
					}
					r.remove()
				}
			}
			t.Logf("%d runs", runs)
		})
	}
}

// TestAFullDiskDoesNotSaveABadRelease: the ballast has room for taking it back.
func TestAFullDiskDoesNotSaveABadRelease(t *testing.T) {
	full := &fullDisk{ballast: 12}
	r, s := during(t, func(r *rig) {
		r.device.behaves["1.2.0"] = &behaviour{hangs: true}
		full.FS = r.real
		r.disk = full
	}, func(*rig) { full.length = 1 << 20 })
	if s.Active.Version != "1.1.0" || r.device.running != "1.1.0" || s.Failures == nil {
		t.Errorf("active %s, %v", s.Active.Version, s.Last)
	}
	if _, err := os.Lstat(filepath.Join(r.dir, ballastFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the ballast is still there: %v", err)
	}
	r.disk = r.real
	r.install("1.3.0", 13)
	if info, err := os.Lstat(filepath.Join(r.dir, ballastFile)); err != nil || info.Size() != ballastBytes {
		t.Errorf("the ballast was not laid again: %v", err)
	}
}
