package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// inbox is the agent's folder of downloads and requests, held open: the agent's
// user, who may replace it by a link, cannot have root write elsewhere.
type inbox struct{ dir *os.File }

func (u *updates) openInbox() (*inbox, error) {
	name := u.home().Inbox()
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil, fmt.Errorf("there is no %s: start the agent with 'pyvorin-edge supervise', or install the package", name)
	case errors.Is(err, unix.EACCES):
		return nil, fmt.Errorf("%s is the agent's: run this as root (sudo), or as the agent's user", name)
	case err != nil:
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return &inbox{os.NewFile(uintptr(fd), name)}, nil
}

// Close gives the folder up.
func (b *inbox) Close() error { return b.dir.Close() }

// path is where the open folder can be reached, whatever has its name now.
func (b *inbox) path() string { return fmt.Sprintf("/proc/self/fd/%d", b.dir.Fd()) }

// remove removes files, those that there are.
func (b *inbox) remove(names ...string) error {
	for _, name := range names {
		err := unix.Unlinkat(int(b.dir.Fd()), name, 0)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return &fs.PathError{Op: "remove", Path: filepath.Join(b.dir.Name(), name), Err: err}
		}
	}
	return nil
}

// handOver gives files that root made to the inbox's owner, who goes on with
// them and cleans up.
func (b *inbox) handOver(names ...string) error {
	info, err := b.dir.Stat()
	if err != nil {
		return err
	}
	owner := info.Sys().(*syscall.Stat_t)
	if os.Geteuid() != 0 || owner.Uid == 0 {
		return nil
	}
	for _, name := range names {
		// By then the name may lead to another file, which is not given away.
		fd, err := unix.Openat(int(b.dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return &fs.PathError{Op: "open", Path: filepath.Join(b.dir.Name(), name), Err: err}
		}
		var st unix.Stat_t
		err = unix.Fstat(fd, &st)
		if err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink == 1 {
			err = unix.Fchown(fd, int(owner.Uid), int(owner.Gid))
		}
		unix.Close(fd)
		if err != nil {
			return &fs.PathError{Op: "hand over", Path: filepath.Join(b.dir.Name(), name), Err: err}
		}
	}
	return nil
}
