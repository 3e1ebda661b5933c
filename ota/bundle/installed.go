package bundle

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"

	"github.com/pyvorin/pyvorin-edge/ota/disk"
)

// ErrNotAsSigned says that a slot holds something else than its manifest lists.
var ErrNotAsSigned = errors.New("slot is not what was signed")

// VerifyInstalled reads a slot back and compares it with the manifest: every
// file with its mode, size and hash, and nothing else but the manifest itself.
func VerifyInstalled(ctx context.Context, slot disk.FS, m Manifest) error {
	dirs := m.dirs()
	files := make(map[string]File, len(m.Files))
	for _, f := range m.Files {
		files[f.Path] = f
	}
	found := 0
	for _, dir := range dirs {
		entries, err := slot.ReadDir(dir)
		if err != nil {
			return slotError(dir, err)
		}
		for _, e := range entries {
			name := path.Join(dir, e.Name())
			info, err := e.Info()
			if err != nil {
				return err
			}
			f, listed := files[name]
			switch {
			case name == ManifestName && info.Mode().IsRegular():
			case info.IsDir() && slices.Contains(dirs, name):
				if info.Mode() != fs.ModeDir|folderPerm {
					return fmt.Errorf("%w: %s has the mode %v", ErrNotAsSigned, name, info.Mode())
				}
			case !listed:
				return fmt.Errorf("%w: %s is not listed", ErrNotAsSigned, name)
			default:
				found++
				if err := verifyFile(ctx, slot, f, info); err != nil {
					return slotError(name, err)
				}
			}
		}
	}
	if found < len(files) {
		return fmt.Errorf("%w: %d of %d files are missing", ErrNotAsSigned, len(files)-found, len(files))
	}
	return nil
}

// slotError makes what is missing, or of another kind, a difference; errors of
// the disk stay what they are.
func slotError(name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, disk.ErrNotRegular) {
		return fmt.Errorf("%w: %s: %w", ErrNotAsSigned, name, err)
	}
	return fmt.Errorf("verify slot: %s: %w", name, err)
}

func verifyFile(ctx context.Context, slot disk.FS, f File, info fs.FileInfo) error {
	// The mode as a whole: a setuid bit is a difference.
	if info.Mode() != f.Mode.Perm() || info.Size() != f.Size {
		return fmt.Errorf("%w: mode %v and %d bytes instead of %s and %d", ErrNotAsSigned, info.Mode(), info.Size(), f.Mode, f.Size)
	}
	file, err := slot.Open(f.Path)
	if err != nil {
		return err
	}
	defer file.Close()
	sum := sha256.New()
	buf := make([]byte, copyBytes)
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		n, err := file.Read(buf)
		sum.Write(buf[:n])
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
	}
	if hex.EncodeToString(sum.Sum(nil)) != f.SHA256 {
		return fmt.Errorf("%w: its content differs", ErrNotAsSigned)
	}
	return nil
}
