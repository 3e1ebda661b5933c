package bundle_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/trust"
)

func TestVerifyInstalled(t *testing.T) {
	data := goodBundle(t)
	for _, tt := range []struct {
		name   string
		change func(dir string) error
		text   string // "" when it is still as signed
	}{
		{"nothing", func(string) error { return nil }, ""},
		{"manifest gone", func(dir string) error { return os.Remove(dir + "/manifest.json") }, ""}, // ReadInstalled's matter
		{"a bit flipped", func(dir string) error { return flip(dir + "/pyvorin-edge") }, "content differs"},
		{"a byte more", func(dir string) error { return os.WriteFile(dir+"/README", []byte("read me\n\n"), 0o644) }, "9 bytes"},
		{"truncated", func(dir string) error { return os.Truncate(dir+"/pyvorin-edge", 1000) }, "1000 bytes"},
		{"not executable", func(dir string) error { return os.Chmod(dir+"/pyvorin-edge", 0o644) }, "mode"},
		{"writable by all", func(dir string) error { return os.Chmod(dir+"/pyvorin-edge", 0o777) }, "mode"},
		{"setuid", func(dir string) error { return os.Chmod(dir+"/pyvorin-edge", 0o755|os.ModeSetuid) }, "mode"},
		{"folder writable by all", func(dir string) error { return os.Chmod(dir+"/share/a", 0o777) }, "share/a"},
		{"file gone", func(dir string) error { return os.Remove(dir + "/empty") }, "1 of 6 files are missing"},
		{"folder gone", func(dir string) error { return os.RemoveAll(dir + "/share") }, "share"},
		{"a file more", func(dir string) error { return os.WriteFile(dir+"/share/a/more", nil, 0o644) }, "share/a/more is not listed"},
		{"a folder more", func(dir string) error { return os.Mkdir(dir+"/more", 0o755) }, "more is not listed"},
		{"a link more", func(dir string) error { return os.Symlink("README", dir+"/link") }, "link is not listed"},
		{"a link for a file", func(dir string) error {
			return errors.Join(os.Rename(dir+"/README", dir+"/../README"), os.Symlink("../README", dir+"/README"))
		}, "README"},
		{"a link for a folder", func(dir string) error {
			return errors.Join(os.Rename(dir+"/share", dir+"/../share"), os.Symlink("../share", dir+"/share"))
		}, "share"},
		{"a FIFO for a file", func(dir string) error {
			return errors.Join(os.Remove(dir+"/README"), unix.Mkfifo(dir+"/README", 0o644))
		}, "README"},
		{"a folder for a file", func(dir string) error {
			return errors.Join(os.Remove(dir+"/README"), os.Mkdir(dir+"/README", 0o755))
		}, "README"},
		{"a file for a folder", func(dir string) error {
			return errors.Join(os.RemoveAll(dir+"/share"), os.WriteFile(dir+"/share", nil, 0o755))
		}, "share"},
	} {
		slot, dir := installed(t, data)
		if err := tt.change(dir); err != nil {
			t.Fatal(err)
		}
		err := bundle.VerifyInstalled(t.Context(), slot, manifestOf(t, data))
		if tt.text == "" {
			if err != nil {
				t.Errorf("%s: %v", tt.name, err)
			}
		} else if !errors.Is(err, bundle.ErrNotAsSigned) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v; want %q", tt.name, err, tt.text)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	slot, _ := installed(t, data)
	if err := bundle.VerifyInstalled(ctx, slot, manifestOf(t, data)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func flip(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, 100); err != nil {
		return err
	}
	b[0] ^= 1
	_, err = f.WriteAt(b, 100)
	return errors.Join(err, f.Close())
}

func TestReadInstalled(t *testing.T) {
	slot, dir := newSlot(t)
	if _, err := bundle.ReadInstalled(slot); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an empty slot: %v", err)
	}
	command, err := trust.Sign(trust.CommandType, []byte("{}"), releaseKeys...)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := trust.Sign(trust.ManifestType, []byte("{}"), releaseKeys...)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"half": []byte(`{"payloadType":`), "a command": command, "not a manifest": manifest} {
		if err := os.WriteFile(filepath.Join(dir, bundle.ManifestName), content, 0o644); err != nil {
			t.Fatal(err)
		}
		if m, err := bundle.ReadInstalled(slot); err == nil {
			t.Errorf("%s: %+v", name, m)
		}
	}
	// A key that was rotated out, or an expiry, does not make a slot unusable.
	old, _ := installed(t, goodBundle(t))
	if m, err := bundle.ReadInstalled(old); err != nil || m.Version != "2.3.1" {
		t.Errorf("%+v, %v", m, err)
	}
}
