package bundle_test

import (
	"bytes"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/ota/disk"
)

var errCut = errors.New("power cut")

// recorder passes operations on, writes those down that change something, and
// fails from operation cut on.
type recorder struct {
	disk.FS
	ops []string
	cut int // 0: never
}

func (r *recorder) do(op, name string) error {
	if r.cut > 0 && len(r.ops) >= r.cut-1 {
		return errCut
	}
	r.ops = append(r.ops, op+" "+name)
	return nil
}

func (r *recorder) Create(name string, perm fs.FileMode) (disk.File, error) {
	if err := r.do("create", name); err != nil {
		return nil, err
	}
	f, err := r.FS.Create(name, perm)
	return &recordedFile{f, r, name}, err
}

func (r *recorder) Mkdir(name string, perm fs.FileMode) error {
	if _, err := r.Lstat(name); err == nil {
		return fs.ErrExist
	}
	return errors.Join(r.do("mkdir", name), r.FS.Mkdir(name, perm))
}

func (r *recorder) Rename(oldName, newName string) error {
	if err := r.do("rename", newName); err != nil {
		return err
	}
	return r.FS.Rename(oldName, newName)
}

func (r *recorder) SyncDir(name string) error {
	return errors.Join(r.do("syncdir", name), r.FS.SyncDir(name))
}

type recordedFile struct {
	disk.File
	r    *recorder
	name string
}

func (f *recordedFile) Write(p []byte) (int, error) {
	if err := f.r.do("write", f.name); err != nil {
		return 0, err
	}
	return f.File.Write(p)
}

func (f *recordedFile) Sync() error { return errors.Join(f.r.do("sync", f.name), f.File.Sync()) }

// Whatever operation is the last one, a slot with a manifest is complete.
func TestPowerCutWhileUnpacking(t *testing.T) {
	data := packTree(t, map[string]string{"pyvorin-edge*": "program", "a/b/c": "c", "a/d": "d"}, nil)
	for cut := 1; ; cut++ {
		slot, _ := newSlot(t)
		rec := &recorder{FS: slot, cut: cut}
		err := unpack(t, data, rec, bundle.UnpackOptions{})
		m, readErr := bundle.ReadInstalled(slot)
		if readErr == nil {
			if err := bundle.VerifyInstalled(t.Context(), slot, m); err != nil {
				t.Errorf("cut at operation %d: the slot has a manifest, and %v", cut, err)
			}
		}
		if err == nil {
			if readErr != nil || cut < 15 {
				t.Errorf("done after %d operations: %v", cut, readErr)
			}
			return
		}
		if !errors.Is(err, errCut) {
			t.Fatalf("cut at operation %d: %v", cut, err)
		}
	}
}

// A cut forgets what was not synced, so all of it has to be before the manifest
// takes its name.
func TestEverythingIsSynced(t *testing.T) {
	slot, _ := newSlot(t)
	rec := &recorder{FS: slot}
	if err := unpack(t, goodBundle(t), rec, bundle.UnpackOptions{}); err != nil {
		t.Fatal(err)
	}
	done := slices.Index(rec.ops, "rename "+bundle.ManifestName)
	if done < 0 || !slices.Equal(rec.ops[done+1:], []string{"syncdir ."}) {
		t.Fatalf("it ends with %v", rec.ops[max(0, done):])
	}
	last := func(op string) int {
		for i := done - 1; i >= 0; i-- {
			if rec.ops[i] == op {
				return i
			}
		}
		return -1
	}
	for i, op := range rec.ops[:done] {
		verb, name, _ := strings.Cut(op, " ")
		switch verb {
		case "write":
			if last("sync "+name) < i {
				t.Errorf("%s was not synced after it was written", name)
			}
		case "create", "mkdir":
			if name != bundle.ManifestName+".new" && last("syncdir "+path.Dir(name)) < i {
				t.Errorf("the folder of %s was not synced after it was made", name)
			}
		}
	}
}

// fullDisk has room for only so many bytes.
type fullDisk struct {
	disk.FS
	left int
}

func (d *fullDisk) Create(name string, perm fs.FileMode) (disk.File, error) {
	f, err := d.FS.Create(name, perm)
	return &fullFile{f, d}, err
}

type fullFile struct {
	disk.File
	d *fullDisk
}

var errFull = errors.New("no room")

func (f *fullFile) Write(p []byte) (int, error) {
	if f.d.left -= len(p); f.d.left < 0 {
		return 0, errFull
	}
	return f.File.Write(p)
}

func TestDiskFull(t *testing.T) {
	data := goodBundle(t)
	for _, room := range []int{0, 1, 100_000, int(manifestOf(t, data).InstalledSize)} {
		slot, _ := newSlot(t)
		r, err := bundle.Open(bytes.NewReader(data), anchor(t), now)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Unpack(t.Context(), &fullDisk{slot, room}, bundle.UnpackOptions{}); !errors.Is(err, errFull) {
			t.Errorf("room for %d bytes: %v", room, err)
		}
		if _, err := bundle.ReadInstalled(slot); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("room for %d bytes: the slot has a manifest: %v", room, err)
		}
	}
}
