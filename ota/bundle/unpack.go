package bundle

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"

	"github.com/pyvorin/pyvorin-edge/ota/disk"
)

// folderPerm is the mode of the folders in a slot.
const folderPerm = 0o755

// UnpackOptions say what Unpack may need; the zero value does for a full bundle.
type UnpackOptions struct {
	// Base is the slot with the release that a delta was made against. Of a
	// base that is not whole an error comes that wraps ErrWrongBase.
	Base disk.FS

	// Progress, if not nil, is called now and then with the bytes written so
	// far, of Manifest.InstalledSize.
	Progress func(written int64)
}

// Unpack fills slot, an empty folder, with the files of the bundle, durably, and
// then with its manifest. After an error the slot holds some of them, and no
// manifest. It reads the bundle to its end.
func (r *Reader) Unpack(ctx context.Context, slot disk.FS, o UnpackOptions) error {
	if r.verified.IsZero() {
		return errors.New("internal error: no verified bundle")
	}
	m := *r.verified.manifest
	if there, err := slot.ReadDir("."); err != nil {
		return err
	} else if len(there) > 0 {
		return fmt.Errorf("unpack bundle: the slot is not empty: it holds %s", there[0].Name())
	}
	if m.Payload.Kind == Delta {
		if err := checkBase(o.Base, m.Payload.BaseSHA256); err != nil {
			return err
		}
	}
	u := unpacker{ctx: ctx, m: m, slot: slot, base: o.Base, progress: o.Progress}
	if err := walk(ctx, r.r, m, u.file); err != nil {
		return err
	}
	for _, dir := range m.dirs() {
		if err := slot.SyncDir(dir); err != nil {
			return err
		}
	}
	return disk.WriteFile(slot, ManifestName, r.verified.envelope, 0o644)
}

// dirs returns the folders of the release, each before the one that it is in.
func (m Manifest) dirs() []string {
	seen := map[string]bool{".": true}
	var dirs []string
	for _, f := range m.Files {
		for dir := path.Dir(f.Path); !seen[dir]; dir = path.Dir(dir) {
			seen[dir] = true
			dirs = append(dirs, dir)
		}
	}
	slices.Sort(dirs)
	slices.Reverse(dirs)
	return append(dirs, ".")
}

// checkBase returns an error unless base is a complete slot with this digest.
func checkBase(base disk.FS, digest string) error {
	if base == nil {
		return fmt.Errorf("%w: there is no base", ErrWrongBase)
	}
	m, err := ReadInstalled(base)
	if err != nil {
		return fmt.Errorf("%w: the base's manifest: %w", ErrWrongBase, err)
	}
	if m.Digest() != digest {
		return fmt.Errorf("%w: it needs %.16s, and the base is %s %s (%.16s)", ErrWrongBase, digest, m.Name, m.Version, m.Digest())
	}
	return nil
}

type unpacker struct {
	ctx        context.Context
	m          Manifest
	slot, base disk.FS
	progress   func(int64)
	written    int64
}

// file writes file i.
func (u *unpacker) file(i int, kind EntryKind, content io.Reader) (err error) {
	f := u.m.Files[i]
	if err := disk.MkdirAll(u.slot, path.Dir(f.Path), folderPerm); err != nil {
		return err
	}
	file, err := u.slot.Create(f.Path, f.Mode.Perm())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	sum := sha256.New()
	w := &counted{u: u, w: io.MultiWriter(file, sum), left: f.Size}
	buf := make([]byte, copyBytes)
	if kind == ContentEntry {
		_, err = io.CopyBuffer(w, content, buf)
	} else {
		err = u.fromBase(w, f, kind, content, buf)
	}
	if err != nil {
		return err
	}
	switch {
	case w.left == 0 && hex.EncodeToString(sum.Sum(nil)) == f.SHA256:
		return file.Sync()
	case kind == ContentEntry:
		return errWrongContent
	default:
		return fmt.Errorf("%w: the base's file is not what it was, or the patch is wrong", ErrWrongBase)
	}
}

// fromBase writes a file that is made out of the base's.
func (u *unpacker) fromBase(w io.Writer, f File, kind EntryKind, patch io.Reader, buf []byte) error {
	old, err := u.base.Open(f.Path)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrWrongBase, err)
	}
	defer old.Close()
	info, err := old.Stat()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrWrongBase, err)
	}
	base := &baseFile{old, info.Size()}
	if kind == PatchEntry {
		return applyPatch(w, f.Size, base, patch)
	}
	_, err = io.CopyBuffer(w, io.NewSectionReader(base, 0, f.Size), buf)
	return err
}

// baseFile is a file of the base. When it cannot be read, the base is no good.
type baseFile struct {
	disk.File
	size int64
}

func (b *baseFile) ReadAt(p []byte, offset int64) (int, error) {
	n, err := b.File.ReadAt(p, offset)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: %w", ErrWrongBase, err)
	}
	return n, err
}

// counted counts what is written, reports it, and ends with the context.
type counted struct {
	u    *unpacker
	w    io.Writer
	left int64
}

func (c *counted) Write(p []byte) (int, error) {
	if err := context.Cause(c.u.ctx); err != nil {
		return 0, err
	}
	n, err := c.w.Write(p)
	c.left -= int64(n)
	c.u.written += int64(n)
	if c.u.progress != nil {
		c.u.progress(c.u.written)
	}
	return n, err
}
