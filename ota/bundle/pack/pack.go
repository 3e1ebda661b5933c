// Package pack makes bundles, on the operator's machine.
//
// The same files, options and keys make the same bytes: entries are sorted,
// owners and times are left out, and one thread compresses with fixed settings.
// The private keys are used here and nowhere near a device.
package pack

import (
	"archive/tar"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/ota/disk"
	"github.com/pyvorin/pyvorin-edge/trust"
)

// Options describe a release.
type Options struct {
	From      string // folder with the slot's files
	Name      string // of the component
	Version   string
	Counter   uint64
	OS        string   // "" means linux
	Arch      string   // as in bundle.Target
	Hardware  []string // none means any
	CreatedAt time.Time
	ExpiresAt time.Time
	PartSize  int64 // 0 means bundle.DefaultPartBytes
	Health    bundle.Health
	Keys      []ed25519.PrivateKey // of the release role; at least one
}

// Create writes a full bundle with the files below o.From.
func Create(ctx context.Context, w io.Writer, o Options) (bundle.Manifest, error) {
	from, err := disk.Open(o.From)
	if err != nil {
		return bundle.Manifest{}, err
	}
	defer from.Close()
	files, err := list(from, ".")
	if err != nil {
		return bundle.Manifest{}, err
	}
	m := bundle.Manifest{
		Format: bundle.Format, Name: o.Name, Version: o.Version, Counter: o.Counter,
		OS: o.OS, Arch: o.Arch, Hardware: o.Hardware,
		CreatedAt: o.CreatedAt.UTC().Truncate(time.Second), ExpiresAt: o.ExpiresAt.UTC().Truncate(time.Second),
		Health: o.Health, Files: files,
		Payload: bundle.Payload{Kind: bundle.Full, PartSize: o.PartSize},
	}
	if m.OS == "" {
		m.OS = "linux"
	}
	if len(m.Hardware) == 0 {
		m.Hardware = []string{"*"}
	}
	if m.Payload.PartSize == 0 {
		m.Payload.PartSize = bundle.DefaultPartBytes
	}
	if err := cmp.Or(checkRuns(m), checkEarly(m)); err != nil {
		return bundle.Manifest{}, err
	}
	return write(w, m, o.Keys, func(entry entryFunc) error {
		for i := range m.Files {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			if err := addFile(from, &m.Files[i], entry); err != nil {
				return err
			}
		}
		return nil
	})
}

// checkRuns refuses an agent that the watchdog could not start.
func checkRuns(m bundle.Manifest) error {
	const agent = "pyvorin-edge"
	if m.Name != agent || slices.ContainsFunc(m.Files, func(f bundle.File) bool { return f.Path == agent && f.Mode == bundle.Executable }) {
		return nil
	}
	return fmt.Errorf("a release of %s needs an executable file %s at its top", agent, agent)
}

// checkEarly finds what is wrong with a manifest before the work is done that
// completes it.
func checkEarly(m bundle.Manifest) error {
	const later = "0000000000000000000000000000000000000000000000000000000000000000"
	m.Payload.Size, m.Payload.SHA256, m.Payload.Parts = 1, later, []string{later}
	m.Files = slices.Clone(m.Files)
	for i := range m.Files {
		m.Files[i].SHA256 = later
		m.InstalledSize += m.Files[i].Size
	}
	_, err := m.JSON()
	return err
}

// list returns the files below dir, sorted by path, with their modes and sizes.
func list(from disk.FS, dir string) (files []bundle.File, err error) {
	entries, err := from.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	if len(entries) == 0 {
		return nil, fmt.Errorf("folder %s is empty; a bundle holds files only, so remove it or put one in", dir)
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		switch mode := info.Mode(); {
		case mode.IsDir() || mode.IsRegular():
			if mode.Perm()&0o002 != 0 || mode.IsRegular() && mode&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
				return nil, fmt.Errorf("%s has the mode %v; a release has no file that others may write or that changes its user", name, mode)
			}
		default:
			return nil, fmt.Errorf("%s is a link or a special file (%v); a release has plain files only", name, mode.Type())
		}
		if info.IsDir() {
			below, err := list(from, name)
			if err != nil {
				return nil, err
			}
			files = append(files, below...)
			continue
		}
		f := bundle.File{Path: name, Mode: bundle.Plain, Size: info.Size()}
		if info.Mode().Perm()&0o111 != 0 {
			f.Mode = bundle.Executable
		}
		files = append(files, f)
	}
	slices.SortFunc(files, func(a, b bundle.File) int { return strings.Compare(a.Path, b.Path) })
	return files, nil
}

// addFile adds the content of a file and fills in its hash.
func addFile(from disk.FS, f *bundle.File, entry entryFunc) error {
	file, err := from.Open(f.Path)
	if err != nil {
		return err
	}
	defer file.Close()
	sum := sha256.New()
	if err := entry(bundle.ContentEntry, *f, f.Size, io.TeeReader(file, sum)); err != nil {
		return fmt.Errorf("pack %s: %w", f.Path, err)
	}
	f.SHA256 = hex.EncodeToString(sum.Sum(nil))
	return nil
}

// entryFunc adds the entry for f, with size bytes from content.
type entryFunc func(kind bundle.EntryKind, f bundle.File, size int64, content io.Reader) error

// write makes the payload out of the entries that add adds, completes and signs
// the manifest, and writes the bundle. The slice m.Files is filled in by add.
func write(w io.Writer, m bundle.Manifest, keys []ed25519.PrivateKey, add func(entryFunc) error) (bundle.Manifest, error) {
	if len(keys) == 0 {
		return bundle.Manifest{}, errors.New("no key to sign with")
	}
	// The manifest goes first and has the payload's hashes, so the payload waits
	// in a file.
	temp, err := os.CreateTemp("", "pyvorin-payload-*")
	if err != nil {
		return bundle.Manifest{}, err
	}
	defer func() {
		temp.Close()
		os.Remove(temp.Name())
	}()
	hashes := &partHasher{partSize: m.Payload.PartSize, part: sha256.New(), whole: sha256.New()}
	if err := writePayload(io.MultiWriter(temp, hashes), m.Payload.Kind, add); err != nil {
		return bundle.Manifest{}, err
	}
	hashes.fill(&m.Payload)
	m.InstalledSize = 0
	for _, f := range m.Files {
		m.InstalledSize += f.Size
	}
	payload, err := m.JSON()
	if err != nil {
		return bundle.Manifest{}, err
	}
	envelope, err := trust.Sign(trust.ManifestType, payload, keys...)
	if err != nil {
		return bundle.Manifest{}, err
	}
	if _, err := temp.Seek(0, io.SeekStart); err != nil {
		return bundle.Manifest{}, err
	}
	return m, assemble(w, envelope, m.Payload.Size, temp)
}

// assemble writes the outer tar.
func assemble(w io.Writer, envelope []byte, size int64, payload io.Reader) error {
	if _, err := w.Write(bundle.Head(envelope, size)); err != nil {
		return err
	}
	if _, err := io.CopyN(w, payload, size); err != nil {
		return err
	}
	_, err := w.Write(bundle.Tail(size))
	return err
}

func writePayload(w io.Writer, kind bundle.Kind, add func(entryFunc) error) error {
	compressed, err := zstd.NewWriter(w,
		zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedBestCompression),
		zstd.WithWindowSize(bundle.MaxWindowBytes), zstd.WithEncoderCRC(true))
	if err != nil {
		return err
	}
	archive := tar.NewWriter(compressed)
	err = add(func(entry bundle.EntryKind, f bundle.File, size int64, content io.Reader) error {
		err := archive.WriteHeader(&tar.Header{
			Typeflag: tar.TypeReg, Name: bundle.EntryName(kind, entry, f.Path), Size: size,
			Mode: int64(f.Mode.Perm()), ModTime: time.Unix(0, 0),
		})
		if err != nil {
			return err
		}
		// The writer refuses more than size, and a file that shrank is found
		// when the next header is written.
		_, err = io.Copy(archive, content)
		return err
	})
	return errors.Join(err, archive.Close(), compressed.Close())
}

// partHasher hashes what it is written, by parts and as a whole.
type partHasher struct {
	partSize    int64
	part, whole hash.Hash
	inPart      int64
	size        int64
	parts       []string
}

func (h *partHasher) Write(p []byte) (int, error) {
	written := len(p)
	h.whole.Write(p)
	h.size += int64(written)
	for len(p) > 0 {
		n := min(int64(len(p)), h.partSize-h.inPart)
		h.part.Write(p[:n])
		p = p[n:]
		if h.inPart += n; h.inPart == h.partSize {
			h.end()
		}
	}
	return written, nil
}

func (h *partHasher) end() {
	h.parts = append(h.parts, hex.EncodeToString(h.part.Sum(nil)))
	h.part.Reset()
	h.inPart = 0
}

func (h *partHasher) fill(p *bundle.Payload) {
	if h.inPart > 0 {
		h.end()
	}
	p.Size, p.Parts, p.SHA256 = h.size, h.parts, hex.EncodeToString(h.whole.Sum(nil))
}
