package bundle_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/ota/bundle/pack"
	"github.com/pyvorin/pyvorin-edge/trust"
)

// The example of docs/formats.md, made again.
func TestDocumentedBundle(t *testing.T) {
	doc, err := os.ReadFile("../../docs/formats.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := func(text string) {
		t.Helper()
		if !strings.Contains(string(doc), text) {
			t.Errorf("docs/formats.md does not have this part of an example, which is what the code makes:\n%s", text)
		}
	}
	seed := make([]byte, ed25519.SeedSize)
	for i := range seed {
		seed[i] = byte(i)
	}
	key := ed25519.NewKeyFromSeed(seed)
	o := pack.Options{
		From: writeTree(t, map[string]string{"hello*": "#!/bin/sh\necho hello\n"}),
		Name: "hello", Version: "1.0.0", Counter: 1, Arch: "any",
		CreatedAt: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), ExpiresAt: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC),
		Keys: []ed25519.PrivateKey{key},
	}
	var data bytes.Buffer
	m, err := pack.Create(t.Context(), &data, o)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := m.JSON()
	if err != nil {
		t.Fatal(err)
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, manifest, "", "  "); err != nil {
		t.Fatal(err)
	}
	documented(indented.String())
	f := m.Files[0]
	documented(fmt.Sprintf("%s %s %d %s", f.Mode, f.SHA256, f.Size, f.Path))
	documented(m.Digest())

	anchor, err := trust.SingleKey(key.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	r, err := bundle.Open(bytes.NewReader(data.Bytes()), anchor, now)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	v := r.Verified()
	offset, length := v.Part(0)
	for _, row := range [][3]any{
		{0, 512, "header of manifest.json"},
		{512, len(v.Envelope()), "the envelope"},
		{offset - 512, 512, "header of payload"},
		{offset, length, "the payload, one part"},
		{offset + length, len(v.Tail()), "padding, and two blocks of zeros"},
	} {
		documented(fmt.Sprintf("| %v | %v | %v", row[0], row[1], row[2]))
	}
	documented(fmt.Sprintf("%d bytes", data.Len()))

	patch := append(bundle.Record{Diff: 15, Extra: 6}.Append(nil), make([]byte, 15)...)
	patch = append(patch, "world\n"...)
	documented(strings.TrimSpace(fmt.Sprintf("% x", patch)))
	if got := string(applied(t, "#!/bin/sh\necho hello\n", "#!/bin/sh\necho world\n", patch)); got != "#!/bin/sh\necho world\n" {
		t.Errorf("the patch makes %q", got)
	}
}

// applied returns what a device makes of a file with a patch.
func applied(t *testing.T, older, newer string, patch []byte) []byte {
	t.Helper()
	full := func(content string) []byte {
		return packTree(t, map[string]string{"pyvorin-edge*": "p", "f": content}, nil)
	}
	base, _ := installed(t, full(older))
	m := verified(t, full(newer)).Manifest()
	before := manifestOf(t, full(older))
	m.Payload = bundle.Payload{Kind: bundle.Delta, BaseSHA256: before.Digest(), PartSize: bundle.MinPartBytes}
	entries := []tarEntry{{content: string(patch)}, {}}
	entries[0].Typeflag, entries[0].Name, entries[0].Mode = '0', "patch/f", 0o644
	entries[1].Typeflag, entries[1].Name, entries[1].Mode = '0', "copy/pyvorin-edge", 0o755
	slot, dir := newSlot(t)
	if err := unpack(t, seal(t, m, compress(t, makeTar(t, entries))), slot, bundle.UnpackOptions{Base: base}); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(dir + "/f")
	if err != nil {
		t.Fatal(err)
	}
	return content
}
