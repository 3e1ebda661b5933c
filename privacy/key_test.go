package privacy

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestEnsureKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secrets", "privacy.key")
	if _, err := LoadKey(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("LoadKey without a file: %v, want ErrNotExist", err)
	}
	keys := make([][]byte, 8)
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() {
			var err error
			if keys[i], err = EnsureKey(path); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, key := range keys {
		if len(key) != KeySize || !bytes.Equal(key, keys[0]) {
			t.Fatalf("callers at once got different keys")
		}
	}
	loaded, err := LoadKey(path)
	if err != nil || !bytes.Equal(loaded, keys[0]) {
		t.Errorf("LoadKey: %x (%v), want the key made", loaded, err)
	}
	for path, want := range map[string]fs.FileMode{path: 0o600, filepath.Dir(path): 0o700 | fs.ModeDir} {
		info, err := os.Stat(path)
		if err != nil || info.Mode() != want {
			t.Errorf("%s has mode %v (%v), want %v", path, info.Mode(), err, want)
		}
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("the folder holds %v (%v), want the key alone", entries, err)
	}
}

func TestLoadKeyRefuses(t *testing.T) {
	good := strings.Repeat("ab", KeySize)
	for name, tt := range map[string]struct {
		content string
		mode    fs.FileMode
		want    string
	}{
		"empty":          {"", 0o600, "64 hex digits"},
		"short":          {good[2:], 0o600, "64 hex digits"},
		"long":           {good + "ab", 0o600, "64 hex digits"},
		"endless":        {strings.Repeat(good, 100), 0o600, "64 hex digits"},
		"not hex":        {"zz" + good[2:], 0o600, "64 hex digits"},
		"group-readable": {good, 0o640, "chmod 600"},
		"world-readable": {good, 0o604, "chmod 600"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "privacy.key")
			if err := os.WriteFile(path, []byte(tt.content), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, tt.mode); err != nil {
				t.Fatal(err)
			}
			for _, load := range []func(string) ([]byte, error){LoadKey, EnsureKey} {
				key, err := load(path)
				if err == nil || key != nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
					t.Errorf("%x, %v; want an error with %q and the path", key, err, tt.want)
				}
				if err != nil && tt.content != "" && strings.Contains(err.Error(), tt.content[:8]) {
					t.Errorf("the error quotes the key: %v", err)
				}
			}
			if now, err := os.ReadFile(path); err != nil || string(now) != tt.content {
				t.Errorf("the file was changed (%v)", err)
			}
		})
	}
	for name, key := range map[string]string{"newline": good + "\n", "upper case": strings.ToUpper(good), "CRLF": good + "\r\n"} {
		path := filepath.Join(t.TempDir(), "privacy.key")
		if err := os.WriteFile(path, []byte(key), 0o400); err != nil {
			t.Fatal(err)
		}
		if got, err := LoadKey(path); err != nil || hex.EncodeToString(got) != good {
			t.Errorf("%s: %x, %v", name, got, err)
		}
	}
	if _, err := LoadKey(t.TempDir()); err == nil || !strings.Contains(err.Error(), "regular file") {
		t.Errorf("a folder as key: %v", err)
	}
}
