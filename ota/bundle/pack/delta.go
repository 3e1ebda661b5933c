package pack

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/pyvorin/pyvorin-edge/ota/bundle"
)

// MaxPatchedBytes is the size up to which a file is patched; a larger one goes
// into a delta whole. Making a patch takes about ten times the file's size in
// memory.
const MaxPatchedBytes = 128 << 20

// ErrNotSmaller says that the full bundle is the better way.
var ErrNotSmaller = errors.New("the delta is not smaller than the full bundle")

// Delta writes the delta that brings a device from the release in the full
// bundle oldBundle to that in the full bundle newBundle. The manifest is
// newBundle's but for the payload. Neither bundle's signatures are checked, but
// all hashes are.
func Delta(ctx context.Context, w io.Writer, oldBundle, newBundle io.Reader, keys []ed25519.PrivateKey) (bundle.Manifest, error) {
	before, err := extract(ctx, oldBundle)
	if err != nil {
		return bundle.Manifest{}, fmt.Errorf("read the base: %w", err)
	}
	defer before.remove()
	after, err := extract(ctx, newBundle)
	if err != nil {
		return bundle.Manifest{}, fmt.Errorf("read the bundle: %w", err)
	}
	defer after.remove()
	if before.m.Name != after.m.Name {
		return bundle.Manifest{}, fmt.Errorf("the base is a release of %s, not of %s", before.m.Name, after.m.Name)
	}
	m := after.m
	m.Payload = bundle.Payload{Kind: bundle.Delta, BaseSHA256: before.m.Digest(), PartSize: m.Payload.PartSize}
	var delta bytes.Buffer
	m, err = write(&limited{w: &delta, left: after.size}, m, keys, func(entry entryFunc) error {
		for _, f := range m.Files {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			if err := addChange(before, after, f, entry); err != nil {
				return fmt.Errorf("pack %s: %w", f.Path, err)
			}
		}
		return nil
	})
	if err != nil {
		return bundle.Manifest{}, err
	}
	_, err = w.Write(delta.Bytes())
	return m, err
}

// addChange adds what makes f out of the base's file of its path, in the
// smallest way.
func addChange(before, after *extracted, f bundle.File, entry entryFunc) error {
	old, ok := before.file(f.Path)
	if ok && old.SHA256 == f.SHA256 {
		return entry(bundle.CopyEntry, f, 0, bytes.NewReader(nil))
	}
	path := after.path(f.Path)
	if ok && old.Size <= MaxPatchedBytes && f.Size <= MaxPatchedBytes {
		oldBytes, err := os.ReadFile(before.path(f.Path))
		if err != nil {
			return err
		}
		newBytes, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if patch := diff(oldBytes, newBytes); int64(len(patch)) <= bundle.MaxPatchBytes(f.Size) {
			return entry(bundle.PatchEntry, f, int64(len(patch)), bytes.NewReader(patch))
		}
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	return entry(bundle.ContentEntry, f, f.Size, file)
}

// limited fails with ErrNotSmaller once left bytes were written.
type limited struct {
	w    io.Writer
	left int64
}

func (l *limited) Write(p []byte) (int, error) {
	if l.left -= int64(len(p)); l.left <= 0 {
		return 0, ErrNotSmaller
	}
	return l.w.Write(p)
}

// extracted is a full bundle's files in a temporary folder.
type extracted struct {
	dir  string
	m    bundle.Manifest
	size int64 // of the whole bundle
}

func extract(ctx context.Context, r io.Reader) (*extracted, error) {
	u, err := bundle.Inspect(r)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "pyvorin-delta-*")
	if err != nil {
		return nil, err
	}
	payload := u.Manifest.Payload.Size
	e := &extracted{dir: dir, m: u.Manifest, size: int64(len(bundle.Head(u.Envelope, payload))+len(bundle.Tail(payload))) + payload}
	next := 0
	err = u.Files(ctx, func(_ bundle.File, content io.Reader) error {
		f, err := os.Create(filepath.Join(dir, fmt.Sprint(next)))
		if err != nil {
			return err
		}
		next++
		_, err = io.Copy(f, content)
		return errors.Join(err, f.Close())
	})
	if err != nil {
		e.remove()
		return nil, err
	}
	return e, nil
}

func (e *extracted) remove() { _ = os.RemoveAll(e.dir) }

func (e *extracted) index(path string) int {
	for i, f := range e.m.Files {
		if f.Path == path {
			return i
		}
	}
	return -1
}

func (e *extracted) file(path string) (bundle.File, bool) {
	if i := e.index(path); i >= 0 {
		return e.m.Files[i], true
	}
	return bundle.File{}, false
}

// path returns where the content of a file of the release lies.
func (e *extracted) path(path string) string { return filepath.Join(e.dir, fmt.Sprint(e.index(path))) }
