package bundle_test

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/ota/bundle/pack"
	"github.com/pyvorin/pyvorin-edge/trust"
)

// refused unpacks data as a device does, and fails the test unless it fails,
// because of want if that is not nil, the slot was not completed and nothing outside of it was touched.
func refused(t *testing.T, name string, data []byte, want error, text string) {
	t.Helper()
	slot, dir := newSlot(t)
	outside := filepath.Dir(dir)
	if err := os.WriteFile(filepath.Join(outside, "precious"), []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	err := unpack(t, data, slot, bundle.UnpackOptions{})
	if err == nil || want != nil && !errors.Is(err, want) || !strings.Contains(err.Error(), text) {
		t.Errorf("%s: %v; want %v with %q", name, err, want, text)
	}
	if _, err := os.Lstat(filepath.Join(dir, bundle.ManifestName)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s: the slot was completed", name)
	}
	entries, err := os.ReadDir(outside)
	precious, err2 := os.ReadFile(filepath.Join(outside, "precious"))
	if err != nil || err2 != nil || len(entries) != 2 || string(precious) != "precious" {
		t.Errorf("%s: outside of the slot there is now %v, %q", name, entries, precious)
	}
	// What a packer did wrong a check before unpacking does not find, so it is
	// not asked; it must come to an end all the same.
	if r, err := bundle.Open(bytes.NewReader(data), anchor(t), now); err == nil {
		_ = r.Check(t.Context())
	}
}

func TestWrongBytes(t *testing.T) {
	data := goodBundle(t)
	v := verified(t, data)
	payload := int64(len(v.Head()))
	end := payload + v.Manifest().Payload.Size
	regions := map[string]int64{
		"the first header": 0, "the manifest's size": 130, "the header's checksum": 150,
		"the manifest": 700, "the manifest's signatures": int64(512 + len(v.Envelope()) - 100),
		"the padding after the manifest": payload - 513, "the second header": payload - 512, "the payload's size": payload - 380,
		"the first part": payload, "a part": payload + bundle.MinPartBytes + 7, "the last part": end - 1, "the end": end, "the last byte": int64(len(data)) - 1,
	}
	if padding := int64(len(v.Envelope())) % 512; padding == 0 {
		t.Fatal("the manifest has no padding to damage; change a file")
	}
	for name, at := range regions {
		flipped := bytes.Clone(data)
		flipped[at] ^= 4
		refused(t, "a bit flipped in "+name, flipped, nil, "")
		if err := unpackError(t, flipped); !errors.Is(err, bundle.ErrDamaged) && !errors.Is(err, bundle.ErrMalformed) &&
			!errors.Is(err, trust.ErrNotSigned) && !errors.Is(err, trust.ErrThreshold) && !errors.Is(err, trust.ErrMalformed) {
			t.Errorf("a bit flipped in %s: %v", name, err)
		}
		refused(t, "cut within "+name, data[:at], bundle.ErrDamaged, "ends within")
	}
	refused(t, "something behind it", append(bytes.Clone(data), 0), bundle.ErrMalformed, "follows its end")
	refused(t, "a second bundle behind it", append(bytes.Clone(data), data...), bundle.ErrMalformed, "follows its end")
	refused(t, "nothing", nil, bundle.ErrDamaged, "")
	refused(t, "compressed", compress(t, data), bundle.ErrMalformed, "")
	refused(t, "only text", bytes.Repeat([]byte("not a bundle "), 1000), bundle.ErrMalformed, "")
}

func unpackError(t *testing.T, data []byte) error {
	t.Helper()
	slot, _ := newSlot(t)
	return unpack(t, data, slot, bundle.UnpackOptions{})
}

func TestWrongSigners(t *testing.T) {
	signedBy := func(names ...string) []byte {
		return seal(t, manifestOf(t, goodBundle(t)), payloadOf(t, goodBundle(t)), keys(names...)...)
	}
	refused(t, "command key", signedBy("command"), trust.ErrNotSigned, "release")
	refused(t, "root key", signedBy("root"), trust.ErrNotSigned, "release")
	refused(t, "stranger", signedBy("stranger"), trust.ErrNotSigned, "release")
	refused(t, "below the threshold", signedBy("release-1"), trust.ErrThreshold, "1 of the 2")
	refused(t, "below the threshold, and the controller", signedBy("release-1", "command"), trust.ErrThreshold, "1 of the 2")

	data := signedBy("release-1", "release-2")
	if _, err := bundle.Open(bytes.NewReader(data), anchor(t, "release-2", "release-3"), now); !errors.Is(err, trust.ErrThreshold) {
		t.Errorf("a key that was removed: %v", err)
	}
	if _, err := bundle.Open(bytes.NewReader(data), anchor(t, "release-3", "release-4"), now); !errors.Is(err, trust.ErrNotSigned) {
		t.Errorf("keys that were removed: %v", err)
	}
}

func TestWrongPlaceOrTime(t *testing.T) {
	change := func(do func(m *bundle.Manifest)) []byte {
		m := verified(t, goodBundle(t)).Manifest()
		do(&m)
		return seal(t, m, payloadOf(t, goodBundle(t)))
	}
	refused(t, "wrong arch", change(func(m *bundle.Manifest) { m.Arch = "amd64" }), bundle.ErrWrongTarget, "amd64")
	refused(t, "wrong os", change(func(m *bundle.Manifest) { m.OS = "plan9" }), bundle.ErrWrongTarget, "plan9")
	refused(t, "wrong hardware", change(func(m *bundle.Manifest) { m.Hardware = []string{"nvidia,*"} }), bundle.ErrWrongTarget, "nvidia")
	refused(t, "expired", change(func(m *bundle.Manifest) { m.ExpiresAt = now }), trust.ErrExpired, "2026-06-01")

	data := goodBundle(t)
	m := manifestOf(t, data)
	// A device that booted in 1970 takes it; one that knows the date does not.
	if err := m.CheckExpiry(trust.Now(time.Unix(0, 0))); err != nil {
		t.Errorf("at 1970: %v", err)
	}
	if err := m.CheckExpiry(trust.Now(time.Unix(0, 0), m.ExpiresAt)); !errors.Is(err, trust.ErrExpired) {
		t.Errorf("at 1970 with a floor: %v", err)
	}
}

func TestMixAndMatch(t *testing.T) {
	one := goodBundle(t)
	other := map[string]string{"pyvorin-edge*": program("2.3.2", 170_000)}
	two := packTree(t, other, func(o *pack.Options) { o.Version, o.Counter = "2.3.2", 232 })

	// The manifest of one, signed, and the payload of another.
	mixed := slices.Concat(verified(t, one).Head(), payloadOf(t, two))
	mixed = append(mixed, make([]byte, len(one))...)[:len(one)]
	refused(t, "another payload", mixed, bundle.ErrDamaged, "part 1")

	mixed = slices.Concat(bundle.Head(verified(t, one).Envelope(), verified(t, two).Manifest().Payload.Size), payloadOf(t, two), bundle.Tail(int64(len(payloadOf(t, two)))))
	refused(t, "another payload with its own size", mixed, bundle.ErrDamaged, "payload of")

	// Parts of one in another order.
	v := verified(t, one)
	o0, n := v.Part(0)
	o1, _ := v.Part(1)
	swapped := bytes.Clone(one)
	copy(swapped[o0:], one[o1:o1+n])
	copy(swapped[o1:], one[o0:o0+n])
	refused(t, "parts in another order", swapped, bundle.ErrDamaged, "part 1")

	// A manifest that was extended in time is another one.
	longer := v.Manifest()
	longer.ExpiresAt = longer.ExpiresAt.AddDate(1, 0, 0)
	text, err := longer.JSON()
	if err != nil {
		t.Fatal(err)
	}
	var e map[string]any
	if err := json.Unmarshal(v.Envelope(), &e); err != nil {
		t.Fatal(err)
	}
	e["payload"] = text // []byte is base64 in JSON
	envelope, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	refused(t, "a later expiry", slices.Concat(bundle.Head(envelope, longer.Payload.Size), one[len(v.Head()):]), trust.ErrNotSigned, "")
}

// From here on all is signed, so the packer is careless or hostile.

func TestHostileManifests(t *testing.T) {
	data := goodBundle(t)
	payload := payloadOf(t, data)
	hash := strings.Repeat("0", 64)
	many := func(n int) (files []bundle.File) {
		for i := range n {
			files = append(files, bundle.File{Path: fmt.Sprintf("f%05d", i), Mode: bundle.Plain, SHA256: hash})
		}
		return files
	}
	for _, tt := range []struct {
		name   string
		change func(m *bundle.Manifest)
		text   string
	}{
		{"10 GB of payload", func(m *bundle.Manifest) { m.Payload.Size = 10_000_000_000 }, "payload.size"},
		{"10 GB of payload, and its parts", func(m *bundle.Manifest) {
			m.Payload.Size, m.Payload.PartSize = 10_000_000_000, bundle.MaxPartBytes
			m.Payload.Parts = slices.Repeat([]string{hash}, 10_000_000_000/bundle.MaxPartBytes+1)
		}, "payload.size"},
		{"10 GB of files", func(m *bundle.Manifest) {
			m.Files = many(5)
			for i := range m.Files {
				m.Files[i].Size = 2_000_000_000
			}
			m.InstalledSize = 10_000_000_000
		}, "larger than"},
		{"a 10 GB file", func(m *bundle.Manifest) { m.Files[0].Size = 10_000_000_000 }, "size is out of bounds"},
		{"a size below 0", func(m *bundle.Manifest) { m.Files[0].Size = -1 }, "size is out of bounds"},
		{"sizes that overflow", func(m *bundle.Manifest) { m.Files[0].Size = 1<<63 - 1 }, "size is out of bounds"},
		{"another sum", func(m *bundle.Manifest) { m.InstalledSize++ }, "installed_size"},
		{"too few parts", func(m *bundle.Manifest) { m.Payload.Parts = m.Payload.Parts[1:] }, "parts of"},
		{"too many parts", func(m *bundle.Manifest) { m.Payload.Parts = append(m.Payload.Parts, hash) }, "parts of"},
		{"tiny parts", func(m *bundle.Manifest) { m.Payload.PartSize = 1 }, "part_size"},
		{"huge parts", func(m *bundle.Manifest) { m.Payload.PartSize = 1 << 30 }, "part_size"},
		{"no part size", func(m *bundle.Manifest) { m.Payload.PartSize = 0 }, "part_size"},
		{"a part's hash is none", func(m *bundle.Manifest) { m.Payload.Parts[0] = "x" }, "hash"},
		{"upper case hash", func(m *bundle.Manifest) { m.Payload.SHA256 = strings.ToUpper(m.Payload.SHA256) }, "hash"},
		{"another kind", func(m *bundle.Manifest) { m.Payload.Kind = "script" }, "payload.kind"},
		{"a delta without a base", func(m *bundle.Manifest) { m.Payload.Kind = bundle.Delta }, "base_sha256"},
		{"full with a base", func(m *bundle.Manifest) { m.Payload.BaseSHA256 = hash }, "base_sha256"},
		{"no files", func(m *bundle.Manifest) { m.Files, m.InstalledSize = nil, 0 }, "0 files"},
		{"too many files", func(m *bundle.Manifest) { m.Files, m.InstalledSize = many(bundle.MaxFiles+1), 0 }, "files, not 1 to"},
		{"parent folder", firstPath("../evil"), "path"},
		{"parent folder inside", firstPath("a/../../evil"), "path"},
		{"absolute path", firstPath("/etc/passwd"), "path"},
		{"the slot itself", firstPath("."), "path"},
		{"empty path", firstPath(""), "path"},
		{"a folder's path", firstPath("evil/"), "path"},
		{"back slashes", firstPath(`..\evil`), "path"},
		{"a line end", firstPath("a\nb"), "path"},
		{"a NUL", firstPath("a\x00b"), "path"},
		{"long path", firstPath(strings.Repeat("a/", bundle.MaxPathBytes)), "path"},
		{"deep path", firstPath(strings.Repeat("a/", bundle.MaxPathDepth) + "a"), "deep"},
		{"the manifest's place", firstPath("manifest.json"), "device's own"},
		{"setuid", func(m *bundle.Manifest) { m.Files[0].Mode = "4755" }, "mode"},
		{"writable by all", func(m *bundle.Manifest) { m.Files[0].Mode = "0666" }, "mode"},
		{"one path twice", func(m *bundle.Manifest) { m.Files[1] = m.Files[0] }, "not sorted"},
		{"not sorted", func(m *bundle.Manifest) { m.Files[0], m.Files[1] = m.Files[1], m.Files[0] }, "not sorted"},
		{"a file that is a folder", func(m *bundle.Manifest) {
			m.Files = []bundle.File{{Path: "a", Mode: bundle.Plain, SHA256: hash}, {Path: "a-b", Mode: bundle.Plain, SHA256: hash}, {Path: "a/b/c", Mode: bundle.Plain, SHA256: hash}}
			m.InstalledSize = 0
		}, "a file and a folder"},
		{"another format", func(m *bundle.Manifest) { m.Format = 2 }, "format 2"},
		{"no version", func(m *bundle.Manifest) { m.Version = "" }, "semantic"},
		{"no semantic version", func(m *bundle.Manifest) { m.Version = "latest" }, "semantic"},
		{"long version", func(m *bundle.Manifest) { m.Version = "1.0.0-" + strings.Repeat("a", 64) }, "longer"},
		{"no counter", func(m *bundle.Manifest) { m.Counter = 0 }, "counter"},
		{"counter beyond", func(m *bundle.Manifest) { m.Counter = 1 << 53 }, "counter"},
		{"a name with a path", func(m *bundle.Manifest) { m.Name = "../x" }, "name"},
		{"no name", func(m *bundle.Manifest) { m.Name = "" }, "name"},
		{"no arch", func(m *bundle.Manifest) { m.Arch = "" }, "arch"},
		{"no hardware", func(m *bundle.Manifest) { m.Hardware = nil }, "hardware"},
		{"too much hardware", func(m *bundle.Manifest) { m.Hardware = slices.Repeat([]string{"*"}, 33) }, "hardware"},
		{"odd hardware", func(m *bundle.Manifest) { m.Hardware = []string{"a b"} }, "hardware"},
		{"expires before it was made", func(m *bundle.Manifest) { m.ExpiresAt = m.CreatedAt }, "expires_at"},
		{"never expires", func(m *bundle.Manifest) { m.ExpiresAt = time.Time{} }, "expires_at"},
		{"a trial of a year", func(m *bundle.Manifest) { m.Health.DeadlineSeconds = 365 * 24 * 3600 }, "health"},
		{"a trial below 0", func(m *bundle.Manifest) { m.Health.MinHealthySeconds = -1 }, "health"},
		{"a deadline too early", func(m *bundle.Manifest) { m.Health.DeadlineSeconds = 59 }, "health"},
		{"an odd check", func(m *bundle.Manifest) { m.Health.Required = []string{"a b"} }, "health"},
	} {
		m := verified(t, data).Manifest()
		tt.change(&m)
		refused(t, tt.name, seal(t, m, payload), bundle.ErrMalformed, tt.text)
	}
	text, err := manifestOf(t, data).JSON()
	if err != nil {
		t.Fatal(err)
	}
	for name, changed := range map[string][]byte{
		"a key twice":            bytes.Replace(text, []byte(`"counter":231`), []byte(`"counter":231,"counter":999`), 1),
		"an unknown key":         bytes.Replace(text, []byte(`"counter":231`), []byte(`"counter":231,"run_as_root":true`), 1),
		"a key in upper case":    bytes.Replace(text, []byte(`"counter"`), []byte(`"Counter"`), 1),
		"a fraction":             bytes.Replace(text, []byte(`"counter":231`), []byte(`"counter":231.5`), 1),
		"a counter below 0":      bytes.Replace(text, []byte(`"counter":231`), []byte(`"counter":-231`), 1),
		"something behind":       append(bytes.Clone(text), "{}"...),
		"nothing":                []byte("{}"),
		"null":                   []byte("null"),
		"a list":                 []byte("[]"),
		"an anchor":              []byte(`{"public_key":"` + trust.FormatPublicKey(publicKey("stranger")) + `"}`),
		"a time that is no time": bytes.Replace(text, []byte(`"expires_at":"`), []byte(`"expires_at":"x`), 1),
	} {
		refused(t, name, sealJSON(t, changed, payload), bundle.ErrMalformed, "")
	}
}

// firstPath returns a change of the first file's path.
func firstPath(p string) func(m *bundle.Manifest) {
	return func(m *bundle.Manifest) { m.Files[0].Path = p }
}

// An envelope that says it is large costs nothing.
func TestHostileHeader(t *testing.T) {
	for _, size := range []string{"00004000001", "11243753000", "77777777777", "00000000000", "-0000000001", "0x000000010", "+0000000010", "           "} {
		header := bundle.Head([]byte("x"), 1)[:512]
		copy(header[124:], size)
		// A checksum that is right: the sum of all bytes, with spaces in its place.
		copy(header[148:], "        ")
		sum := 0
		for _, b := range header {
			sum += int(b)
		}
		copy(header[148:], fmt.Sprintf("%06o\x00 ", sum))
		refused(t, "a manifest of "+size, append(header, make([]byte, 4096)...), bundle.ErrMalformed, "")
	}
}

func TestHostilePayloads(t *testing.T) {
	data := goodBundle(t)
	listed := verified(t, data).Manifest()
	good := payloadEntries(t, payloadOf(t, data))
	// Entry 1 is the file named empty: room for headers without content.
	entry := func(i int, do func(e *tarEntry)) func() []tarEntry {
		return func() []tarEntry {
			entries := slices.Clone(good)
			do(&entries[i])
			return entries
		}
	}
	special := func(kind byte, link string) func() []tarEntry {
		return entry(1, func(e *tarEntry) { e.Typeflag, e.Linkname = kind, link })
	}
	for _, tt := range []struct {
		name    string
		entries func() []tarEntry
		text    string
	}{
		{"symbolic link", special(tar.TypeSymlink, "/etc/passwd"), "link"},
		{"hard link", special(tar.TypeLink, "pyvorin-edge"), "link"},
		{"character device", special(tar.TypeChar, ""), "special"},
		{"block device", special(tar.TypeBlock, ""), "special"},
		{"FIFO", special(tar.TypeFifo, ""), "special"},
		{"folder", special(tar.TypeDir, ""), "folder"},
		{"contiguous file", special(tar.TypeCont, ""), "special"},
		{"file with a link's name", entry(1, func(e *tarEntry) { e.Linkname = "x" }), "link"},
		{"path traversal", entry(0, func(e *tarEntry) { e.Name = "../precious" }), `"../precious"`},
		{"absolute path", entry(0, func(e *tarEntry) { e.Name = "/etc/passwd" }), `"/etc/passwd"`},
		{"path that is the same after cleaning", entry(0, func(e *tarEntry) { e.Name = "./README" }), `"./README"`},
		{"a file of another name", entry(0, func(e *tarEntry) { e.Name = "readme" }), `"readme"`},
		{"an entry of a delta", entry(0, func(e *tarEntry) { e.Name = "full/README" }), `"full/README"`},
		{"larger than listed", entry(0, func(e *tarEntry) { e.content += "x" }), "bytes instead of"},
		{"smaller than listed", entry(0, func(e *tarEntry) { e.content = e.content[1:] }), "bytes instead of"},
		{"other content", entry(0, func(e *tarEntry) { e.content = strings.ToUpper(e.content) }), "not what is listed"},
		{"setuid", entry(0, func(e *tarEntry) { e.Mode |= 0o4000 }), "mode"},
		{"executable", entry(0, func(e *tarEntry) { e.Mode = 0o755 }), "mode"},
		{"an owner", entry(0, func(e *tarEntry) { e.Uid = 1000 }), "owner"},
		{"extended attributes", entry(0, func(e *tarEntry) {
			e.PAXRecords, e.Format = map[string]string{"SCHILY.xattr.security.capability": "x"}, tar.FormatPAX
		}), "attribute"},
		{"times", entry(0, func(e *tarEntry) {
			e.AccessTime, e.Format = now, tar.FormatPAX
		}), "attribute"},
		{"an entry twice", func() []tarEntry { return slices.Insert(slices.Clone(good), 1, good[0]) }, "README"},
		{"an entry more", func() []tarEntry {
			return append(slices.Clone(good), tarEntry{tar.Header{Typeflag: tar.TypeReg, Name: "zz", Mode: 0o644}, "x"})
		}, `"zz"`},
		{"an entry less", func() []tarEntry { return good[:len(good)-1] }, "unexpected EOF"},
		{"another order", func() []tarEntry { return append(slices.Clone(good[1:]), good[0]) }, "entry 1"},
		{"no entries", func() []tarEntry { return nil }, "unexpected EOF"},
	} {
		m := listed
		m.Payload.Parts = nil
		refused(t, tt.name, seal(t, m, compress(t, makeTar(t, tt.entries()))), bundle.ErrMalformed, tt.text)
	}

	archive := makeTar(t, good)
	zeros := make([]byte, 1<<20)
	for _, tt := range []struct {
		name    string
		payload []byte
		text    string
	}{
		{"not compressed", archive, "payload"},
		{"compressed twice", compress(t, compress(t, archive)), "payload"},
		{"cut", compress(t, archive)[:20_000], "payload"},
		{"a tar that ends too early", compress(t, archive[:len(archive)-1024-512]), "unexpected EOF"},
		{"a tar without an end", compress(t, archive[:len(archive)-1024]), ""},
		{"something behind the tar", compress(t, append(bytes.Clone(archive), "hidden"...)), "can need"},
		{"a frame behind the tar", append(compress(t, archive), compress(t, []byte("hidden"))...), "can need"},
		{"rubbish behind the frame", append(compress(t, archive), "hidden"...), "payload"},
		{"a bomb", bomb(), ""},
		{"a bomb behind the tar", append(compress(t, archive), bomb()...), "can need"},
		{"a bomb of headers", compress(t, bytes.Repeat(globalHeader(t), 200_000)), ""},
		{"a window of 128 MiB", compress(t, append(bytes.Clone(archive), zeros...), zstd.WithWindowSize(128<<20), zstd.WithSingleSegment(false)), ""},
	} {
		m := listed
		m.Payload.Parts = nil
		before := heapAllocated()
		start := time.Now()
		switch tt.name {
		case "a tar without an end":
			// Nothing is missing that could be unpacked.
			if err := unpackError(t, seal(t, m, tt.payload)); err != nil {
				t.Errorf("%s: %v", tt.name, err)
			}
		default:
			refused(t, tt.name, seal(t, m, tt.payload), bundle.ErrMalformed, tt.text)
		}
		if used := heapAllocated() - before; used > 256<<20 {
			t.Errorf("%s took %d MiB", tt.name, used>>20)
		}
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("%s took %v", tt.name, took)
		}
	}
}

// bomb is 128 KiB that decompress to 4 GiB: RLE blocks of 128 KiB
// behind the header of a frame of unknown size.
func bomb() []byte {
	b := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x50} // window of 1 MiB
	const last, rle, size = 1, 1 << 1, 128 << 10
	for range 32 << 10 {
		b = append(binary.LittleEndian.AppendUint32(b, rle|size<<3)[:len(b)+3], 0)
	}
	return append(binary.LittleEndian.AppendUint32(b, last|rle|1<<3)[:len(b)+3], 0)
}

// globalHeader is a tar header that applies to all entries behind it.
func globalHeader(t *testing.T) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "g", PAXRecords: map[string]string{"comment": "x"}}); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func heapAllocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}
