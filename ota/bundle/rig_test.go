package bundle_test

import (
	"archive/tar"
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"go.uber.org/goleak"

	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/ota/bundle/pack"
	"github.com/pyvorin/pyvorin-edge/ota/disk"
	"github.com/pyvorin/pyvorin-edge/trust"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	created = time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	now     = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	target  = bundle.Target{OS: "linux", Arch: "arm64", Hardware: []string{"raspberrypi,5-model-b", "brcm,bcm2712"}}
)

// testKey returns the same key for the same name, always.
func testKey(name string) ed25519.PrivateKey {
	seed := make([]byte, ed25519.SeedSize)
	copy(seed, name)
	return ed25519.NewKeyFromSeed(seed)
}

func publicKey(name string) ed25519.PublicKey { return testKey(name).Public().(ed25519.PublicKey) }

// anchor trusts two of three release keys.
func anchor(t testing.TB, release ...string) *trust.Anchor {
	t.Helper()
	if len(release) == 0 {
		release = []string{"release-1", "release-2", "release-3"}
	}
	keys := map[trust.Role][]ed25519.PublicKey{
		trust.RootRole: {publicKey("root")}, trust.CommandRole: {publicKey("command")},
	}
	for _, name := range release {
		keys[trust.ReleaseRole] = append(keys[trust.ReleaseRole], publicKey(name))
	}
	a, err := trust.NewAnchor(trust.AnchorSpec{Version: 2, Keys: keys, Threshold: map[trust.Role]int{trust.ReleaseRole: 2}})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func keys(names ...string) (list []ed25519.PrivateKey) {
	for _, n := range names {
		list = append(list, testKey(n))
	}
	return list
}

var releaseKeys = keys("release-1", "release-2")

// writeTree writes files, where a name that ends in * is executable.
func writeTree(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		mode := fs.FileMode(0o644)
		if strings.HasSuffix(name, "*") {
			name, mode = strings.TrimSuffix(name, "*"), 0o755
		}
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// program is content that is hard to compress, different for each seed.
func program(seed string, size int) string {
	var b strings.Builder
	sum := sha256.Sum256([]byte(seed))
	for b.Len() < size {
		for range 5 {
			sum = sha256.Sum256(sum[:])
			b.Write(sum[:])
		}
		b.WriteString("some code, the same everywhere; ")
	}
	return b.String()[:size]
}

var release231 = map[string]string{
	"pyvorin-edge*":   program("2.3.1", 170_000),
	"README":          "read me\n",
	"empty":           "",
	"share/a/LICENSE": "free\n",
	"share/z.txt":     "z\n",
	"share.d/hook*":   "#!/bin/sh\n",
}

func options(dir string) pack.Options {
	return pack.Options{
		From: dir, Name: "pyvorin-edge", Version: "2.3.1", Counter: 231, Arch: "arm64",
		CreatedAt: created, ExpiresAt: created.AddDate(1, 0, 0), PartSize: bundle.MinPartBytes,
		Health: bundle.Health{MinHealthySeconds: 60, DeadlineSeconds: 300, Required: []string{"sensors", "queue"}},
		Keys:   releaseKeys,
	}
}

func packTree(t testing.TB, files map[string]string, change func(o *pack.Options)) []byte {
	t.Helper()
	o := options(writeTree(t, files))
	if change != nil {
		change(&o)
	}
	var buf bytes.Buffer
	if _, err := pack.Create(t.Context(), &buf, o); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

var (
	goodOnce sync.Once
	goodData []byte
)

// goodBundle is release231, packed.
func goodBundle(t testing.TB) []byte {
	t.Helper()
	goodOnce.Do(func() { goodData = packTree(t, release231, nil) })
	return slices.Clone(goodData)
}

// manifestOf reads the manifest of a good bundle.
func manifestOf(t testing.TB, data []byte) bundle.Manifest {
	t.Helper()
	u, err := bundle.Inspect(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return u.Manifest
}

// payloadOf returns the payload of a good bundle.
func payloadOf(t testing.TB, data []byte) []byte {
	t.Helper()
	v := verified(t, data)
	head := int64(len(v.Head()))
	return data[head : head+v.Manifest().Payload.Size]
}

func verified(t testing.TB, data []byte) bundle.Verified {
	t.Helper()
	r, err := bundle.Open(bytes.NewReader(data), anchor(t), now)
	if err != nil {
		t.Fatal(err)
	}
	return r.Verified()
}

// seal makes a bundle of any manifest and payload, and signs it: what a packer
// would make that is careless, or malicious and in possession of the keys.
// Unless the manifest has hashes of the payload, they are filled in.
func seal(t testing.TB, m bundle.Manifest, payload []byte, signers ...ed25519.PrivateKey) []byte {
	t.Helper()
	if m.Payload.Parts == nil {
		hashParts(&m.Payload, payload)
	}
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return sealJSON(t, data, payload, signers...)
}

func hashParts(p *bundle.Payload, payload []byte) {
	p.Size, p.SHA256 = int64(len(payload)), hexSum(payload)
	for rest := payload; len(rest) > 0; {
		n := min(int64(len(rest)), p.PartSize)
		p.Parts = append(p.Parts, hexSum(rest[:n]))
		rest = rest[n:]
	}
}

func sealJSON(t testing.TB, manifest, payload []byte, signers ...ed25519.PrivateKey) []byte {
	t.Helper()
	if len(signers) == 0 {
		signers = releaseKeys
	}
	envelope, err := trust.Sign(trust.ManifestType, manifest, signers...)
	if err != nil {
		t.Fatal(err)
	}
	size := int64(len(payload))
	return bytes.Join([][]byte{bundle.Head(envelope, size), payload, bundle.Tail(size)}, nil)
}

func hexSum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// tarEntry is an entry of a payload.
type tarEntry struct {
	tar.Header
	content string
}

// payloadEntries reads a payload, for making another of it.
func payloadEntries(t testing.TB, payload []byte) (entries []tarEntry) {
	t.Helper()
	z, err := zstd.NewReader(bytes.NewReader(payload))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			return entries
		} else if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, tarEntry{*h, string(content)})
	}
}

func makeTar(t testing.TB, entries []tarEntry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		if e.Typeflag == tar.TypeReg {
			e.Size = int64(len(e.content))
		}
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func compress(t testing.TB, data []byte, o ...zstd.EOption) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := zstd.NewWriter(&buf, append([]zstd.EOption{zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest)}, o...)...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// newSlot returns an empty folder.
func newSlot(t testing.TB) (*disk.OS, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "slot-b")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	slot, err := disk.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slot.Close() })
	return slot, dir
}

// unpack checks and unpacks a bundle as a device does.
func unpack(t testing.TB, data []byte, slot disk.FS, o bundle.UnpackOptions) error {
	t.Helper()
	r, err := bundle.Open(bytes.NewReader(data), anchor(t), now)
	if err != nil {
		return err
	}
	m := r.Verified().Manifest()
	if err := m.CheckTarget(target); err != nil {
		return err
	}
	if err := m.CheckExpiry(now); err != nil {
		return err
	}
	return r.Unpack(t.Context(), slot, o)
}

// installed returns a slot with this release in it.
func installed(t testing.TB, data []byte) (*disk.OS, string) {
	t.Helper()
	slot, dir := newSlot(t)
	if err := unpack(t, data, slot, bundle.UnpackOptions{}); err != nil {
		t.Fatal(err)
	}
	return slot, dir
}

// sameTree fails when dir holds other files than these, but for the manifest.
func sameTree(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	found := map[string]bool{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil || name == bundle.ManifestName {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		key := name
		if info.Mode() == 0o755 {
			key += "*"
		}
		want, ok := files[key]
		if got, err := os.ReadFile(path); !ok || err != nil || string(got) != want {
			t.Errorf("%s (%v) is not what was packed", name, info.Mode())
		}
		found[key] = true
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != len(files) {
		t.Errorf("%d files, want %d", len(found), len(files))
	}
}
