package command

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/pyvorin/pyvorin-edge/wire"
)

// Bounds of the outbox.
const (
	maxReports      = 1000
	maxOutboxBytes  = 4 << 20
	maxReportBytes  = 256 << 10
	maxReasonBytes  = 1024
	reportTooLarge  = "the detail was left out: it is larger than a report may be"
	detailForbidden = "the detail was left out: it is no JSON"
)

// Report keeps a report until the controller acknowledges it. Its Seq is given
// here, and so is At when it is zero. When Report returns nil it is durable.
func (l *Ledger) Report(r wire.Report) error {
	m := l.moment()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.addReport(m, r, func(*sql.Tx) error { return nil }); err != nil {
		return fmt.Errorf("keep the report: %w", err)
	}
	return nil
}

// addReport adds a report in the transaction of fn.
func (l *Ledger) addReport(m moment, r wire.Report, fn func(tx *sql.Tx) error) error {
	if err := l.ready(); err != nil {
		return fmt.Errorf("open the ledger: %w", err)
	}
	seq := l.seq + 1
	if seq > l.mark.Seq {
		if err := l.raise(mark{Seq: seq + block}); err != nil {
			return err
		}
	}
	r.Seq = seq
	if r.At.IsZero() {
		r.At = m.now
	}
	r.At = r.At.UTC()
	body, err := encodeReport(r)
	if err != nil {
		return err
	}
	keep := 0
	if r.Kind == wire.ReportCommand || r.Kind == wire.ReportUpdate {
		keep = 1
	}
	waiting, bytes, dropped := l.Stats().ReportsWaiting+1, l.bytes+len(body), uint64(0)
	err = l.update(m, func(tx *sql.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		for waiting > maxReports || bytes > maxOutboxBytes {
			var oldest int64
			var size int
			err := tx.QueryRowContext(bg, "SELECT seq, length(body) FROM reports ORDER BY keep, seq LIMIT 1").Scan(&oldest, &size)
			if errors.Is(err, sql.ErrNoRows) {
				break
			}
			if err != nil {
				return err
			}
			if _, err := tx.ExecContext(bg, "DELETE FROM reports WHERE seq = ?", oldest); err != nil {
				return err
			}
			waiting, bytes, dropped = waiting-1, bytes-size, dropped+1
		}
		if _, err := tx.ExecContext(bg, "INSERT INTO reports(seq, keep, body) VALUES(?,?,?)", int64(seq), keep, body); err != nil {
			return err
		}
		return setMeta(tx, "seq", int64(seq))
	})
	if err != nil {
		return err
	}
	l.seq, l.bytes = seq, bytes
	l.count(func(s *LedgerStats) { s.ReportsWaiting, s.ReportsDropped = waiting, s.ReportsDropped+dropped })
	l.signal()
	return nil
}

// encodeReport writes a report, without its detail when that cannot be sent.
func encodeReport(r wire.Report) ([]byte, error) {
	r.Reason = strings.ToValidUTF8(r.Reason, "\uFFFD")
	if len(r.Reason) > maxReasonBytes {
		r.Reason = strings.ToValidUTF8(r.Reason[:maxReasonBytes], "") + "…"
	}
	body, err := json.Marshal(r)
	if err == nil && len(body) <= maxReportBytes {
		return body, nil
	}
	why := reportTooLarge
	if err != nil {
		why = detailForbidden
	}
	r.Detail = nil
	r.Reason = strings.TrimPrefix(r.Reason+"; "+why, "; ")
	return json.Marshal(r)
}

// queued is a report as it is sent.
type queued struct {
	seq  uint64
	body []byte
}

// reportsAfter returns the oldest reports with a higher number, at most limit.
func (l *Ledger) reportsAfter(seq uint64, limit int) (out []queued, err error) {
	if l.Stats().ReportsWaiting == 0 {
		return nil, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	err = l.use(func(db *sql.DB) error {
		rows, err := db.QueryContext(bg, "SELECT seq, body FROM reports WHERE seq > ? ORDER BY seq LIMIT ?", int64(seq), limit)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var n int64
			var q queued
			if err := rows.Scan(&n, &q.body); err != nil {
				return damage(err.Error())
			}
			q.seq = uint64(n)
			out = append(out, q)
		}
		return rows.Err()
	})
	return out, err
}

// acknowledged removes the reports up to seq.
func (l *Ledger) acknowledged(seq uint64) error {
	m := l.moment()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.Stats().ReportsWaiting == 0 {
		return nil
	}
	var waiting, bytes int
	err := l.update(m, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(bg, "DELETE FROM reports WHERE seq <= ?", int64(seq)); err != nil {
			return err
		}
		return tx.QueryRowContext(bg, "SELECT count(*), coalesce(sum(length(body)), 0) FROM reports").Scan(&waiting, &bytes)
	})
	if err != nil {
		return fmt.Errorf("record the acknowledgement: %w", err)
	}
	l.bytes = bytes
	l.count(func(s *LedgerStats) { s.ReportsWaiting = waiting })
	return nil
}
