package syncqueue

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/pyvorin/pyvorin-edge/wire"
)

// DeadLetter is a reading that the receiver refused, kept for inspection.
type DeadLetter struct {
	Seq    uint64          `json:"seq"`
	At     time.Time       `json:"at"`     // when it was set aside
	Status int             `json:"status"` // HTTP status; 0 when there was none
	Reason string          `json:"reason"`
	Line   json.RawMessage `json:"reading"` // as it travelled
}

// maxReasonBytes bounds what a receiver can make the queue keep.
const maxReasonBytes = 500

// DeadLetter keeps one reading of a leased batch aside; the later Ack of the
// batch deletes its rows. Beyond MaxDeadLetters the oldest goes, counted.
func (q *Queue) DeadLetter(ctx context.Context, b Batch, seq uint64, status int, reason string) error {
	if seq < b.First || seq > b.Last {
		return fmt.Errorf("dead letter %d: not in batch %d-%d", seq, b.First, b.Last)
	}
	lines, err := Lines(b)
	if err == nil {
		line := lines[seq-b.First]
		err = q.ask(ctx, func() error { return q.deadLetter(b, seq, status, reason[:min(len(reason), maxReasonBytes)], line) })
	}
	if err != nil {
		return fmt.Errorf("dead letter %d: %w", seq, err)
	}
	return nil
}

func (q *Queue) deadLetter(b Batch, seq uint64, status int, reason string, line []byte) error {
	l, err := q.leased(b)
	if err != nil {
		return err
	}
	prio := normal
	q.mu.Lock()
	if r := q.index.holding(seq); r != nil {
		prio = r.prio
	}
	q.mu.Unlock()
	var kept, evicted int64
	err = q.store.update(lazy, func() error {
		if _, err := q.store.putDead.ExecContext(bg, int64(seq), q.o.Clock.Now().UnixMilli(), int64(prio), status, reason, line); err != nil {
			return err
		}
		res, err := q.store.write.ExecContext(bg, "DELETE FROM dead WHERE seq IN (SELECT seq FROM dead ORDER BY at DESC, seq DESC LIMIT -1 OFFSET ?)", q.o.MaxDeadLetters)
		if err != nil {
			return err
		}
		if evicted, err = res.RowsAffected(); err != nil {
			return err
		}
		kept, err = q.store.countDead()
		return err
	})
	if err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if l.dead == nil {
		l.dead = map[uint64]struct{}{}
	}
	l.dead[seq] = struct{}{}
	q.dead = kept
	q.counters.DeadEvicted += evicted
	return nil
}

// DeadList returns up to limit dead letters, the oldest first.
func (q *Queue) DeadList(ctx context.Context, limit int) ([]DeadLetter, error) {
	r, err := OpenReader(q.o.Path)
	if err != nil {
		return nil, err
	}
	list, err := r.DeadList(ctx, limit)
	return list, errors.Join(err, r.Close())
}

// DeadRetry queues dead letters again under their old seqs, all of them when
// none is named, and returns how many there were. Those of a batch that is still
// queued stay where they are.
func (q *Queue) DeadRetry(ctx context.Context, seqs ...uint64) (n int, err error) {
	err = q.ask(ctx, func() (err error) {
		n, err = q.deadRetry(seqs)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("retry dead letters: %w", err)
	}
	return n, nil
}

func (q *Queue) deadRetry(seqs []uint64) (int, error) {
	if len(seqs) == 0 {
		var err error
		if seqs, err = q.store.deadSeqs(); err != nil {
			return 0, err
		}
	}
	var restored []row
	var kept int64
	err := q.store.update(durable, func() error {
		restored = nil
		for _, seq := range seqs {
			r, payload, err := q.store.deadRow(seq, q.o.Encoding)
			if errors.Is(err, sql.ErrNoRows) {
				continue
			}
			if err != nil {
				return err
			}
			// Until its batch is acked the row is still there. Whoever delivers
			// the batch may have settled this reading already: the dead letter
			// is all that is left of it.
			q.mu.Lock()
			queued := q.index.holding(seq) != nil
			q.mu.Unlock()
			if queued {
				continue
			}
			if err := q.store.insertRow(r, "", 0, payload); err != nil {
				return err
			}
			restored = append(restored, r)
			if _, err := q.store.dropDead.ExecContext(bg, int64(seq)); err != nil {
				return err
			}
		}
		var err error
		kept, err = q.store.countDead()
		return err
	})
	if err != nil {
		return 0, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, r := range restored {
		q.index.restore(r)
	}
	q.dead = kept
	q.signal()
	return len(restored), nil
}

// deadSeqs lists the dead letters, the oldest first.
func (s *store) deadSeqs() (seqs []uint64, err error) {
	rows, err := s.write.QueryContext(bg, "SELECT seq FROM dead ORDER BY at, seq")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var seq int64
		if err := rows.Scan(&seq); err != nil {
			return nil, err
		}
		seqs = append(seqs, uint64(seq))
	}
	return seqs, rows.Err()
}

// deadRow makes a row of one dead letter.
func (s *store) deadRow(seq uint64, e Encoding) (row, []byte, error) {
	var prio int64
	var line []byte
	if err := s.write.QueryRowContext(bg, "SELECT prio, line FROM dead WHERE seq = ?", int64(seq)).Scan(&prio, &line); err != nil {
		return row{}, nil, err
	}
	var reading wire.Reading
	if err := json.Unmarshal(line, &reading); err != nil {
		return row{}, nil, fmt.Errorf("dead letter %d: %w", seq, err)
	}
	payload, err := Encode(nil, e, [][]byte{line})
	r := row{
		first: seq, n: 1, prio: min(priority(prio), high), encoding: e,
		ts0: reading.Timestamp.UnixMilli(), bytes: uint32(len(payload)) + rowOverheadBytes,
	}
	return r, payload, err
}
