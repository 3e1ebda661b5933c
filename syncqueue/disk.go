package syncqueue

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"
)

// ballastBytes is what acks can count on when the disk is full: less was not
// enough for SQLite to delete and checkpoint.
const ballastBytes = 1 << 20

// files are the names of everything the queue keeps.
type files struct {
	db       string
	lock     string
	sequence string
	ballast  string
	salvage  string // the file that salvage is building
	repair   string // a copy of the damaged one with a new first page
	stem     string // of the names of quarantined files
}

func filesOf(db string) files {
	stem := strings.TrimSuffix(db, ".db")
	return files{
		db: db, stem: stem, lock: stem + ".lock", sequence: stem + ".seq", ballast: stem + ".ballast", salvage: stem + ".salvage.db", repair: stem + ".repair.db",
	}
}

// acquire locks the queue for this process.
func (f files) acquire() (*flock.Flock, error) {
	if info, err := os.Stat(f.db); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file: move it away", f.db)
	}
	if info, err := os.Stat(f.dir()); err != nil {
		return nil, fmt.Errorf("the queue's folder: %w", err)
	} else if !info.IsDir() {
		return nil, fmt.Errorf("%s is not a folder", f.dir())
	}
	lock := flock.New(f.lock, flock.SetPermissions(0o600))
	ok, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock the queue: %w", err)
	}
	if !ok {
		return nil, fmt.Errorf("%w (lock %s)", ErrLocked, f.lock)
	}
	return lock, nil
}

// inflate writes the ballast file, unless it is there.
func (f files) inflate() error {
	if info, err := os.Stat(f.ballast); err == nil && info.Size() == ballastBytes {
		return nil
	}
	file, err := os.OpenFile(f.ballast, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	// Zeros would be free on a file system that compresses or knows holes.
	block := make([]byte, 64<<10)
	x := uint32(1)
	for i := range block {
		x = x*1664525 + 1013904223
		block[i] = byte(x >> 24)
	}
	for range ballastBytes / len(block) {
		if _, err = file.Write(block); err != nil {
			break
		}
	}
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return errors.Join(err, os.Remove(f.ballast))
	}
	return nil
}

// deflate gives the ballast's space to whoever needs it, and reports whether
// there was any.
func (f files) deflate() bool { return os.Remove(f.ballast) == nil }

// free returns the bytes that the file system has for an ordinary user.
func (f files) free() int64 {
	var fs unix.Statfs_t
	if err := unix.Statfs(f.dir(), &fs); err != nil {
		return 0
	}
	return int64(fs.Bavail) * int64(fs.Bsize)
}

// diskFull reports whether err says that there is no space.
func diskFull(err error) bool {
	return sqliteCode(err) == codeFull || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

// exists reports whether there is anything at path.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

func (f files) dir() string { return filepath.Dir(f.db) }
