package bundle_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/trust"
)

func TestUnpack(t *testing.T) {
	data := goodBundle(t)
	slot, dir := newSlot(t)
	var progress []int64
	err := unpack(t, data, slot, bundle.UnpackOptions{Progress: func(n int64) { progress = append(progress, n) }})
	if err != nil {
		t.Fatal(err)
	}
	sameTree(t, dir, release231)
	m, err := bundle.ReadInstalled(slot)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(manifestOf(t, data), m); diff != "" {
		t.Errorf("the slot's manifest is not the bundle's: %s", diff)
	}
	if err := bundle.VerifyInstalled(t.Context(), slot, m); err != nil {
		t.Error(err)
	}
	if !slices.IsSorted(progress) || progress[len(progress)-1] != m.InstalledSize {
		t.Errorf("progress was %v of %d", progress, m.InstalledSize)
	}
	// The slot is full now.
	if err := unpack(t, data, slot, bundle.UnpackOptions{}); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("unpacked into a full slot: %v", err)
	}
}

func TestVerified(t *testing.T) {
	data := goodBundle(t)
	r, err := bundle.Open(bytes.NewReader(data), anchor(t), now)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Check(t.Context()); err != nil {
		t.Error(err)
	}
	v := r.Verified()
	if want := []string{trust.KeyID(publicKey("release-1")), trust.KeyID(publicKey("release-2"))}; !slices.Equal(v.Signers(), slices.Sorted(slices.Values(want))) {
		t.Errorf("signed by %v", v.Signers())
	}
	again, err := bundle.Verify(v.Envelope(), anchor(t), now)
	if err != nil || !bytes.Equal(again.Head(), v.Head()) {
		t.Errorf("the envelope alone: %v", err)
	}
	v.Manifest().Files[0].SHA256 = "changed"
	v.Envelope()[0] = 'x'
	if v.Manifest().Files[0].SHA256 == "changed" || v.Envelope()[0] == 'x' {
		t.Error("what was verified can be changed from outside")
	}
}

// A fetcher gets the head and the parts, in any order, and has the file.
func TestParts(t *testing.T) {
	data := goodBundle(t)
	v := verified(t, data)
	if v.Size() != int64(len(data)) || v.Parts() < 3 {
		t.Fatalf("%d bytes in %d parts, the file has %d", v.Size(), v.Parts(), len(data))
	}
	built := make([]byte, v.Size())
	copy(built, v.Head())
	copy(built[v.Size()-int64(len(v.Tail())):], v.Tail())
	for i := v.Parts() - 1; i >= 0; i-- {
		offset, length := v.Part(i)
		part := data[offset : offset+length]
		if err := v.CheckPart(i, part); err != nil {
			t.Error(err)
		}
		copy(built[offset:], part)
		for _, wrong := range [][]byte{nil, part[1:], append(slices.Clone(part), 0), append([]byte{part[0] ^ 1}, part[1:]...)} {
			if err := v.CheckPart(i, wrong); !errors.Is(err, bundle.ErrDamaged) {
				t.Errorf("part %d: %v", i, err)
			}
		}
		if err := v.CheckPart(i+1, part); !errors.Is(err, bundle.ErrDamaged) {
			t.Errorf("part %d passes for the next: %v", i, err)
		}
	}
	for _, i := range []int{-1, v.Parts()} {
		if offset, length := v.Part(i); offset != 0 || length != 0 {
			t.Errorf("part %d is at %d, %d bytes", i, offset, length)
		}
	}
	if err := v.CheckPart(-1, nil); !errors.Is(err, bundle.ErrDamaged) {
		t.Errorf("part -1: %v", err)
	}
	if !bytes.Equal(built, data) {
		t.Error("head, parts and tail are not the bundle")
	}
}

func TestZeroValues(t *testing.T) {
	var v bundle.Verified
	if !v.IsZero() || v.Parts() != 0 || v.Size() != 0 || v.Head() != nil || v.Tail() != nil || v.Manifest().Name != "" || v.Envelope() != nil || v.Signers() != nil {
		t.Error("the zero Verified says something")
	}
	if err := v.CheckPart(0, nil); err == nil {
		t.Error("the zero Verified has a part")
	}
	slot, _ := newSlot(t)
	if err := new(bundle.Reader).Unpack(t.Context(), slot, bundle.UnpackOptions{}); err == nil {
		t.Error("the zero Reader unpacks")
	}
	if err := new(bundle.Reader).Check(t.Context()); err == nil {
		t.Error("the zero Reader passes a check")
	}
}

func TestCancelled(t *testing.T) {
	data := goodBundle(t)
	ctx, cancel := context.WithCancel(t.Context())
	slot, dir := newSlot(t)
	r, err := bundle.Open(bytes.NewReader(data), anchor(t), now)
	if err != nil {
		t.Fatal(err)
	}
	err = r.Unpack(ctx, slot, bundle.UnpackOptions{Progress: func(n int64) {
		if n > 100_000 {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("unpack: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, bundle.ManifestName)); err == nil {
		t.Error("a slot that is not complete has a manifest")
	}
	if r, err = bundle.Open(bytes.NewReader(data), anchor(t), now); err != nil {
		t.Fatal(err)
	}
	if err := r.Check(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("check: %v", err)
	}
}

// People may look into a bundle with what they have.
func TestTarListsIt(t *testing.T) {
	program, err := exec.LookPath("tar")
	if err != nil {
		t.Skip("no tar here")
	}
	cmd := exec.Command(program, "-tf", "-")
	cmd.Stdin = bytes.NewReader(goodBundle(t))
	out, err := cmd.Output()
	if err != nil || string(out) != "manifest.json\npayload\n" {
		t.Errorf("tar lists %q, %v", out, err)
	}
}

func TestInspect(t *testing.T) {
	data := goodBundle(t)
	u, err := bundle.Inspect(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if len(u.KeyIDs) != 2 || u.Manifest.Version != "2.3.1" {
		t.Errorf("%+v", u)
	}
	var names []string
	if err := u.Files(t.Context(), func(f bundle.File, content io.Reader) error {
		names = append(names, f.Path)
		var buf bytes.Buffer
		if _, err := buf.ReadFrom(content); err != nil {
			return err
		}
		if hexSum(buf.Bytes()) != f.SHA256 {
			t.Errorf("%s has another content", f.Path)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if got := strings.Join(names, " "); got != "README empty pyvorin-edge share.d/hook share/a/LICENSE share/z.txt" {
		t.Errorf("files are %s", got)
	}
	command, err := trust.Sign(trust.CommandType, []byte("{}"), releaseKeys...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bundle.Inspect(bytes.NewReader(bundle.Head(command, 1))); !errors.Is(err, bundle.ErrMalformed) {
		t.Errorf("a command passes for a bundle: %v", err)
	}
}

func TestDeltaName(t *testing.T) {
	digest := manifestOf(t, goodBundle(t)).Digest()
	if got, want := bundle.DeltaName("dist/edge-2.3.1.bundle", digest), "dist/edge-2.3.1.bundle.delta-"+digest[:16]; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
