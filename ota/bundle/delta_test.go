package bundle_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/ota/bundle/pack"
	"github.com/pyvorin/pyvorin-edge/ota/disk"
)

// release232 has a changed program, a new file, a removed one, and an executable
// that is none any more.
func release232() map[string]string {
	files := maps.Clone(release231)
	p := files["pyvorin-edge*"]
	files["pyvorin-edge*"] = p[:100_000] + "a new function is here" + strings.ReplaceAll(p[100_000:], "same everywhere", "same anywhere!!") + "and more"
	files["share/new"] = "new\n"
	files["share.d/hook"] = files["share.d/hook*"]
	delete(files, "share.d/hook*")
	delete(files, "README")
	return files
}

func newer(o *pack.Options) { o.Version, o.Counter = "2.3.2", 232 }

func packDelta(t testing.TB, older, newer []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	if _, err := pack.Delta(t.Context(), &buf, bytes.NewReader(older), bytes.NewReader(newer), releaseKeys); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestDelta(t *testing.T) {
	older, full := goodBundle(t), packTree(t, release232(), newer)
	delta := packDelta(t, older, full)
	if len(delta) > len(full)/4 {
		t.Errorf("the delta has %d bytes, the bundle %d", len(delta), len(full))
	}
	base, baseDir := installed(t, older)
	slot, dir := newSlot(t)
	if err := unpack(t, delta, slot, bundle.UnpackOptions{Base: base}); err != nil {
		t.Fatal(err)
	}
	sameTree(t, dir, release232())
	sameTree(t, baseDir, release231)
	m, err := bundle.ReadInstalled(slot)
	if err != nil {
		t.Fatal(err)
	}
	if want := manifestOf(t, full); m.Digest() != want.Digest() || m.Counter != want.Counter || m.Payload.BaseSHA256 != manifestOf(t, older).Digest() {
		t.Errorf("installed from the delta: %+v", m)
	}
	// Next time it is itself a base.
	if err := bundle.VerifyInstalled(t.Context(), slot, m); err != nil {
		t.Error(err)
	}
	again, againDir := newSlot(t)
	if err := unpack(t, packDelta(t, full, older), again, bundle.UnpackOptions{Base: slot}); err != nil {
		t.Error(err)
	}
	sameTree(t, againDir, release231)
}

// A base that is not what the delta was made for is a reason to get the full
// bundle, and nothing worse.
func TestWrongBase(t *testing.T) {
	older, full := goodBundle(t), packTree(t, release232(), newer)
	delta := packDelta(t, older, full)
	for name, change := range map[string]func(dir string) error{
		"damaged program": func(dir string) error { return flip(dir + "/pyvorin-edge") },
		"shorter program": func(dir string) error { return os.Truncate(dir+"/pyvorin-edge", 1000) },
		"empty program":   func(dir string) error { return os.Truncate(dir+"/pyvorin-edge", 0) },
		"longer program":  func(dir string) error { return os.Truncate(dir+"/pyvorin-edge", 1_000_000) },
		"no program":      func(dir string) error { return os.Remove(dir + "/pyvorin-edge") },
		"a link": func(dir string) error {
			return errors.Join(os.Remove(dir+"/share/z.txt"), os.Symlink("/etc/passwd", dir+"/share/z.txt"))
		},
		"other text":       func(dir string) error { return os.WriteFile(dir+"/share/z.txt", []byte("y\n"), 0o644) },
		"longer text":      func(dir string) error { return os.WriteFile(dir+"/share/z.txt", []byte("z\nz\n"), 0o644) },
		"shorter text":     func(dir string) error { return os.WriteFile(dir+"/share/z.txt", []byte("z"), 0o644) },
		"no manifest":      func(dir string) error { return os.Remove(dir + "/manifest.json") },
		"half a manifest":  func(dir string) error { return os.Truncate(dir+"/manifest.json", 100) },
		"another manifest": func(dir string) error { return os.WriteFile(dir+"/manifest.json", verified(t, full).Envelope(), 0o644) },
	} {
		base, baseDir := installed(t, older)
		if err := change(baseDir); err != nil {
			t.Fatal(err)
		}
		slot, dir := newSlot(t)
		err := unpack(t, delta, slot, bundle.UnpackOptions{Base: base})
		if err == nil {
			// What was damaged is not needed.
			sameTree(t, dir, release232())
			continue
		}
		if !errors.Is(err, bundle.ErrWrongBase) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := bundle.ReadInstalled(slot); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the slot was completed: %v", name, err)
		}
	}
	slot, _ := newSlot(t)
	if err := unpack(t, delta, slot, bundle.UnpackOptions{}); !errors.Is(err, bundle.ErrWrongBase) {
		t.Errorf("no base: %v", err)
	}
	wrong, _ := installed(t, full)
	if err := unpack(t, delta, slot, bundle.UnpackOptions{Base: wrong}); !errors.Is(err, bundle.ErrWrongBase) || !strings.Contains(err.Error(), "2.3.2") {
		t.Errorf("another release: %v", err)
	}
}

// patchBase returns a base, and the manifest of a delta against it that has only
// README in it, of 8 bytes like the base's.
func patchBase(t testing.TB) (*disk.OS, bundle.Manifest) {
	t.Helper()
	base, _ := installed(t, goodBundle(t))
	m := verified(t, goodBundle(t)).Manifest()
	m.Payload = bundle.Payload{Kind: bundle.Delta, BaseSHA256: m.Digest(), PartSize: bundle.MinPartBytes}
	m.Files = slices.DeleteFunc(m.Files, func(f bundle.File) bool { return f.Path != "README" })
	m.InstalledSize = m.Files[0].Size
	return base, m
}

// Patches that were signed, and are wrong all the same.
func TestHostilePatches(t *testing.T) {
	base, m := patchBase(t)
	record := func(diff, extra, seek int64, content string) string {
		return string(bundle.Record{Diff: diff, Extra: extra, Seek: seek}.Append(nil)) + content
	}
	zeros := strings.Repeat("\x00", 8)
	for _, tt := range []struct {
		name, entry, patch string
		want               error // nil: it is right
	}{
		{"all of the base", "patch/README", record(8, 0, 0, zeros), nil},
		{"all of it new", "patch/README", record(0, 8, 0, "read me\n"), nil},
		{"back and forth", "patch/README", record(0, 0, 4, "") + record(0, 0, -4, "") + record(8, 0, -8, zeros), nil},
		{"copied", "copy/README", "", nil},
		{"in full", "full/README", "read me\n", nil},
		{"other content", "patch/README", record(0, 8, 0, "READ ME\n"), bundle.ErrWrongBase},
		{"beyond the base", "patch/README", record(0, 0, 1, "") + record(8, 0, 0, zeros), bundle.ErrWrongBase},
		{"moves beyond the base", "patch/README", record(0, 0, 9, "") + record(0, 8, 0, "read me\n"), bundle.ErrWrongBase},
		{"moves before the base", "patch/README", record(0, 0, -1, "") + record(8, 0, 0, zeros), bundle.ErrWrongBase},
		{"moves far", "patch/README", record(0, 0, -1<<63, "") + record(8, 0, 0, zeros), bundle.ErrWrongBase},
		{"longer than listed", "patch/README", record(8, 1, 0, zeros+"x"), bundle.ErrWrongBase},
		{"huge", "patch/README", record(8, 1<<62, 0, zeros), bundle.ErrWrongBase},
		{"below 0", "patch/README", record(-1, 0, 0, ""), bundle.ErrWrongBase},
		{"goes on", "patch/README", record(8, 0, 0, zeros+"x"), bundle.ErrMalformed},
		{"cut in a record", "patch/README", record(8, 0, 0, "")[:2], bundle.ErrMalformed},
		{"cut in the differences", "patch/README", record(8, 0, 0, zeros[:7]), bundle.ErrMalformed},
		{"cut in the new bytes", "patch/README", record(0, 8, 0, "read"), bundle.ErrMalformed},
		{"nothing", "patch/README", "", bundle.ErrMalformed},
		{"a number without an end", "patch/README", strings.Repeat("\xff", 100), bundle.ErrMalformed},
		{"longer than a patch may be", "patch/README", strings.Repeat(record(0, 0, 0, ""), 5000), bundle.ErrMalformed},
		{"copied with content", "copy/README", "read me\n", bundle.ErrMalformed},
		{"in full, but shorter", "full/README", "read me", bundle.ErrMalformed},
		{"without a folder", "README", "read me\n", bundle.ErrMalformed},
		{"in an unknown folder", "link/README", "read me\n", bundle.ErrMalformed},
		{"for another file", "patch/empty", record(8, 0, 0, zeros), bundle.ErrMalformed},
		{"for a file outside", "copy/../README", "", bundle.ErrMalformed},
	} {
		e := tarEntry{content: tt.patch}
		e.Typeflag, e.Name, e.Mode = '0', tt.entry, 0o644
		slot, dir := newSlot(t)
		err := unpack(t, seal(t, m, compress(t, makeTar(t, []tarEntry{e}))), slot, bundle.UnpackOptions{Base: base})
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v; want %v", tt.name, err, tt.want)
		}
		if err == nil {
			sameTree(t, dir, map[string]string{"README": "read me\n"})
		} else if _, err := os.Lstat(filepath.Join(dir, bundle.ManifestName)); err == nil {
			t.Errorf("%s: the slot was completed", tt.name)
		}
	}
	if fmt.Sprint(bundle.MaxPatchBytes(8)) != "4108" {
		t.Error("the row for a patch that is too long needs another length")
	}
}

func TestPowerCutWhileApplying(t *testing.T) {
	small := map[string]string{"pyvorin-edge*": program("2.3.1", 30_000), "a/same": "same"}
	older := packTree(t, small, nil)
	small["pyvorin-edge*"] = strings.ReplaceAll(small["pyvorin-edge*"], "some code", "more code")
	delta := packDelta(t, older, packTree(t, small, newer))
	base, baseDir := installed(t, older)
	for cut := 1; ; cut++ {
		slot, dir := newSlot(t)
		err := unpack(t, delta, &recorder{FS: slot, cut: cut}, bundle.UnpackOptions{Base: base})
		if _, readErr := bundle.ReadInstalled(slot); readErr == nil {
			sameTree(t, dir, small)
		} else if err == nil {
			t.Errorf("done after %d operations, and %v", cut, readErr)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, errCut) {
			t.Fatalf("cut at operation %d: %v", cut, err)
		}
	}
	if err := bundle.VerifyInstalled(t.Context(), base, manifestOf(t, older)); err != nil {
		t.Errorf("the base in %s was changed: %v", baseDir, err)
	}
}
