package ingest

import (
	"cmp"
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/pyvorin/pyvorin-edge/internal/atomicfile"
)

// Errors of Add. Both pass: the sender keeps the batch and tries again.
var (
	ErrFull        = errors.New("the database is full")
	ErrUnavailable = errors.New("the database cannot be written")
)

// DefaultRetention is how long readings are kept.
const DefaultRetention = 30 * 24 * time.Hour

// StoreOptions are what a Store needs beside its path.
type StoreOptions struct {
	Retention time.Duration // since receipt; 0 means DefaultRetention
	Log       zerolog.Logger
}

// Store keeps what devices sent. Its methods are safe for concurrent use; Add
// works only while Run does.
type Store struct {
	retention time.Duration
	log       zerolog.Logger
	now       func() time.Time

	db     *sql.DB   // one connection, the only one that writes
	conn   *sql.Conn // that connection; the writer goroutine owns it once Run started
	stmts  statements
	reader *sql.DB // query only

	jobs    chan *job
	chores  chan chore
	stopped chan struct{} // closed when Run returns

	failure atomic.Pointer[error] // of the last transaction that failed; nil once a batch was stored after it
}

//go:embed schema/*.sql
var schemaFiles embed.FS

// OpenStore opens the database at path, or creates it (mode 0600), and brings
// its schema up to date. The folder must exist. Close it after Run returned.
func OpenStore(path string, o StoreOptions) (*Store, error) {
	s := &Store{
		retention: cmp.Or(o.Retention, DefaultRetention),
		log:       o.Log.With().Str("component", "store").Logger(),
		now:       time.Now,
		jobs:      make(chan *job),
		chores:    make(chan chore),
		stopped:   make(chan struct{}),
	}
	if err := s.open(path); err != nil {
		s.Close()
		return nil, fmt.Errorf("open the database %s: %w", path, err)
	}
	return s, nil
}

func (s *Store) open(path string) (err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Close(), atomicfile.SyncDir(filepath.Dir(path))); err != nil {
		return err
	}
	dsn := func(pragmas ...string) string {
		query := url.Values{"_pragma": append(pragmas, "busy_timeout(5000)")}
		return (&url.URL{Scheme: "file", Path: path, RawQuery: query.Encode()}).String()
	}
	if s.db, err = sql.Open("sqlite", dsn("journal_mode(WAL)", "synchronous(FULL)", "cache_size(-16384)")); err != nil {
		return err
	}
	s.db.SetMaxOpenConns(1)
	ctx := context.Background()
	if s.conn, err = s.db.Conn(ctx); err != nil {
		return err
	}
	if err := s.checkPragmas(ctx); err != nil {
		return err
	}
	if err := s.migrate(ctx); err != nil {
		return err
	}
	if err := s.stmts.prepare(ctx, s.conn); err != nil {
		return err
	}
	if s.reader, err = sql.Open("sqlite", dsn("query_only(1)", "cache_size(-2048)")); err != nil {
		return err
	}
	s.reader.SetMaxOpenConns(4)
	return nil
}

// checkPragmas makes sure that the driver applied what durability rests on: it
// ignores some settings without an error.
func (s *Store) checkPragmas(ctx context.Context) error {
	var journal string
	var synchronous int
	if err := s.conn.QueryRowContext(ctx, "PRAGMA journal_mode").Scan(&journal); err != nil {
		return err
	}
	if err := s.conn.QueryRowContext(ctx, "PRAGMA synchronous").Scan(&synchronous); err != nil {
		return err
	}
	if journal != "wal" || synchronous != 2 {
		return fmt.Errorf("the file system does not allow durable commits (journal_mode %s, synchronous %d): put the database on a local disk", journal, synchronous)
	}
	return nil
}

// migrate applies the schema files that the database has not seen, each in a
// transaction of its own. PRAGMA user_version counts them.
func (s *Store) migrate(ctx context.Context) error {
	files, err := fs.Glob(schemaFiles, "schema/*.sql")
	if err != nil {
		return err
	}
	var version int
	if err := s.conn.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return err
	}
	if version > len(files) {
		return fmt.Errorf("it was written by a newer version (schema %d, this one knows %d): use that version, or another --database", version, len(files))
	}
	for ; version < len(files); version++ {
		text, err := schemaFiles.ReadFile(files[version])
		if err != nil {
			return err
		}
		step := fmt.Sprintf("BEGIN IMMEDIATE; %s; PRAGMA user_version = %d; COMMIT", text, version+1)
		if _, err := s.conn.ExecContext(ctx, step); err != nil {
			return fmt.Errorf("apply %s: %w", files[version], err)
		}
	}
	return nil
}

// Run writes what Add brings and prunes what is too old, until ctx ends. Call
// it once.
func (s *Store) Run(ctx context.Context) error {
	defer close(s.stopped)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { s.write(ctx); return nil })
	group.Go(func() error { s.pruneOften(ctx); return nil })
	return group.Wait()
}

// Close releases the files.
func (s *Store) Close() error {
	var errs []error
	if s.reader != nil {
		errs = append(errs, s.reader.Close())
	}
	if s.conn != nil {
		errs = append(errs, s.conn.Close())
	}
	if s.db != nil {
		errs = append(errs, s.db.Close())
	}
	return errors.Join(errs...)
}

// Failure returns why the database cannot be written, or nil when it can as far
// as is known.
func (s *Store) Failure() error {
	if err := s.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// writeError adds ErrFull or ErrUnavailable to err.
func writeError(err error) error {
	var sqliteErr *sqlite.Error
	if errors.As(err, &sqliteErr) && sqliteErr.Code()&0xff == sqlite3.SQLITE_FULL {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}
