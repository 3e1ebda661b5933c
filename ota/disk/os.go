package disk

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// OS is a folder of this machine.
type OS struct{ dir *os.File }

// Open opens a folder. A symbolic link to it is followed, so the path's owner
// has to be trusted; from there on none is.
func Open(dir string) (*OS, error) {
	f, err := os.OpenFile(dir, unix.O_DIRECTORY|unix.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	return &OS{f}, nil
}

// Close gives the folder up. Files that were opened stay open.
func (d *OS) Close() error { return d.dir.Close() }

// Open implements FS.
func (d *OS) Open(name string) (File, error) {
	return d.open(name, unix.O_RDONLY, 0)
}

// Create implements FS.
func (d *OS) Create(name string, perm fs.FileMode) (File, error) {
	f, err := d.open(name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, perm)
	if err != nil {
		return nil, err
	}
	// The umask had a say so far.
	if err := f.Chmod(perm); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Append implements FS.
func (d *OS) Append(name string, perm fs.FileMode) (File, error) {
	return d.open(name, unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND, perm)
}

// Mkdir implements FS.
func (d *OS) Mkdir(name string, perm fs.FileMode) error {
	return d.in("mkdir", name, func(dir int, base string) error {
		if err := unix.Mkdirat(dir, base, uint32(perm.Perm())); err != nil {
			return err
		}
		made, err := openDir(dir, base)
		if err != nil {
			return err
		}
		defer unix.Close(made)
		return unix.Fchmod(made, uint32(perm.Perm()))
	})
}

// Remove implements FS.
func (d *OS) Remove(name string) error {
	return d.in("remove", name, func(dir int, base string) error {
		err := unix.Unlinkat(dir, base, 0)
		if errors.Is(err, unix.EISDIR) {
			err = unix.Unlinkat(dir, base, unix.AT_REMOVEDIR)
		}
		return err
	})
}

// Rename implements FS.
func (d *OS) Rename(oldName, newName string) error {
	err := d.in("rename", oldName, func(dir int, base string) error {
		if path.Dir(oldName) != path.Dir(newName) || !fs.ValidPath(newName) {
			return fs.ErrInvalid
		}
		return unix.Renameat(dir, base, dir, path.Base(newName))
	})
	return asLinkError(err, "rename", oldName, newName)
}

// Symlink implements FS.
func (d *OS) Symlink(target, name string) error {
	err := d.in("symlink", name, func(dir int, base string) error {
		return unix.Symlinkat(target, dir, base)
	})
	return asLinkError(err, "symlink", target, name)
}

// asLinkError keeps both names in err, which is nil or an *fs.PathError.
func asLinkError(err error, op, oldName, newName string) error {
	var p *fs.PathError
	if !errors.As(err, &p) {
		return err
	}
	return &os.LinkError{Op: op, Old: oldName, New: newName, Err: p.Err}
}

// Readlink implements FS.
func (d *OS) Readlink(name string) (target string, err error) {
	err = d.in("readlink", name, func(dir int, base string) error {
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(dir, base, buf)
		if err != nil {
			return err
		}
		target = string(buf[:n])
		return nil
	})
	return target, err
}

// Lstat implements FS.
func (d *OS) Lstat(name string) (info fs.FileInfo, err error) {
	err = d.in("lstat", name, func(dir int, base string) error {
		fd, err := unix.Openat(dir, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), name)
		defer f.Close()
		info, err = f.Stat()
		return err
	})
	return info, err
}

// ReadDir implements FS.
func (d *OS) ReadDir(name string) (entries []fs.DirEntry, err error) {
	err = d.in("readdir", name, func(dir int, base string) error {
		fd, err := openDir(dir, base)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), name)
		defer f.Close()
		list, err := f.ReadDir(-1)
		if err != nil {
			return err
		}
		for _, e := range list {
			// The file system may not say what an entry is. Asking os would
			// look below the working directory.
			info, err := d.Lstat(path.Join(name, e.Name()))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			} else if err != nil {
				return err
			}
			entries = append(entries, fs.FileInfoToDirEntry(info))
		}
		slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
		return nil
	})
	return entries, err
}

// SyncDir implements FS.
func (d *OS) SyncDir(name string) error {
	return d.in("syncdir", name, func(dir int, base string) error {
		fd, err := openDir(dir, base)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Fsync(fd)
	})
}

// open opens a regular file.
func (d *OS) open(name string, flags int, perm fs.FileMode) (f *file, err error) {
	err = d.in("open", name, func(dir int, base string) error {
		// Without O_NONBLOCK the open of a FIFO would wait for its other end.
		fd, err := unix.Openat(dir, base, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, uint32(perm.Perm()))
		if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.EISDIR) {
			return ErrNotRegular
		} else if err != nil {
			return err
		}
		var st unix.Stat_t
		err = unix.Fstat(fd, &st)
		if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
			err = ErrNotRegular
		}
		if err == nil {
			err = unix.SetNonblock(fd, false)
		}
		if err != nil {
			unix.Close(fd)
			return err
		}
		f = &file{os.NewFile(uintptr(fd), name)}
		return nil
	})
	return f, err
}

// in calls do with the folder that name is in and the last element of name. Its
// error comes back as an *fs.PathError.
func (d *OS) in(op, name string, do func(dir int, base string) error) error {
	fail := func(err error) error { return &fs.PathError{Op: op, Path: name, Err: err} }
	if !fs.ValidPath(name) {
		return fail(fs.ErrInvalid)
	}
	dir, base := int(d.dir.Fd()), name
	for {
		parent, rest, more := strings.Cut(base, "/")
		if !more {
			break
		}
		next, err := openDir(dir, parent)
		if dir != int(d.dir.Fd()) {
			unix.Close(dir)
		}
		if err != nil {
			return fail(err)
		}
		dir, base = next, rest
	}
	var err error
	for err = do(dir, base); errors.Is(err, unix.EINTR); {
		err = do(dir, base)
	}
	if dir != int(d.dir.Fd()) {
		unix.Close(dir)
	}
	if err != nil {
		return fail(err)
	}
	return nil
}

// openDir opens a folder, and nothing else, not even through a link.
func openDir(dir int, name string) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP):
			return 0, ErrNotRegular
		}
		return fd, err
	}
}

// file is an open regular file.
type file struct{ *os.File }

// Sync implements File.
func (f *file) Sync() error {
	if err := f.File.Sync(); err != nil {
		return err
	}
	// Now that nothing of it is dirty, all of it can leave the memory. This is
	// only advice: without it a check reads what was meant to be written.
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	return nil
}
