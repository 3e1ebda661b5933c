package port

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheSecondOwnerIsToldOfTheFirst(t *testing.T) {
	dir := t.TempDir()
	port, link := filepath.Join(dir, "ttyUSB0"), filepath.Join(dir, "by-id")
	if err := os.WriteFile(port, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("ttyUSB0", link); err != nil {
		t.Fatal(err)
	}
	release, err := Claim(link, "meter")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Claim(port, "gps"); err == nil || !strings.Contains(err.Error(), "meter") {
		t.Errorf("a second claim under another name: %v", err)
	}
	release()
	again, err := Claim(port, "gps")
	if err != nil {
		t.Fatalf("after the release: %v", err)
	}
	release() // the first one's, once more
	if _, err := Claim(port, "meter"); err == nil {
		t.Error("a release that was called twice took the port from its next owner")
	}
	again()
	if _, err := Claim(filepath.Join(dir, "gone"), "gps"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an absent port: %v", err)
	}
}
