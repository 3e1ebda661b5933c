package syncqueue

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"

	_ "modernc.org/sqlite" // the driver
)

// formatVersion is PRAGMA user_version of a complete queue file.
const formatVersion = 1

// schema is the queue file; docs/formats.md says what the columns mean. It is
// terse so that SQLite's copy of it fits into the first page: with it in pages
// of its own, more single pages could cost the whole file. payload is the last
// column so that the scan at open, and everything else that does not need it,
// never touches its overflow pages. There is no index beside the primary key.
const schema = `CREATE TABLE frames(first INTEGER PRIMARY KEY,n,prio,ts0,ts1,encoding,clock,boot,offset,sum,payload);
CREATE TABLE dead(seq INTEGER PRIMARY KEY,at,prio,status,reason,line);
CREATE TABLE loss(kind PRIMARY KEY,n,exact,first,last)WITHOUT ROWID;
CREATE TABLE meta(key PRIMARY KEY,value)WITHOUT ROWID`

// durability is how much a commit waits for.
type durability string

const (
	durable durability = "FULL"   // fsync before the commit returns
	lazy    durability = "NORMAL" // a power cut may undo it; only for what is harmless to repeat
)

// store is the open queue file: one connection that writes, used by the writer
// goroutine alone, and one that reads, used under readMu and never held.
type store struct {
	path string

	writeDB *sql.DB
	write   *sql.Conn
	mode    durability

	begin, commit, rollback    *sql.Stmt
	insert, remove, settle     *sql.Stmt
	putDead, dropDead, putLoss *sql.Stmt
	putMeta                    *sql.Stmt

	readMu  sync.Mutex
	readDB  *sql.DB
	read    *sql.Conn
	payload *sql.Stmt
}

// bg is the context of statements: a transaction is never interrupted midway.
var bg = context.Background()

// dsn names the file at path for the driver, whatever characters are in it.
func dsn(path, mode string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		abs = path
	}
	u := url.URL{Scheme: "file", Path: abs, RawQuery: "mode=" + mode}
	return u.String()
}

// connect opens one connection and runs the pragmas in the order given.
func connect(path, mode string, pragmas ...string) (*sql.DB, *sql.Conn, error) {
	db, err := sql.Open("sqlite", dsn(path, mode))
	if err != nil {
		return nil, nil, err
	}
	db.SetMaxOpenConns(1)
	conn, err := db.Conn(bg)
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	for _, p := range append([]string{"busy_timeout=5000"}, pragmas...) {
		if _, err := conn.ExecContext(bg, "PRAGMA "+p); err != nil {
			return nil, nil, errors.Join(fmt.Errorf("pragma %s: %w", p, err), conn.Close(), db.Close())
		}
	}
	return db, conn, nil
}

// openStore opens or creates the queue file at path, and checks it. An error
// for which damaged is true means that the file is to be set aside.
func openStore(path string) (_ *store, err error) {
	// The driver would create it readable for all.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	s := &store{path: path, mode: durable}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	// page_size must come before the file becomes a WAL file: after it, it is
	// ignored without an error.
	s.writeDB, s.write, err = connect(path, "rwc",
		"page_size=1024", "journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=1000", "cache_size=-1024", "temp_store=MEMORY")
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, damagedSchema(err))
	}
	if err := s.checkFile(); err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	if err := s.prepare(); err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	s.readDB, s.read, err = connect(path, "ro", "cache_size=-256", "query_only=ON")
	if err != nil {
		return nil, fmt.Errorf("open %s for reading: %w", path, err)
	}
	s.payload, err = s.read.PrepareContext(bg, `SELECT first, n, prio, encoding, clock, boot, offset, sum, payload FROM frames WHERE first BETWEEN ? AND ? AND n > 0 ORDER BY first`)
	if err != nil {
		return nil, fmt.Errorf("open %s for reading: %w", path, err)
	}
	return s, nil
}

// checkFile creates the tables in an empty file, and otherwise makes sure that
// the file is sound and ours.
func (s *store) checkFile() error {
	var verdict string
	if err := s.write.QueryRowContext(bg, "PRAGMA quick_check(1)").Scan(&verdict); err != nil {
		return fmt.Errorf("quick_check: %w", err)
	}
	if verdict != "ok" {
		return damage("quick_check: " + verdict)
	}
	var version, tables int
	if err := s.write.QueryRowContext(bg, "SELECT (SELECT user_version FROM pragma_user_version), count(*) FROM sqlite_schema").Scan(&version, &tables); err != nil {
		return err
	}
	switch {
	case version == 0 && tables == 0:
		create := fmt.Sprintf("BEGIN IMMEDIATE; %s; PRAGMA user_version=%d; COMMIT", schema, formatVersion)
		if _, err := s.write.ExecContext(bg, create); err != nil {
			return fmt.Errorf("create tables: %w", err)
		}
	case version != formatVersion:
		return damage(fmt.Sprintf("it has format %d, and this version writes format %d", version, formatVersion))
	}
	var pageSize, sync, journal string
	for pragma, value := range map[string]*string{"page_size": &pageSize, "synchronous": &sync, "journal_mode": &journal} {
		if err := s.write.QueryRowContext(bg, "PRAGMA "+pragma).Scan(value); err != nil {
			return err
		}
	}
	// SQLite would open it all the same, and refuse every change.
	if head, err := readHead(s.path); err == nil && head[18] > 2 {
		return damage("its header names a way of writing that there is not")
	}
	if pageSize != "1024" {
		return damage("it has pages of " + pageSize + " bytes")
	}
	if journal != "wal" || sync != "2" {
		return fmt.Errorf("this file system gives no durable queue: journal_mode is %s and synchronous is %s, wanted wal and 2", journal, sync)
	}
	return nil
}

func (s *store) prepare() error {
	for _, p := range []struct {
		stmt **sql.Stmt
		text string
	}{
		{&s.begin, "BEGIN IMMEDIATE"},
		{&s.commit, "COMMIT"},
		{&s.rollback, "ROLLBACK"},
		{&s.insert, `INSERT OR REPLACE INTO frames(first, n, prio, ts0, ts1, encoding, clock, boot, offset, sum, payload) VALUES(?,?,?,?,?,?,?,?,?,?,?)`},
		{&s.remove, `DELETE FROM frames WHERE first BETWEEN ? AND ?`},
		{&s.settle, `UPDATE frames SET ts0 = ?, ts1 = ?, clock = 0, boot = NULL, offset = NULL, sum = ?, payload = ? WHERE first = ? AND n = ?`},
		{&s.putDead, `INSERT OR REPLACE INTO dead(seq, at, prio, status, reason, line) VALUES(?,?,?,?,?,?)`},
		{&s.dropDead, `DELETE FROM dead WHERE seq = ?`},
		{&s.putLoss, `INSERT OR REPLACE INTO loss(kind, n, exact, first, last) VALUES(?,?,?,?,?)`},
		{&s.putMeta, `INSERT OR REPLACE INTO meta(key, value) VALUES(?,?)`},
	} {
		var err error
		if *p.stmt, err = s.write.PrepareContext(bg, p.text); err != nil {
			return damagedSchema(err)
		}
	}
	return nil
}

// update runs fn as one transaction.
func (s *store) update(d durability, fn func() error) error {
	if s.mode != d {
		if _, err := s.write.ExecContext(bg, "PRAGMA synchronous="+string(d)); err != nil {
			return err
		}
		s.mode = d
	}
	if _, err := s.begin.ExecContext(bg); err != nil {
		return err
	}
	err := fn()
	if err == nil {
		_, err = s.commit.ExecContext(bg)
	}
	if err != nil {
		// It fails when SQLite has already rolled back by itself.
		_, _ = s.rollback.ExecContext(bg)
	}
	return err
}

// insertRow stores r with its payload.
func (s *store) insertRow(r row, boot string, offset int64, payload []byte) error {
	var b, o any
	if r.clock != clockTrusted {
		b, o = boot, offset
	}
	_, err := s.insert.ExecContext(bg, int64(r.first), int64(r.n), int64(r.prio), r.ts0, r.ts0+int64(r.span),
		int64(r.encoding), int64(r.clock), b, o, int64(frameSum(r.first, r.n, r.encoding, payload)), payload)
	return err
}

// insertMarker notes in a table without its newest row which seq comes next.
// The next frame takes that seq as its key and so replaces the marker.
func (s *store) insertMarker(next uint64) error {
	_, err := s.insert.ExecContext(bg, int64(next), 0, 0, 0, 0, 0, 0, nil, nil, 0, []byte{})
	return err
}

// removeRows deletes the rows between two seqs; next is the seq after the
// newest reading ever accepted.
func (s *store) removeRows(first, last, next uint64) error {
	if _, err := s.remove.ExecContext(bg, int64(first), int64(last)); err != nil {
		return err
	}
	if last+1 == next {
		return s.insertMarker(next)
	}
	return nil
}

// stored is a row as read back for delivery.
type stored struct {
	first    uint64
	n        uint32
	prio     priority
	encoding Encoding
	clock    clockMark
	boot     string
	offset   int64
	sum      uint32
	payload  []byte
}

func (r *stored) intact() bool {
	return r.sum == frameSum(r.first, r.n, r.encoding, r.payload)
}

// rowsBetween reads whole rows, leaving out those that are not of our columns'
// types; the cursor is closed before it returns.
func (s *store) rowsBetween(first, last uint64) (_ []stored, err error) {
	s.readMu.Lock()
	defer s.readMu.Unlock()
	if s.payload == nil {
		return nil, errors.New("the queue file is not open")
	}
	rows, err := s.payload.QueryContext(bg, int64(first), int64(last))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	var out []stored
	for rows.Next() {
		// A value of another type than was stored is damage to that row alone.
		if r, err := scanStored(rows); err == nil {
			out = append(out, r)
		}
	}
	return out, rows.Err()
}

// scanStored reads first, n, prio, encoding, clock, boot, offset, sum, payload.
func scanStored(rows interface{ Scan(...any) error }) (r stored, err error) {
	var boot sql.NullString
	var offset sql.NullInt64
	var first, n, prio, encoding, clock, sum int64
	err = rows.Scan(&first, &n, &prio, &encoding, &clock, &boot, &offset, &sum, &r.payload)
	r.first, r.n, r.prio, r.encoding, r.clock, r.sum = uint64(first), uint32(n), priority(prio), Encoding(encoding), clockMark(clock), uint32(sum)
	r.boot, r.offset = boot.String, offset.Int64
	return r, err
}

// scan lists all rows without their payloads; thisBoot flags the rows written
// since the machine booted. next is the seq after the newest row, 0 when the
// table has none.
func (s *store) scan(bootID string, add func(row)) (next uint64, err error) {
	rows, err := s.write.QueryContext(bg, `SELECT first, n, prio, ts0, ts1, encoding, clock, clock != 0 AND boot = ?, length(payload) FROM frames ORDER BY first`, bootID)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var first, n, prio, ts0, ts1, encoding, clock, thisBoot, size int64
		if err := rows.Scan(&first, &n, &prio, &ts0, &ts1, &encoding, &clock, &thisBoot, &size); err != nil {
			return 0, damage(err.Error())
		}
		if uint64(first) < next || uint64(first) > maxSeq || n < 0 || n > maxFrameReadings || n == 0 && size > 0 || prio < 0 || prio >= int64(priorities) || encoding > int64(Zstd) || encoding < 0 {
			return 0, damage(fmt.Sprintf("row %d is not a queue row", first))
		}
		next = uint64(first + n)
		if n == 0 {
			continue
		}
		add(row{
			first: uint64(first), ts0: ts0, n: uint32(n), bytes: uint32(size) + rowOverheadBytes, span: clampSpan(ts0, ts1),
			prio: priority(prio), encoding: Encoding(encoding), clock: clockMark(clock), thisBoot: thisBoot != 0,
		})
	}
	return next, rows.Err()
}

// countDead returns the number of dead letters.
func (s *store) countDead() (n int64, err error) {
	err = s.write.QueryRowContext(bg, "SELECT count(*) FROM dead").Scan(&n)
	return n, err
}

// largePages is the size of an empty queue file that is worth shrinking.
const largePages = 4096

// large reports whether an emptied file should be shrunk.
func (s *store) large() bool {
	var pages int
	err := s.write.QueryRowContext(bg, "PRAGMA page_count").Scan(&pages)
	return err == nil && pages > largePages
}

// shrink gives space back to the file system: that of the WAL and, when the
// queue is empty, that of the file. VACUUM of a file with content would need
// its size again.
func (s *store) shrink(empty bool) error {
	var err error
	if empty {
		_, err = s.write.ExecContext(bg, "VACUUM")
	}
	_, truncated := s.write.ExecContext(bg, "PRAGMA wal_checkpoint(TRUNCATE)")
	return errors.Join(err, truncated)
}

// closeReader ends the connection that reads; the writer may go on.
func (s *store) closeReader() error {
	s.readMu.Lock()
	defer s.readMu.Unlock()
	var err error
	if s.readDB != nil {
		if s.payload != nil {
			err = s.payload.Close()
		}
		err = errors.Join(err, s.read.Close(), s.readDB.Close())
	}
	s.payload, s.read, s.readDB = nil, nil, nil
	return err
}

// close ends both connections. The last one out moves the WAL into the file.
func (s *store) close() error {
	err := s.closeReader()
	if s.writeDB != nil {
		for _, stmt := range []*sql.Stmt{s.begin, s.commit, s.rollback, s.insert, s.remove, s.settle, s.putDead, s.dropDead, s.putLoss, s.putMeta} {
			if stmt != nil {
				err = errors.Join(err, stmt.Close())
			}
		}
		err = errors.Join(err, s.write.Close(), s.writeDB.Close())
		s.writeDB = nil
	}
	return err
}
