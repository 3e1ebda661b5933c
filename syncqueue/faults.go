package syncqueue

import (
	"errors"

	"modernc.org/sqlite"
)

// damage is a file that is not, or no longer, a sound queue file.
type damage string

func (d damage) Error() string { return "the queue file is damaged: " + string(d) }

// damagedSchema makes an error of our pragmas and statements one of the file: on
// our own schema they are right.
func damagedSchema(err error) error {
	if sqliteCode(err) == codeError {
		return damage(err.Error())
	}
	return err
}

// Result codes of SQLite that decide what happens next.
const (
	codeError   = 1
	codeCorrupt = 11
	codeFull    = 13
	codeNotADB  = 26
)

// sqliteCode returns the primary result code in err, 0 when there is none.
func sqliteCode(err error) int {
	var e *sqlite.Error
	if errors.As(err, &e) {
		return e.Code() & 0xff
	}
	return 0
}

// damaged reports whether err says that the file's content cannot be relied on.
func damaged(err error) bool {
	var d damage
	if errors.As(err, &d) {
		return true
	}
	code := sqliteCode(err)
	return code == codeCorrupt || code == codeNotADB
}
