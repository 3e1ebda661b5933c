package syncqueue

import (
	"time"

	"github.com/rs/zerolog"
)

// maxEvict bounds the rows that one transaction evicts.
const maxEvict = 1000

// evict deletes rows until the queue keeps its limits of size and age.
func (q *Queue) evict() {
	if q.o.MaxAge > 0 && q.o.Clock.State().Set {
		q.evictRows(evictedAge, q.tooOld(q.o.Clock.Now().Add(-q.o.MaxAge)))
	}
	q.evictRows(evictedSize, func() *row {
		if q.index.bytes-q.claimed <= q.o.MaxBytes {
			return nil
		}
		return q.index.victim(func(*row) (bool, bool) { return true, false })
	})
}

// tooOld yields the rows whose readings were all taken before limit. The age of
// rows whose clock was not set is not known.
func (q *Queue) tooOld(limit time.Time) func() *row {
	ms := limit.UnixMilli()
	return func() *row {
		return q.index.victim(func(r *row) (take, goOn bool) {
			unknown := r.clock == clockUnset
			return !unknown && r.ts0+int64(r.span) < ms, unknown
		})
	}
}

// evictRows deletes the rows that next yields, one after the other, while it
// has q.mu.
func (q *Queue) evictRows(kind lossKind, next func() *row) {
	for {
		rows := q.claim(next)
		if len(rows) == 0 {
			return
		}
		err := q.attempt(true, func() error { return q.discard(rows, lossesOf(rows), kind) })
		q.unclaim(rows)
		if err != nil {
			q.o.Log.Error().Err(err).Msg("eviction failed")
			return
		}
		q.o.Beat()
	}
}

// claim leases up to maxEvict rows that next yields to the writer itself, so
// that nobody delivers what is being deleted.
func (q *Queue) claim(next func() *row) []row {
	q.mu.Lock()
	defer q.mu.Unlock()
	var rows []row
	for r := next(); r != nil && len(rows) < maxEvict; r = next() {
		rows = append(rows, *r)
		q.index.setLeased(r, true)
		q.claimed += int64(r.bytes)
	}
	return rows
}

// unclaim frees what claim leased and discard did not delete.
func (q *Queue) unclaim(rows []row) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range rows {
		q.claimed -= int64(rows[i].bytes)
		if r, _ := q.index.find(rows[i].first); r != nil {
			q.index.setLeased(r, false)
		}
	}
}

// discard deletes rows for good and notes what is lost with them, in one
// transaction.
func (q *Queue) discard(rows []row, lost []loss, kind lossKind) error {
	after := q.losses
	var readings int64
	for _, l := range lost {
		readings += l.n
		after = after.with(kind, l)
	}
	err := q.store.update(lazy, func() error {
		for _, r := range rows {
			if err := q.store.removeRows(r.first, r.last(), q.next); err != nil {
				return err
			}
		}
		return q.store.saveLosses(after)
	})
	if err != nil {
		return err
	}
	q.losses = after
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, r := range rows {
		q.index.remove(r.first)
	}
	// A queue at its limit evicts with every commit: that is for the counters to
	// say. Damage is not an everyday matter.
	level := zerolog.DebugLevel
	if kind == lostDamage {
		q.lost += readings
		level = zerolog.WarnLevel
	} else {
		q.counters.Evicted += readings
	}
	q.o.Log.WithLevel(level).Str("kind", string(kind)).Int64("readings", readings).Msg("readings given up")
	return nil
}
