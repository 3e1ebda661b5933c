// Package disk is the file operations that an update is made of, one method
// each, below one folder.
//
// The parties are those who change what a device runs (ota/bundle,
// ota/watchdog), and their tests, which put a wrapper around an FS that stops
// dead before operation N, or forgets what was not synced, as a power cut does.
// So nothing here does two things that a cut could come between, but for the
// helpers in helpers.go, which are made of the others.
//
// Names are relative to the folder, with slashes, in the form that fs.ValidPath
// asks for. No operation follows a symbolic link, in no part of a name, and
// none waits for a FIFO: some of the folders belong to a less trusted user, who
// may replace what lies there at any instant.
package disk

import (
	"errors"
	"io"
	"io/fs"
)

// FS is a folder and what is below it. Methods are safe for concurrent use.
// Their errors are *fs.PathError or *os.LinkError.
type FS interface {
	// Open opens a regular file for reading. Anything else is ErrNotRegular.
	Open(name string) (File, error)

	// Create makes a new file with exactly the mode perm and opens it for
	// writing. It fails with fs.ErrExist when name is there, whatever it is.
	Create(name string, perm fs.FileMode) (File, error)

	// Append opens a regular file for writing at its end, and makes it with the
	// mode perm when it is not there.
	Append(name string, perm fs.FileMode) (File, error)

	// Mkdir makes a folder with exactly the mode perm.
	Mkdir(name string, perm fs.FileMode) error

	// Remove removes a file, a link or an empty folder.
	Remove(name string) error

	// Rename replaces newName by oldName. Both lie in the same folder.
	Rename(oldName, newName string) error

	// Symlink makes name a link to target, which is not looked at.
	Symlink(target, name string) error

	Readlink(name string) (string, error)
	Lstat(name string) (fs.FileInfo, error)

	// ReadDir lists a folder, sorted by name.
	ReadDir(name string) ([]fs.DirEntry, error)

	// SyncDir makes what was made, renamed and removed in the folder durable.
	SyncDir(name string) error
}

// File is an open file.
type File interface {
	io.Reader
	io.ReaderAt
	io.Writer
	io.Closer

	Stat() (fs.FileInfo, error)

	// Sync makes the content durable and, where the system lets it, has the
	// next reader get it from the medium instead of from memory.
	Sync() error
}

// ErrNotRegular says that a name is a link, a folder or a special file where a
// regular file, or a folder on the way to it, was expected.
var ErrNotRegular = errors.New("not a regular file or folder")
