package pack

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/pyvorin/pyvorin-edge/ota/bundle"
)

var (
	key     = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	created = time.Date(2026, 5, 1, 0, 0, 0, 123, time.FixedZone("", 3600))
)

func options(dir string) Options {
	return Options{
		From: dir, Name: "app", Version: "1.0.0", Counter: 1, Arch: "arm64",
		CreatedAt: created, ExpiresAt: created.AddDate(1, 0, 0), Keys: []ed25519.PrivateKey{key},
	}
}

func write644(t *testing.T, dir, name, content string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func create(t *testing.T, o Options) ([]byte, bundle.Manifest) {
	t.Helper()
	var buf bytes.Buffer
	m, err := Create(t.Context(), &buf, o)
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes(), m
}

func TestSameInputSameBytes(t *testing.T) {
	big := make([]byte, 300_000)
	_, _ = rand.Read(big[:150_000])
	names := []string{"app", "b/c", "b/d", "a.txt", strings.Repeat("long/", 12) + strings.Repeat("n", 120)}
	var bundles [][]byte
	for i := range 2 {
		dir := t.TempDir()
		if i == 1 {
			slices.Reverse(names)
		}
		for _, name := range names {
			write644(t, dir, name, name+string(big))
		}
		// Neither times nor the group's permissions are part of a release.
		if err := os.Chmod(filepath.Join(dir, "a.txt"), 0o600+os.FileMode(i)*0o060); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(filepath.Join(dir, "app"), time.Unix(int64(i), 0), time.Unix(int64(i), 0)); err != nil {
			t.Fatal(err)
		}
		data, _ := create(t, options(dir))
		bundles = append(bundles, data)
	}
	if !bytes.Equal(bundles[0], bundles[1]) {
		t.Error("the same input made different bytes")
	}
}

func TestCreateFillsIn(t *testing.T) {
	dir := t.TempDir()
	write644(t, dir, "run", "x")
	if err := os.Chmod(filepath.Join(dir, "run"), 0o500); err != nil {
		t.Fatal(err)
	}
	_, m := create(t, options(dir))
	if m.OS != "linux" || !slices.Equal(m.Hardware, []string{"*"}) || m.Payload.PartSize != bundle.DefaultPartBytes ||
		m.Files[0].Mode != bundle.Executable || m.InstalledSize != 1 || m.CreatedAt.Format(time.RFC3339Nano) != "2026-04-30T23:00:00Z" {
		t.Errorf("%+v", m)
	}
}

func TestCreateRefuses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(dir string, o *Options) error
		want   string
	}{
		{"symbolic link", func(dir string, _ *Options) error { return os.Symlink("f", dir+"/link") }, "link is a link"},
		{"FIFO", func(dir string, _ *Options) error { return unix.Mkfifo(dir+"/fifo", 0o644) }, "fifo is a link or a special file"},
		{"socket", func(dir string, _ *Options) error {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.Bind(fd, &unix.SockaddrUnix{Name: dir + "/s"})
		}, "special file"},
		{"empty folder", func(dir string, _ *Options) error { return os.Mkdir(dir+"/empty", 0o755) }, "folder empty is empty"},
		{"no files", func(dir string, _ *Options) error { return os.Remove(dir + "/f") }, "is empty"},
		{"writable by all", func(dir string, _ *Options) error { return os.Chmod(dir+"/f", 0o666) }, "others may write"},
		{"setuid", func(dir string, _ *Options) error { return os.Chmod(dir+"/f", 0o755|os.ModeSetuid) }, "changes its user"},
		{"setgid", func(dir string, _ *Options) error { return os.Chmod(dir+"/f", 0o755|os.ModeSetgid) }, "changes its user"},
		{"folder writable by all", func(dir string, _ *Options) error {
			return errors.Join(os.Mkdir(dir+"/d", 0o755), os.Chmod(dir+"/d", 0o777))
		}, "others may write"},
		{"a name with spaces", func(dir string, _ *Options) error { return os.WriteFile(dir+"/a b", nil, 0o644) }, `"a b"`},
		{"manifest.json", func(dir string, _ *Options) error { return os.WriteFile(dir+"/manifest.json", nil, 0o644) }, "device's own"},
		{"no such folder", func(_ string, o *Options) error { o.From += "/absent"; return nil }, "no such file"},
		{"a file for the folder", func(_ string, o *Options) error { o.From += "/f"; return nil }, "not a directory"},
		{"no key", func(_ string, o *Options) error { o.Keys = nil; return nil }, "no key"},
		{"no version", func(_ string, o *Options) error { o.Version = "next"; return nil }, "semantic version"},
		{"no counter", func(_ string, o *Options) error { o.Counter = 0; return nil }, "counter"},
		{"expired", func(_ string, o *Options) error { o.ExpiresAt = o.CreatedAt; return nil }, "expires_at"},
		{"tiny parts", func(_ string, o *Options) error { o.PartSize = 100; return nil }, "part_size"},
		{"negative parts", func(_ string, o *Options) error { o.PartSize = -1; return nil }, "part_size"},
		{"an agent without the program", func(_ string, o *Options) error { o.Name = "pyvorin-edge"; return nil }, "executable"},
	} {
		dir := t.TempDir()
		write644(t, dir, "f", "content")
		o := options(dir)
		if err := tt.change(dir, &o); err != nil {
			t.Fatal(err)
		}
		var buf bytes.Buffer
		if _, err := Create(t.Context(), &buf, o); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want %q", tt.name, err, tt.want)
		}
		if buf.Len() > 0 {
			t.Errorf("%s: something was written all the same", tt.name)
		}
	}
}

func TestCancelled(t *testing.T) {
	dir := t.TempDir()
	write644(t, dir, "f", "content")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Create(ctx, io.Discard, options(dir)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestNothingIsLeftBehind(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	dir := t.TempDir()
	write644(t, dir, "f", strings.Repeat("content ", 100_000))
	older, _ := create(t, options(dir))
	write644(t, dir, "f", strings.Repeat("content ", 100_001))
	newer, _ := create(t, options(dir))
	_, _ = Delta(t.Context(), io.Discard, bytes.NewReader(older), bytes.NewReader(newer), []ed25519.PrivateKey{key})
	_, _ = Delta(t.Context(), io.Discard, bytes.NewReader(older), bytes.NewReader(newer[:2000]), []ed25519.PrivateKey{key})
	if entries, err := os.ReadDir(temp); err != nil || len(entries) > 0 {
		t.Errorf("%v, %v", entries, err)
	}
}

func TestDeltaRefuses(t *testing.T) {
	random := make([]byte, 200_000)
	pack := func(name string) []byte {
		dir := t.TempDir()
		_, _ = rand.Read(random)
		write644(t, dir, "f", string(random))
		o := options(dir)
		o.Name = name
		data, _ := create(t, o)
		return data
	}
	older, newer := pack("app"), pack("app")
	for _, tt := range []struct {
		name         string
		older, newer []byte
		want         string
	}{
		{"nothing in common", older, newer, ErrNotSmaller.Error()},
		{"another component", pack("other"), newer, "a release of other"},
		{"cut base", older[:len(older)/2], newer, "read the base"},
		{"cut bundle", older, newer[:len(newer)/2], "read the bundle"},
	} {
		var buf bytes.Buffer
		if _, err := Delta(t.Context(), &buf, bytes.NewReader(tt.older), bytes.NewReader(tt.newer), []ed25519.PrivateKey{key}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want %q", tt.name, err, tt.want)
		}
		if buf.Len() > 0 {
			t.Errorf("%s: something was written all the same", tt.name)
		}
	}
	var delta bytes.Buffer
	if _, err := Delta(t.Context(), &delta, bytes.NewReader(older), bytes.NewReader(older), []ed25519.PrivateKey{key}); err != nil {
		t.Fatal(err)
	}
	if _, err := Delta(t.Context(), io.Discard, bytes.NewReader(delta.Bytes()), bytes.NewReader(newer), []ed25519.PrivateKey{key}); err == nil || !strings.Contains(err.Error(), "full bundle") {
		t.Errorf("a delta as the base: %v", err)
	}
}

// apply is the shortest program that applies a patch.
func apply(older, patch []byte) (newer []byte) {
	in := bufio.NewReader(bytes.NewReader(patch))
	pos := 0
	for {
		diff, err := binary.ReadUvarint(in)
		if err != nil {
			return newer
		}
		extra, _ := binary.ReadUvarint(in)
		seek, _ := binary.ReadVarint(in)
		for range diff {
			b, _ := in.ReadByte()
			newer = append(newer, b+older[pos])
			pos++
		}
		for range extra {
			b, _ := in.ReadByte()
			newer = append(newer, b)
		}
		pos += int(seek)
	}
}

// A patch makes the one out of the other, whatever they are.
func TestDiff(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.SliceOfN(rapid.Byte(), 0, 50)
		older := bytes.Repeat(text.Draw(t, "older"), rapid.IntRange(0, 50).Draw(t, "times"))
		newer := slices.Clone(older)
		for range rapid.IntRange(0, 8).Draw(t, "changes") {
			from := rapid.IntRange(0, len(newer)).Draw(t, "from")
			to := rapid.IntRange(from, len(newer)).Draw(t, "to")
			switch rapid.IntRange(0, 3).Draw(t, "kind") {
			case 0:
				newer = slices.Delete(newer, from, to)
			case 1:
				newer = slices.Insert(newer, from, text.Draw(t, "inserted")...)
			case 2: // moved, with its addresses changed
				block := slices.Clone(newer[from:to])
				for i := 0; i < len(block); i += 7 {
					block[i]++
				}
				newer = append(newer, block...)
			case 3:
				for i := from; i < to; i += 11 {
					newer[i] ^= 0x5a
				}
			}
		}
		if got := apply(older, diff(older, newer)); !bytes.Equal(got, newer) {
			t.Fatalf("%d bytes became %d, not %d", len(older), len(got), len(newer))
		}
	})
}

// Code that moved and has other addresses in it costs its addresses.
func TestDiffFollowsMovedCode(t *testing.T) {
	older := make([]byte, 400_000)
	_, _ = rand.Read(older)
	newer := slices.Concat([]byte("inserted"), older[:100_000], older[250_000:], older[100_000:250_000])
	for i := 0; i < len(newer); i += 25 {
		newer[i]++
	}
	patch := diff(older, newer)
	if !bytes.Equal(apply(older, patch), newer) {
		t.Fatal("the patch does not make it")
	}
	zeros := bytes.Count(patch, []byte{0})
	if other := len(patch) - zeros; other > len(newer)/25+2000 {
		t.Errorf("%d bytes of the patch of %d are not zero", other, len(patch))
	}
}

func TestListIsSorted(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a/x", "a-b", "a.b", "a/b/c", "B"} {
		write644(t, dir, name, "")
	}
	_, m := create(t, options(dir))
	var names []string
	for _, f := range m.Files {
		names = append(names, f.Path)
	}
	if got := strings.Join(names, " "); got != "B a-b a.b a/b/c a/x" {
		t.Errorf("%s", got)
	}
	var pathError *fs.PathError
	if _, err := Create(t.Context(), io.Discard, options(dir+"/absent")); !errors.As(err, &pathError) {
		t.Error(err)
	}
}
