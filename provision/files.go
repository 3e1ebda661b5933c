package provision

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pyvorin/pyvorin-edge/internal/atomicfile"
	"github.com/pyvorin/pyvorin-edge/ota/disk"
)

// Owner is whom a file belongs to.
type Owner struct{ UID, GID int }

// folder is one that provisioning reads and writes, perhaps one that is not
// there. What lies in the base dir may be the agent's, whose code is not to be
// trusted with root's power: nothing here follows a link.
type folder struct {
	dir string
	fs  disk.FS // nil: it is not there
}

func (f *folder) read(name string, limit int64) ([]byte, error) {
	if f.fs == nil {
		return nil, fs.ErrNotExist
	}
	return disk.ReadFile(f.fs, name, limit)
}

func (f *folder) lstat(name string) (fs.FileInfo, error) {
	if f.fs == nil {
		return nil, fs.ErrNotExist
	}
	return f.fs.Lstat(name)
}

func (f *folder) close() {
	if c, ok := f.fs.(*disk.OS); ok {
		c.Close()
	}
}

// file is a file as it shall be.
type file struct {
	in    *folder
	name  string
	data  []byte
	perm  fs.FileMode
	owner *Owner // nil: whoever runs this
}

// isThere reports whether the file is as it shall be.
func (f file) isThere() bool {
	data, err := f.in.read(f.name, int64(len(f.data)))
	if err != nil || !bytes.Equal(data, f.data) {
		return false
	}
	info, err := f.in.lstat(f.name)
	return err == nil && info.Mode().Perm() == f.perm && belongsTo(info, f.owner)
}

func belongsTo(info fs.FileInfo, owner *Owner) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return owner == nil || ok && int(st.Uid) == owner.UID && int(st.Gid) == owner.GID
}

// replace writes the file whole and durably. Its owner and mode are right
// before it takes its name.
func (f file) replace() (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("replace %s: %w", filepath.Join(f.in.dir, f.name), err)
		}
	}()
	temp := f.name + ".new"
	if err := f.in.fs.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := f.writeNew(temp); err != nil {
		return err
	}
	if err := f.in.fs.Rename(temp, f.name); err != nil {
		return err
	}
	return f.in.fs.SyncDir(path.Dir(f.name))
}

func (f file) writeNew(name string) (err error) {
	out, err := f.in.fs.Create(name, f.perm)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if f.owner != nil {
		of, ok := out.(interface{ Chown(uid, gid int) error })
		if !ok {
			return fmt.Errorf("internal error: a %T has no owner", out)
		}
		if err := of.Chown(f.owner.UID, f.owner.GID); err != nil {
			return err
		}
	}
	if _, err := out.Write(f.data); err != nil {
		return err
	}
	return out.Sync()
}

// subfolder is a folder in the base dir as it shall be.
type subfolder struct {
	in    *folder
	name  string
	perm  fs.FileMode
	owner *Owner
}

func (s subfolder) isThere() bool {
	info, err := s.in.lstat(s.name)
	return err == nil && info.IsDir() && info.Mode().Perm() == s.perm && belongsTo(info, s.owner)
}

func (s subfolder) make() error {
	err := s.in.fs.Mkdir(s.name, s.perm)
	if err == nil {
		err = s.in.fs.SyncDir(".")
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make %s: %w", filepath.Join(s.in.dir, s.name), err)
	}
	return own(filepath.Join(s.in.dir, s.name), unix.O_NOFOLLOW, s.perm, s.owner)
}

// own gives a folder its owner and mode, after a power cut came between, too.
func own(dir string, flags int, mode fs.FileMode, owner *Owner) error {
	d, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|flags, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", dir, err)
	}
	defer d.Close()
	if owner != nil {
		if err := d.Chown(owner.UID, owner.GID); err != nil {
			return fmt.Errorf("set the owner of %s: %w", dir, err)
		}
	}
	if err := d.Chmod(mode); err != nil {
		return fmt.Errorf("set the mode of %s: %w", dir, err)
	}
	return nil
}

// makeBase makes the base dir.
func makeBase(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make base dir: %w (choose another with --base-dir)", err)
	}
	return atomicfile.SyncDir(filepath.Dir(dir))
}

const (
	lockPatience = 10 * time.Second
	lockPoll     = 20 * time.Millisecond
)

// lock keeps two provisionings of one base dir apart: at a first boot,
// cloud-init and a service may both begin one.
func lock(ctx context.Context, base string) (release func(), err error) {
	name := filepath.Join(base, lockFile)
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the base dir: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	for {
		switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
		case err == nil:
			return func() { f.Close() }, nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			return nil, errors.Join(fmt.Errorf("lock %s: %w", name, err), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("another provisioning of %s is under way", base), f.Close())
		case <-time.After(lockPoll):
		}
	}
}
