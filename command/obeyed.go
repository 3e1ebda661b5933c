package command

import (
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/pyvorin/pyvorin-edge/wire"
)

// state is what became of an order.
type state string

const (
	stateBegun    state = "begun" // and not ended, or that is not known
	stateDone     state = wire.OutcomeDone
	stateAccepted state = wire.OutcomeAccepted
	stateFailed   state = wire.OutcomeFailed
	// stateRefused says only that a refusal was reported. The order may still be
	// obeyed.
	stateRefused state = wire.OutcomeRefused
)

const (
	// maxRecords bounds what is remembered, which is some 300 bytes each.
	maxRecords = 4096

	// keepExpired is how long a nonce outlives its command, so that hearing it
	// again is a duplicate and no news.
	keepExpired = time.Hour

	// never is the expiry of what has none.
	never = int64(1<<63 - 1)
)

func (r record) expiry() int64 {
	if r.expires.IsZero() {
		return never
	}
	return r.expires.UnixMicro()
}

// look says what the ledger has against an order; nil is nothing. told is true
// when a refusal of it was reported before.
func (l *Ledger) look(r record, m moment) (no *refusal, told bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var was state
	err = l.use(func(db *sql.DB) error {
		err := db.QueryRowContext(bg, "SELECT state FROM commands WHERE key = ?", r.key).Scan(&was)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		return err
	})
	if err != nil {
		return nil, false, err
	}
	newest := l.newest[r.series]
	if m.disciplined && newest > m.now.Add(futureSkew).UnixMicro() {
		newest = 0 // taken when the clock was wrong; it must not shut out all others
	}
	switch {
	case was != "" && was != stateRefused:
		no = refuse(ReasonDuplicate, fmt.Errorf("it was heard before and is %s", was))
	case r.expiry() <= l.horizon:
		no = refuse(ReasonExpired, errors.New("it expired so long ago that whether it was obeyed is forgotten"))
	case l.lost != 0 && r.issued.UnixMicro() <= l.lost:
		no = refuse(ReasonLedgerLost, errors.New("it is older than the ledger, which had to begin anew; issue it again"))
		no.tell = true
	case r.series != "" && r.issued.UnixMicro() <= newest:
		no = refuse(ReasonSuperseded, errors.New("a newer one was heard before"))
	}
	return no, was == stateRefused, nil
}

// begin notes that an order is about to be carried out. After it, the order is
// a duplicate for ever.
func (l *Ledger) begin(r record, m moment) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.ready(); err != nil {
		return fmt.Errorf("open the ledger: %w", err)
	}
	if err := l.raise(mark{Issued: r.issued.UnixMicro()}); err != nil {
		return err
	}
	err := l.update(m, func(tx *sql.Tx) error {
		if err := l.forget(tx, m); err != nil {
			return err
		}
		if r.name == ConfigName { // those before it are superseded for ever
			if _, err := tx.ExecContext(bg, "DELETE FROM commands WHERE name = ? AND state != ? AND issued < ?", ConfigName, stateBegun, r.issued.UnixMicro()); err != nil {
				return err
			}
		}
		if err := setMeta(tx, "issued", l.mark.Issued); err != nil {
			return err
		}
		if r.series != "" {
			if err := setMeta(tx, "newest/"+r.series, r.issued.UnixMicro()); err != nil {
				return err
			}
		}
		return put(tx, r, stateBegun, m)
	})
	if err != nil {
		return fmt.Errorf("record the order: %w", err)
	}
	if r.series != "" {
		l.newest[r.series] = r.issued.UnixMicro()
	}
	l.count(func(s *LedgerStats) { s.LastCommandAt = m.now })
	return nil
}

func put(tx *sql.Tx, r record, s state, m moment) error {
	body, runs := r.body, 1
	if s != stateBegun {
		body, runs = nil, 0
	}
	_, err := tx.ExecContext(bg, "INSERT OR REPLACE INTO commands(key, name, issued, expires, state, runs, at, series, topic, signed, body) VALUES(?,?,?,?,?,?,?,?,?,?,?)",
		r.key, r.name, r.issued.UnixMicro(), r.expiry(), s, runs, m.now.UnixMicro(), r.series, r.topic, r.signed, body)
	return err
}

// finish notes how an order ended, together with its report.
func (l *Ledger) finish(key string, s state, report wire.Report) error {
	m := l.moment()
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.addReport(m, report, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(bg, "UPDATE commands SET state = ?, body = NULL, at = ? WHERE key = ?", s, m.now.UnixMicro(), key)
		return err
	})
	if err != nil {
		return fmt.Errorf("record the outcome: %w", err)
	}
	return nil
}

// refused notes that a refusal is reported, together with its report.
func (l *Ledger) refused(r record, report wire.Report, m moment) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.addReport(m, report, func(tx *sql.Tx) error {
		if err := l.forget(tx, m); err != nil {
			return err
		}
		return put(tx, r, stateRefused, m)
	})
	if err != nil {
		return fmt.Errorf("record the refusal: %w", err)
	}
	return nil
}

// interrupted is an order that was begun and did not end.
type interrupted struct {
	record
	runs int
}

// pending returns what was begun and did not end, the oldest first.
func (l *Ledger) pending() (found []interrupted, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	err = l.use(func(db *sql.DB) error {
		rows, err := db.QueryContext(bg, "SELECT key, name, issued, expires, series, topic, signed, body, runs FROM commands WHERE state = ? ORDER BY at, rowid", stateBegun)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var r interrupted
			var issued, expires int64
			if err := rows.Scan(&r.key, &r.name, &issued, &expires, &r.series, &r.topic, &r.signed, &r.body, &r.runs); err != nil {
				return damage(err.Error())
			}
			r.issued = fromMicros(issued)
			if expires != never {
				r.expires = fromMicros(expires)
			}
			found = append(found, r)
		}
		return rows.Err()
	})
	return found, err
}

// rerun notes that an interrupted order is about to be run again.
func (l *Ledger) rerun(key string) error {
	m := l.moment()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.update(m, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(bg, "UPDATE commands SET runs = runs + 1 WHERE key = ?", key)
		return err
	})
}

// forget removes nonces whose commands have expired, and those that expire first
// when there are too many, and keeps up to when the forgotten expired. Only a
// clock that is right can say that something has expired for good.
func (l *Ledger) forget(tx *sql.Tx, m moment) error {
	horizon := l.horizon
	remove := func(where string, args ...any) error {
		args = append([]any{stateBegun}, args...)
		var last sql.NullInt64
		if err := tx.QueryRowContext(bg, "SELECT max(expires) FROM commands WHERE state != ? AND name != '"+ConfigName+"' AND "+where, args...).Scan(&last); err != nil || !last.Valid {
			return err
		}
		horizon = max(horizon, last.Int64)
		_, err := tx.ExecContext(bg, "DELETE FROM commands WHERE state != ? AND name != '"+ConfigName+"' AND "+where, args...)
		return err
	}
	if m.disciplined {
		if err := remove("expires < ?", m.now.Add(-keepExpired).UnixMicro()); err != nil {
			return err
		}
	}
	var n int
	if err := tx.QueryRowContext(bg, "SELECT count(*) FROM commands").Scan(&n); err != nil {
		return err
	}
	if n >= maxRecords {
		// An eighth at once, so that it is not done for each that is added.
		if err := remove("expires <= (SELECT expires FROM commands WHERE name != '"+ConfigName+"' ORDER BY expires LIMIT 1 OFFSET ?)", n-maxRecords+maxRecords/8); err != nil {
			return err
		}
	}
	if horizon == l.horizon {
		return nil
	}
	if err := setMeta(tx, "horizon", horizon); err != nil {
		return err
	}
	l.horizon = horizon // early when the transaction fails, which only makes it stricter
	return nil
}
