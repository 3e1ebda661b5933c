package disk

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func open(t *testing.T) (*OS, string) {
	t.Helper()
	dir := t.TempDir()
	d, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d, dir
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestOperations(t *testing.T) {
	defer unix.Umask(unix.Umask(0o077))
	d, dir := open(t)
	check(t, d.Mkdir("a", 0o755))
	check(t, MkdirAll(d, "a/b/c", 0o755))
	f, err := d.Create("a/b/c/f", 0o755)
	check(t, err)
	_, err = f.Write([]byte("hello"))
	check(t, err)
	check(t, f.Sync())
	check(t, f.Close())
	for _, name := range []string{"a", "a/b", "a/b/c", "a/b/c/f"} {
		if info, err := os.Lstat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("%s: %v, %v; want 0755 whatever the umask", name, info.Mode(), err)
		}
	}
	if _, err := d.Create("a/b/c/f", 0o644); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a file was made twice: %v", err)
	}
	check(t, d.Rename("a/b/c/f", "a/b/c/g"))
	check(t, d.SyncDir("a/b/c"))
	check(t, d.SyncDir("."))
	got, err := ReadFile(d, "a/b/c/g", 5)
	if err != nil || string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := ReadFile(d, "a/b/c/g", 4); err == nil {
		t.Error("a limit was not kept")
	}
	for range 2 {
		f, err = d.Append("log", 0o600)
		check(t, err)
		_, err = f.Write([]byte("x"))
		check(t, err)
		check(t, f.Close())
	}
	if got, err := os.ReadFile(filepath.Join(dir, "log")); err != nil || string(got) != "xx" {
		t.Errorf("%q, %v", got, err)
	}
	check(t, d.Symlink("a", "link"))
	if target, err := d.Readlink("link"); err != nil || target != "a" {
		t.Errorf("%q, %v", target, err)
	}
	entries, err := d.ReadDir(".")
	check(t, err)
	var list []string
	for _, e := range entries {
		list = append(list, e.Type().String()+" "+e.Name())
	}
	if got := strings.Join(list, ", "); got != "d--------- a, L--------- link, ---------- log" {
		t.Errorf("the folder holds %s", got)
	}
	if err := d.Remove("a"); !errors.Is(err, unix.ENOTEMPTY) {
		t.Errorf("a full folder was removed: %v", err)
	}
	check(t, RemoveAll(d, "link"))
	check(t, RemoveAll(d, "a"))
	check(t, RemoveAll(d, "a"))
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("%v are left", entries)
	}
	if _, err := d.Open("absent"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
}

// The helpers replace whole, and mind what an interrupted one left.
func TestReplace(t *testing.T) {
	d, dir := open(t)
	for _, content := range []string{"one", "two"} {
		check(t, os.WriteFile(filepath.Join(dir, "f.new"), []byte("half"), 0o600))
		check(t, WriteFile(d, "f", []byte(content), 0o640))
		if got, err := ReadFile(d, "f", 10); err != nil || string(got) != content {
			t.Errorf("%q, %v", got, err)
		}
		check(t, os.Symlink("x", filepath.Join(dir, "active.new")))
		check(t, ReplaceLink(d, "slot-"+content, "active"))
		if got, err := d.Readlink("active"); err != nil || got != "slot-"+content {
			t.Errorf("%q, %v", got, err)
		}
	}
	if info, err := d.Lstat("f"); err != nil || info.Mode() != 0o640 {
		t.Errorf("%v, %v", info, err)
	}
	if entries, _ := d.ReadDir("."); len(entries) != 2 {
		t.Errorf("the folder holds %v", entries)
	}
}

// A less trusted user may put anything in the way.
func TestNothingIsFollowed(t *testing.T) {
	d, dir := open(t)
	outside := filepath.Join(t.TempDir(), "precious")
	check(t, os.WriteFile(outside, []byte("precious"), 0o644))
	check(t, os.Mkdir(filepath.Join(dir, "inside"), 0o755))
	check(t, os.WriteFile(filepath.Join(dir, "inside", "f"), []byte("precious"), 0o644))
	check(t, os.Symlink(outside, filepath.Join(dir, "to-file")))
	check(t, os.Symlink(filepath.Dir(outside), filepath.Join(dir, "to-folder")))
	check(t, os.Symlink("inside", filepath.Join(dir, "to-inside")))
	check(t, os.Symlink("absent", filepath.Join(dir, "dangling")))
	check(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))

	for _, name := range []string{"to-file", "to-inside/f", "to-folder/precious", "dangling", "fifo", "fifo/x", "inside", "inside/f/x"} {
		finishes(t, name, func() {
			if _, err := d.Open(name); !errors.Is(err, ErrNotRegular) {
				t.Errorf("open %s: %v", name, err)
			}
			if _, err := d.Append(name, 0o644); !errors.Is(err, ErrNotRegular) {
				t.Errorf("append to %s: %v", name, err)
			}
			if _, err := d.Create(name, 0o644); err == nil {
				t.Errorf("%s was created", name)
			}
		})
	}
	for _, name := range []string{"to-inside", "to-folder", "fifo"} {
		finishes(t, name, func() {
			for op, err := range map[string]error{
				"mkdir": d.Mkdir(name+"/new", 0o755), "remove": d.Remove(name + "/f"), "symlink": d.Symlink("x", name+"/new"),
				"rename": d.Rename(name+"/f", name+"/g"), "syncdir": d.SyncDir(name),
			} {
				if !errors.Is(err, ErrNotRegular) {
					t.Errorf("%s in %s: %v", op, name, err)
				}
			}
			if _, err := d.ReadDir(name); !errors.Is(err, ErrNotRegular) {
				t.Errorf("list %s: %v", name, err)
			}
			if err := MkdirAll(d, name, 0o755); !errors.Is(err, ErrNotRegular) {
				t.Errorf("%s passes for a folder: %v", name, err)
			}
		})
	}
	// What is removed and replaced is the link.
	check(t, RemoveAll(d, "to-folder"))
	check(t, WriteFile(d, "to-file", []byte("new"), 0o644))
	for _, path := range []string{outside, filepath.Join(dir, "inside", "f")} {
		if got, err := os.ReadFile(path); err != nil || string(got) != "precious" {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
}

// finishes fails the test when do waits for something.
func finishes(t *testing.T, what string, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s makes it wait", what)
	}
}

func TestNamesStayBelow(t *testing.T) {
	d, dir := open(t)
	check(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755))
	for _, fsys := range []FS{d, Sub(d, "sub")} {
		for _, name := range []string{"..", "../x", "/etc/passwd", "a/../../x", "", "a//b", "./a", "a/"} {
			if _, err := fsys.Open(name); !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("open %q: %v", name, err)
			}
			if err := fsys.Mkdir(name, 0o755); !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("mkdir %q: %v", name, err)
			}
			if err := fsys.Rename("f", name); err == nil {
				t.Errorf("renamed to %q", name)
			}
		}
		if err := fsys.Rename("f", "other/f"); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("renamed into another folder: %v", err)
		}
	}
	s := Sub(Sub(d, "sub"), "deeper")
	check(t, Sub(d, "sub").Mkdir("deeper", 0o755))
	check(t, WriteFile(s, "f", []byte("x"), 0o644))
	if _, err := os.Stat(filepath.Join(dir, "sub", "deeper", "f")); err != nil {
		t.Error(err)
	}
	if entries, err := s.ReadDir("."); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
}

func TestOpenTheFolder(t *testing.T) {
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "f"), nil, 0o644))
	for _, path := range []string{filepath.Join(dir, "f"), filepath.Join(dir, "absent")} {
		if _, err := Open(path); err == nil {
			t.Errorf("%s was opened as a folder", path)
		}
	}
	d, err := Open(dir)
	check(t, err)
	f, err := d.Open("f")
	check(t, err)
	check(t, d.Close())
	if _, err := io.ReadAll(f); err != nil {
		t.Errorf("a file was closed with its folder: %v", err)
	}
	check(t, f.Close())
	if _, err := d.Lstat("f"); err == nil {
		t.Error("a closed folder works")
	}
}
