package atomicfile

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWriteReplacesWhole(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state.json")
	for _, content := range []string{"first", "second, and longer", ""} {
		if err := Write(path, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != content {
			t.Fatalf("read %q, %v; want %q", got, err, content)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v; want 0640", info.Mode(), err)
	}
	onlyFile(t, dir, "state.json")
}

func TestWriteLeavesTheOldContentOnFailure(t *testing.T) {
	dir := t.TempDir()
	// A folder in the place of the file: the rename fails after the data was written.
	if err := os.MkdirAll(filepath.Join(dir, "state.json", "inside"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Write(filepath.Join(dir, "state.json"), []byte("new"), 0o600); err == nil {
		t.Fatal("a folder was replaced by a file")
	}
	onlyFile(t, dir, "state.json")
	if err := Write(filepath.Join(dir, "absent", "x"), nil, 0o600); err == nil {
		t.Fatal("a file was written into a folder that does not exist")
	}
}

// onlyFile fails when dir holds anything but name, such as a leftover
// temporary file.
func onlyFile(t *testing.T, dir, name string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 || entries[0].Name() != name {
		t.Errorf("%s holds %v, want only %s", dir, entries, name)
	}
}
