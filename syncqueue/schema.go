package syncqueue

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// ErrFormat says that a queue file is of a format that this version does not
// know. Open sets such a file aside, and most of what it holds with it.
var ErrFormat = errors.New("the queue file has another format")

// CheckFormat looks whether this version can work with the queue file at path:
// a new release asks before it takes a device over. It changes nothing and
// reads no reading, and an agent may have the file open. The error is
// fs.ErrNotExist when there is no file, and wraps ErrFormat when Open would not
// take it; any other comes of damage, which Open deals with.
func CheckFormat(path string) (err error) {
	if _, err := os.Stat(path); err != nil {
		return err
	}
	mode := "ro"
	if _, err := os.Stat(path + "-wal"); errors.Is(err, fs.ErrNotExist) {
		mode = "ro&immutable=1" // all is in the file; SQLite would make a WAL to look for more
	}
	s := &store{path: path}
	if s.writeDB, s.write, err = connect(path, mode, "query_only=ON"); err != nil {
		return fmt.Errorf("open %s for reading: %w", path, err)
	}
	defer func() { err = errors.Join(err, s.close()) }()
	var version, tables int
	if err := s.write.QueryRowContext(bg, "SELECT (SELECT user_version FROM pragma_user_version), count(*) FROM sqlite_schema").Scan(&version, &tables); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	switch {
	case version == 0 && tables == 0:
		return nil // its first commit is still to come
	case version != formatVersion:
		return fmt.Errorf("%w: it is %d, and this version writes %d", ErrFormat, version, formatVersion)
	}
	// Statements that are only compiled show whether every column is there.
	switch err := s.prepare(); {
	case err == nil:
		return nil
	case errors.As(err, new(damage)):
		return fmt.Errorf("%w: %w", ErrFormat, err)
	default:
		return fmt.Errorf("read %s: %w", path, err)
	}
}
