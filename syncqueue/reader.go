package syncqueue

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// Reader looks into a queue file without changing it, whether or not an agent
// has it open. It holds no transaction between its calls, so it never keeps the
// agent from tidying its WAL.
type Reader struct {
	db   *sql.DB
	conn *sql.Conn
}

// OpenReader opens the queue file at path. The error is fs.ErrNotExist when
// there is none.
func OpenReader(path string) (*Reader, error) {
	if _, err := os.Stat(path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("there is no queue yet: %w", err)
		}
		return nil, err
	}
	db, conn, err := connect(path, "ro", "cache_size=-256", "query_only=ON")
	if err != nil {
		return nil, fmt.Errorf("open %s for reading: %w", path, err)
	}
	return &Reader{db: db, conn: conn}, nil
}

// Close ends the use of the file.
func (r *Reader) Close() error { return errors.Join(r.conn.Close(), r.db.Close()) }

// Stats counts what the file holds. It reads the whole table, so it is not O(1)
// as Queue.Stats is; counts since a start of the agent are 0.
func (r *Reader) Stats(ctx context.Context) (Stats, error) {
	var c counters
	s := store{write: r.conn}
	c, err := s.loadCounters()
	if err != nil {
		return Stats{}, fmt.Errorf("read queue: %w", err)
	}
	out := c.stats(time.Now())
	var oldest sql.NullInt64
	err = r.conn.QueryRowContext(ctx, `SELECT coalesce(sum(n), 0), coalesce(sum(length(payload) + ?), 0),
		(SELECT ts0 FROM frames WHERE n > 0 ORDER BY first LIMIT 1), (SELECT count(*) FROM dead) FROM frames WHERE n > 0`, rowOverheadBytes).
		Scan(&out.Depth, &out.Bytes, &oldest, &out.DeadLetters)
	if err != nil {
		return Stats{}, fmt.Errorf("read queue: %w", err)
	}
	if oldest.Valid {
		out.OldestAt = time.UnixMilli(oldest.Int64).UTC()
	}
	return out, nil
}

// Export writes up to limit queued readings to w as NDJSON, in order of seq;
// limit 0 means all. Damaged rows are left out and counted.
func (r *Reader) Export(ctx context.Context, w io.Writer, limit int) (damagedRows int, err error) {
	stmt, err := r.conn.PrepareContext(ctx, `SELECT first, n, prio, encoding, clock, boot, offset, sum, payload FROM frames WHERE first > ? AND n > 0 ORDER BY first LIMIT 1`)
	if err != nil {
		return 0, fmt.Errorf("read queue: %w", err)
	}
	defer stmt.Close()
	for seq, written := int64(0), 0; limit == 0 || written < limit; {
		row, err := scanStored(stmt.QueryRowContext(ctx, seq))
		if errors.Is(err, sql.ErrNoRows) {
			break
		}
		if err != nil {
			return damagedRows, fmt.Errorf("read queue: %w", err)
		}
		seq = int64(row.first)
		lines, err := frameLines(row.encoding, row.payload)
		if err != nil || !row.intact() {
			damagedRows++
			continue
		}
		if limit > 0 {
			lines = lines[:min(len(lines), limit-written)]
		}
		written += len(lines)
		if _, err := w.Write(append(bytes.Join(lines, []byte{'\n'}), '\n')); err != nil {
			return damagedRows, err
		}
	}
	return damagedRows, nil
}

// DeadList returns up to limit dead letters, the oldest first.
func (r *Reader) DeadList(ctx context.Context, limit int) (_ []DeadLetter, err error) {
	rows, err := r.conn.QueryContext(ctx, "SELECT seq, at, status, reason, line FROM dead ORDER BY at, seq LIMIT ?", limit)
	if err != nil {
		return nil, fmt.Errorf("read dead letters: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	list := []DeadLetter{}
	for rows.Next() {
		var d DeadLetter
		var seq, at int64
		var line []byte
		if err := rows.Scan(&seq, &at, &d.Status, &d.Reason, &line); err != nil {
			return nil, fmt.Errorf("read dead letters: %w", err)
		}
		d.Seq, d.At, d.Line = uint64(seq), time.UnixMilli(at).UTC(), line
		list = append(list, d)
	}
	return list, rows.Err()
}
