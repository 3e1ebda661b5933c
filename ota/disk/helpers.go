package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
)

// ReadFile returns the content of a file of at most limit bytes.
func ReadFile(fsys FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("read %s: larger than %d bytes", name, limit)
	}
	return data, nil
}

// WriteNew makes a file with this content, and syncs it. Its folder is not
// synced.
func WriteNew(fsys FS, name string, data []byte, perm fs.FileMode) error {
	f, err := fsys.Create(name, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// WriteFile replaces a file whole and durably. A power cut leaves the old
// content or the new, and perhaps NAME.new, which the next WriteFile removes.
func WriteFile(fsys FS, name string, data []byte, perm fs.FileMode) error {
	return replace(fsys, name, func(temp string) error { return WriteNew(fsys, temp, data, perm) })
}

// ReplaceLink makes name a link to target, in place of what it was, in one
// durable step.
func ReplaceLink(fsys FS, target, name string) error {
	return replace(fsys, name, func(temp string) error { return fsys.Symlink(target, temp) })
}

func replace(fsys FS, name string, write func(temp string) error) error {
	temp := name + ".new"
	if err := fsys.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := write(temp); err != nil {
		return err
	}
	if err := fsys.Rename(temp, name); err != nil {
		return err
	}
	return fsys.SyncDir(path.Dir(name))
}

// RemoveAll removes name and what is below it, if it is there.
func RemoveAll(fsys FS, name string) error {
	info, err := fsys.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if info.IsDir() {
		entries, err := fsys.ReadDir(name)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := RemoveAll(fsys, path.Join(name, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := fsys.Remove(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// MkdirAll makes the folder name and those it is in, where they are not there.
func MkdirAll(fsys FS, name string, perm fs.FileMode) error {
	if name == "." {
		return nil
	}
	if err := MkdirAll(fsys, path.Dir(name), perm); err != nil {
		return err
	}
	err := fsys.Mkdir(name, perm)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := fsys.Lstat(name)
	if err == nil && !info.IsDir() {
		err = &fs.PathError{Op: "mkdir", Path: name, Err: ErrNotRegular}
	}
	return err
}

// Sub returns the folder dir of fsys, which need not be there yet. Like all
// names it may not lead through a link.
func Sub(fsys FS, dir string) FS { return sub{fsys, dir} }

type sub struct {
	fsys FS
	dir  string
}

// name is where name is in the outer folder. What is not valid, such as a
// name that would lead out, stays so.
func (s sub) name(name string) string {
	if !fs.ValidPath(name) {
		return "../" + name
	}
	return path.Join(s.dir, name)
}

func (s sub) Open(name string) (File, error) { return s.fsys.Open(s.name(name)) }
func (s sub) Create(name string, perm fs.FileMode) (File, error) {
	return s.fsys.Create(s.name(name), perm)
}
func (s sub) Append(name string, perm fs.FileMode) (File, error) {
	return s.fsys.Append(s.name(name), perm)
}
func (s sub) Mkdir(name string, perm fs.FileMode) error { return s.fsys.Mkdir(s.name(name), perm) }
func (s sub) Remove(name string) error                  { return s.fsys.Remove(s.name(name)) }
func (s sub) Rename(oldName, newName string) error {
	return s.fsys.Rename(s.name(oldName), s.name(newName))
}
func (s sub) Symlink(target, name string) error          { return s.fsys.Symlink(target, s.name(name)) }
func (s sub) Readlink(name string) (string, error)       { return s.fsys.Readlink(s.name(name)) }
func (s sub) Lstat(name string) (fs.FileInfo, error)     { return s.fsys.Lstat(s.name(name)) }
func (s sub) ReadDir(name string) ([]fs.DirEntry, error) { return s.fsys.ReadDir(s.name(name)) }
func (s sub) SyncDir(name string) error                  { return s.fsys.SyncDir(s.name(name)) }
