package command

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"modernc.org/sqlite"

	"github.com/pyvorin/pyvorin-edge/internal/atomicfile"
)

// formatVersion is PRAGMA user_version of a complete state.db.
const formatVersion = 1

// schema is state.db. Times are microseconds since 1970.
const schema = `
CREATE TABLE commands(
	key TEXT NOT NULL UNIQUE, name TEXT NOT NULL, issued INTEGER NOT NULL, expires INTEGER NOT NULL,
	state TEXT NOT NULL, runs INTEGER NOT NULL, at INTEGER NOT NULL,
	series TEXT NOT NULL, topic TEXT NOT NULL, signed INTEGER NOT NULL, body BLOB);
CREATE TABLE reports(seq INTEGER PRIMARY KEY, keep INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE meta(key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID`

// bg is the context of statements: a transaction is never interrupted midway.
var bg = context.Background()

// damage is a file that is not, or no longer, a sound state.db.
type damage string

func (d damage) Error() string { return "the ledger is damaged: " + string(d) }

// damaged reports whether err says that the file's content cannot be relied on.
func damaged(err error) bool {
	if errors.As(err, new(damage)) {
		return true
	}
	// With our own schema, an error of a statement (1) is one of the file too.
	const codeError, codeCorrupt, codeNotADB = 1, 11, 26
	var e *sqlite.Error
	return errors.As(err, &e) && slices.Contains([]int{codeError, codeCorrupt, codeNotADB}, e.Code()&0xff)
}

// openStore opens or creates the file at path and checks it. In an empty one
// begin writes what a new ledger starts with. An error for which damaged is true
// means that the file is to be set aside.
func openStore(path string, begin func(tx *sql.Tx) error) (*sql.DB, error) {
	// The driver would create it readable for all.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	u := url.URL{Scheme: "file", Path: abs, RawQuery: "mode=rw&_txlock=immediate"}
	// page_size must come before the file becomes a WAL file: after it, it is
	// ignored without an error.
	for _, p := range []string{
		"busy_timeout(5000)", "page_size(1024)", "journal_mode(WAL)", "synchronous(FULL)",
		"wal_autocheckpoint(500)", "journal_size_limit(1048576)", "cache_size(-512)", "temp_store(MEMORY)",
	} {
		u.RawQuery += "&_pragma=" + p
	}
	db, err := sql.Open("sqlite", u.String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	if err := checkStore(db, begin); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", path, err), db.Close())
	}
	return db, nil
}

// checkStore creates the tables in an empty file, and otherwise makes sure that
// the file is sound and ours.
func checkStore(db *sql.DB, begin func(tx *sql.Tx) error) error {
	var verdict, journal, sync string
	if err := db.QueryRowContext(bg, "PRAGMA quick_check(1)").Scan(&verdict); err != nil {
		return fmt.Errorf("quick_check: %w", err)
	}
	if verdict != "ok" {
		return damage("quick_check: " + verdict)
	}
	var version, tables int
	if err := db.QueryRowContext(bg, "SELECT (SELECT user_version FROM pragma_user_version), count(*) FROM sqlite_schema").Scan(&version, &tables); err != nil {
		return err
	}
	switch {
	case version == 0 && tables == 0:
		if err := inTx(db, func(tx *sql.Tx) error {
			if _, err := tx.ExecContext(bg, fmt.Sprintf("%s; PRAGMA user_version=%d", schema, formatVersion)); err != nil {
				return err
			}
			return begin(tx)
		}); err != nil {
			return fmt.Errorf("create tables: %w", err)
		}
	case version != formatVersion:
		return damage(fmt.Sprintf("it has format %d, and this version knows %d", version, formatVersion))
	}
	if err := db.QueryRowContext(bg, "SELECT (SELECT journal_mode FROM pragma_journal_mode), (SELECT synchronous FROM pragma_synchronous)").Scan(&journal, &sync); err != nil {
		return err
	}
	if journal != "wal" || sync != "2" {
		return fmt.Errorf("this file system gives no durable ledger: journal_mode is %s and synchronous is %s, wanted wal and 2", journal, sync)
	}
	return nil
}

// inTx runs fn as one transaction.
func inTx(db *sql.DB, fn func(tx *sql.Tx) error) error {
	tx, err := db.BeginTx(bg, nil)
	if err != nil {
		return err
	}
	if err := fn(tx); err != nil {
		// It fails when SQLite has already rolled back by itself.
		_ = tx.Rollback()
		return err
	}
	return tx.Commit()
}

// keepQuarantined is how many damaged files are kept for inspection.
const keepQuarantined = 2

// setAside renames the three files of the database at path. The WAL goes first:
// left behind, it would be applied to the file that takes the place.
func setAside(path string, now time.Time) error {
	stem := strings.TrimSuffix(path, ".db") + ".corrupt-"
	name := stem + now.UTC().Format("20060102T150405.000Z") + ".db"
	for _, suffix := range []string{"-wal", "-shm", ""} {
		if err := os.Rename(path+suffix, name+suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := atomicfile.SyncDir(filepath.Dir(path)); err != nil {
		return err
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return err
	}
	var found []string // sorted, so by time
	for _, e := range entries {
		if full := filepath.Join(filepath.Dir(path), e.Name()); strings.HasPrefix(full, stem) && strings.HasSuffix(full, ".db") && full != name {
			found = append(found, full)
		}
	}
	var errs []error
	for _, old := range found[:max(0, len(found)+1-keepQuarantined)] {
		for _, suffix := range []string{"-wal", "-shm", ""} {
			if err := os.Remove(old + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}
