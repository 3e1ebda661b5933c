package bundle_test

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/ota/disk"
)

// A manifest that is accepted keeps its bounds, and its meaning when it is
// written and read again.
func FuzzManifest(f *testing.F) {
	for _, m := range []bundle.Manifest{manifestOf(f, goodBundle(f)), manifestOf(f, packDelta(f, goodBundle(f), packTree(f, release232(), newer)))} {
		text, err := m.JSON()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := bundle.ParseManifest(data)
		if err != nil {
			return
		}
		var total int64
		for _, file := range m.Files {
			total += file.Size
			if !fs.ValidPath(file.Path) || filepath.IsAbs(file.Path) || file.Path == bundle.ManifestName {
				t.Errorf("path %q", file.Path)
			}
		}
		if total != m.InstalledSize || total > bundle.MaxInstalledBytes || m.Payload.Size > bundle.MaxPayloadBytes || len(m.Files) > bundle.MaxFiles {
			t.Errorf("%d bytes in %d files, of %d", total, len(m.Files), m.Payload.Size)
		}
		text, err := m.JSON()
		if err != nil {
			t.Fatal(err)
		}
		again, err := bundle.ParseManifest(text)
		if err != nil || !reflect.DeepEqual(again, m) && again.Digest() != m.Digest() {
			t.Errorf("%s\nbecame %+v, %v", data, again, err)
		}
	})
}

// A bundle that is accepted has the content that was signed.
func FuzzBundle(f *testing.F) {
	good := packTree(f, map[string]string{"pyvorin-edge*": "program"}, nil)
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add(good[:600])
	trusted := anchor(f)
	v := verified(f, good)
	f.Fuzz(func(t *testing.T, data []byte) {
		if u, err := bundle.Inspect(bytes.NewReader(data)); err == nil {
			_ = u.Files(t.Context(), func(_ bundle.File, content io.Reader) error {
				_, err := io.Copy(io.Discard, content)
				return err
			})
		}
		r, err := bundle.Open(bytes.NewReader(data), trusted, now)
		if err != nil || r.Check(t.Context()) != nil {
			return
		}
		if !reflect.DeepEqual(r.Verified().Manifest(), v.Manifest()) || !bytes.HasSuffix(data, good[len(v.Head()):]) {
			t.Error("another bundle was accepted")
		}
	})
}

// fuzzSlot returns an empty slot for one run of a fuzz target.
func fuzzSlot(t *testing.T) (slot *disk.OS, dir string, done func()) {
	outer, err := os.MkdirTemp("", "fuzz-*")
	if err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(outer, "slot")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if slot, err = disk.Open(dir); err != nil {
		t.Fatal(err)
	}
	return slot, dir, func() {
		slot.Close()
		if entries, err := os.ReadDir(outer); err != nil || len(entries) != 1 {
			t.Errorf("outside of the slot there is %v, %v", entries, err)
		}
		os.RemoveAll(outer)
	}
}

// Whatever tar was signed, what it leaves in the slot is what the manifest lists,
// or no complete slot.
func FuzzPayload(f *testing.F) {
	good := packTree(f, map[string]string{"pyvorin-edge*": "program", "a/b": "text"}, nil)
	listed := manifestOf(f, good)
	entries := payloadEntries(f, payloadOf(f, good))
	f.Add(makeTar(f, entries))
	f.Add(makeTar(f, entries[1:]))
	f.Add(append(makeTar(f, entries), 0))
	for _, kind := range []byte("123456gxLKS") {
		changed := append([]tarEntry(nil), entries...)
		data := makeTar(f, changed)
		data[156] = kind
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, archive []byte) {
		m := listed
		m.Payload.Parts = nil
		fuzzUnpack(t, seal(t, m, compress(t, archive)), nil)
	})
}

// fuzzUnpack unpacks, and fails when a complete slot is not what was signed.
func fuzzUnpack(t *testing.T, data []byte, base disk.FS) {
	slot, _, done := fuzzSlot(t)
	defer done()
	err := unpack(t, data, slot, bundle.UnpackOptions{Base: base})
	m, readErr := bundle.ReadInstalled(slot)
	if (err == nil) != (readErr == nil) {
		t.Errorf("unpacked with %v, and the manifest is there: %v", err, readErr)
	}
	if readErr == nil {
		if err := bundle.VerifyInstalled(context.Background(), slot, m); err != nil {
			t.Error(err)
		}
	}
}

// The same for a patch.
func FuzzDelta(f *testing.F) {
	base, m := patchBase(f)
	f.Add(bundle.Record{Diff: 8}.Append(nil))
	f.Add(append(bundle.Record{Diff: 8}.Append(nil), make([]byte, 8)...))
	f.Add(append(bundle.Record{Extra: 8}.Append(nil), "read me\n"...))
	f.Add(append(bundle.Record{Extra: 4, Seek: 4}.Append(nil), append([]byte("read"), append(bundle.Record{Diff: 4, Seek: -8}.Append(nil), make([]byte, 4)...)...)...))
	f.Fuzz(func(t *testing.T, patch []byte) {
		e := tarEntry{content: string(patch)}
		e.Typeflag, e.Name, e.Mode = '0', "patch/README", 0o644
		fuzzUnpack(t, seal(t, m, compress(t, makeTar(t, []tarEntry{e}))), base)
	})
}
