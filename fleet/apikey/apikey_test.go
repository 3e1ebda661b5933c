package apikey

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

func open(t *testing.T, content string) (*Keys, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	k, created, err := Open(path, zerolog.Nop())
	if err != nil || created {
		t.Fatalf("Open: created %v, %v", created, err)
	}
	return k, path
}

// expire makes the next Check look at the file.
func (k *Keys) expire() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.checked = time.Time{}
}

func TestCheck(t *testing.T) {
	k, _ := open(t, "# comment\n\nfirst-key-of-all\n  line-3 : named-key:with-colon \r\n")
	for _, tt := range []struct {
		key, name string
		ok        bool
	}{
		{"first-key-of-all", "line 3", true},
		{"named-key:with-colon", "line-3", true},
		{"line-3", "", false},
		{"line-3:named-key:with-colon", "", false},
		{"first-key-of-al", "", false},
		{"# comment", "", false},
		{"", "", false},
	} {
		if name, ok := k.Check(tt.key); name != tt.name || ok != tt.ok {
			t.Errorf("Check(%q) = %q, %v; want %q, %v", tt.key, name, ok, tt.name, tt.ok)
		}
	}
}

func TestFileChanges(t *testing.T) {
	k, path := open(t, "the-first-key-1234\n")
	accepts := func(key string) bool { k.expire(); _, ok := k.Check(key); return ok }

	if err := os.WriteFile(path, []byte("the-second-key-12345\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if accepts("the-first-key-1234") || !accepts("the-second-key-12345") {
		t.Error("the changed file is not in force")
	}
	if err := os.WriteFile(path, []byte("name-alone:\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if !accepts("the-second-key-12345") {
		t.Error("a broken file took the old keys out of force")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if !accepts("the-second-key-12345") || k.Reload() == nil {
		t.Error("an absent file must be an error and leave the old keys in force")
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if accepts("the-second-key-12345") || accepts("") {
		t.Error("a file without keys lets someone in")
	}
}

func TestCreatesRandomKey(t *testing.T) {
	var log bytes.Buffer
	path := filepath.Join(t.TempDir(), "keys")
	k, created, err := Open(path, zerolog.New(&log))
	if err != nil || !created {
		t.Fatalf("Open: created %v, %v", created, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	line, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	key := strings.TrimSpace(string(line))
	if _, ok := k.Check(key); !ok || len(key) < 40 {
		t.Errorf("the created key %q does not work", key)
	}
	if strings.Contains(log.String(), key) {
		t.Error("the key is in the log")
	}
}
