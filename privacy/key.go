package privacy

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pyvorin/pyvorin-edge/internal/atomicfile"
)

// KeySize is the length of a key in bytes; its file holds twice as many hex
// digits.
const KeySize = 32

// LoadKey reads the key at path: 64 hex digits in a file that only its owner
// may read. The error wraps fs.ErrNotExist when there is no file.
func LoadKey(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("load privacy key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("load privacy key: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("load privacy key: %s is not a regular file", path)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("load privacy key: others may use %s (mode %#o): run `chmod 600 %s`, and if someone may have read it, move it away to have a new one made",
			path, info.Mode().Perm(), path)
	}
	text, err := io.ReadAll(io.LimitReader(f, 4*KeySize))
	if err != nil {
		return nil, fmt.Errorf("load privacy key: %w", err)
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) != KeySize {
		// The decoder's error would quote a part of the key.
		return nil, fmt.Errorf("load privacy key: %s does not hold %d hex digits: restore it from a backup, or move it away to have a new one made (tokens then change)", path, 2*KeySize)
	}
	return key, nil
}

// EnsureKey is LoadKey, which first makes the key, and the folder for it, when
// there is none. A file that is there is never replaced, whatever it holds: the
// key is what ties tokens to those sent before.
func EnsureKey(path string) ([]byte, error) {
	key, err := LoadKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if err := makeKey(path); err != nil {
		return nil, fmt.Errorf("make privacy key: %w", err)
	}
	return LoadKey(path)
}

// makeKey writes a fresh key to path unless there is a file by now. The lock on
// the folder makes two processes that start at once agree on one key.
func makeKey(path string) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := atomicfile.SyncDir(filepath.Dir(dir)); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close() // releases the lock
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", dir, err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	key := make([]byte, KeySize)
	rand.Read(key) // never fails: without randomness the program ends
	return atomicfile.Write(path, []byte(hex.EncodeToString(key)+"\n"), 0o600)
}

// KeyID names a key without telling anything of it: tokens made with different
// keys do not compare, and the id says when that is so.
func KeyID(key []byte) string {
	sum := sha256.Sum256(append([]byte("pyvorin-edge privacy key id v1\x00"), key...))
	return hex.EncodeToString(sum[:4])
}
