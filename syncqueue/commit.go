package syncqueue

import (
	"fmt"
	"time"

	"github.com/pyvorin/pyvorin-edge/internal/clock"
	"github.com/pyvorin/pyvorin-edge/privacy"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// item is one reading of a commit: one that a caller gave, or an announcement.
type item struct {
	cleared *privacy.Cleared
	own     *wire.Reading
	key     frameKey
}

// frameKey is what the readings of one frame have in common.
type frameKey struct {
	prio  priority
	clock clockMark
}

// add commits the readings of ops, and announcements that are due, in one
// transaction.
func (q *Queue) add(ops []op) error {
	now, state := q.o.Clock.Now(), q.o.Clock.State()
	mark := markOf(state)
	q.items = q.items[:0]
	defer func() {
		clear(q.items)
		if cap(q.items) > maxGroup {
			q.items = nil
		}
	}()
	announce := q.announceDue()
	if announce {
		own := announcements(q.losses, now)
		for i := range own {
			q.items = append(q.items, item{own: &own[i], key: frameKey{high, mark}})
		}
	}
	for _, o := range ops {
		for i := range o.add {
			c := &o.add[i]
			key := frameKey{prio: priorityOf(c.Priority())}
			if ownClock(c.Time()) {
				key.clock = mark
			}
			q.items = append(q.items, item{cleared: c, key: key})
		}
	}
	next := q.next
	if err := q.reserve(next + uint64(len(q.items))); err != nil {
		return err
	}
	var added []row
	err := q.store.update(durable, func() error {
		added = added[:0]
		for prio := priorities; prio > 0; prio-- {
			for _, clock := range []clockMark{clockTrusted, mark} {
				rows, err := q.insertFrames(frameKey{prio - 1, clock}, next, now, state)
				if err != nil {
					return err
				}
				if added = append(added, rows...); len(rows) > 0 {
					next = rows[len(rows)-1].last() + 1
				}
				if mark == clockTrusted {
					break
				}
			}
		}
		if announce {
			return q.store.saveLosses(nil)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if announce {
		q.losses, q.announced = losses{}, time.Now()
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.next = next
	urgent := false
	for _, r := range added {
		q.index.add(r, false)
		urgent = urgent || r.prio == high
	}
	if urgent || q.index.ready >= int64(q.o.BatchSize) {
		q.signal()
	}
	return nil
}

// insertFrames stores the items that have this key as frames of at most
// BatchSize readings, numbered from next.
func (q *Queue) insertFrames(key frameKey, next uint64, now time.Time, state clock.State) ([]row, error) {
	var rows []row
	r := row{first: next, prio: key.prio, encoding: q.o.Encoding, clock: key.clock, thisBoot: key.clock != clockTrusted}
	var ts1 int64
	q.raw = q.raw[:0]
	flush := func() (err error) {
		if r.n == 0 {
			return nil
		}
		if q.payload, err = compress(q.payload[:0], r.encoding, q.raw); err != nil {
			return err
		}
		r.bytes, r.span = uint32(len(q.payload))+rowOverheadBytes, clampSpan(r.ts0, ts1)
		if err := q.store.insertRow(r, state.BootID, int64(state.Offset), q.payload); err != nil {
			return err
		}
		rows = append(rows, r)
		r.first, r.n, q.raw = r.last()+1, 0, q.raw[:0]
		return nil
	}
	for i := range q.items {
		it := &q.items[i]
		if it.key != key {
			continue
		}
		reading := it.reading(now)
		reading.DeviceID, reading.Seq = q.o.DeviceID, r.first+uint64(r.n)
		before := len(q.raw)
		q.raw = append(reading.AppendJSON(q.raw), '\n')
		if r.n > 0 && len(q.raw) > maxFrameBytes {
			line := append([]byte(nil), q.raw[before:]...)
			q.raw = q.raw[:before]
			if err := flush(); err != nil {
				return nil, err
			}
			q.raw = append(q.raw, line...)
		}
		ts := reading.Timestamp.UnixMilli()
		if r.n == 0 {
			r.ts0, ts1 = ts, ts
		}
		r.ts0, ts1 = min(r.ts0, ts), max(ts1, ts)
		if r.n++; int(r.n) == q.o.BatchSize {
			if err := flush(); err != nil {
				return nil, err
			}
		}
	}
	err := flush()
	if cap(q.raw) > 2*maxFrameBytes {
		q.raw, q.payload = nil, nil
	}
	return rows, err
}

// reading returns what it travels as. A timestamp taken before the clock was
// set is put right while the monotonic clock still knows how.
func (it *item) reading(now time.Time) wire.Reading {
	if it.own != nil {
		return *it.own
	}
	c := *it.cleared
	if step := clockStep(c.Time(), now); step.Abs() >= clockTolerance {
		c = c.WithTime(c.Time().Round(0).Add(step))
	}
	return c.Wire()
}

// reserve makes sure that all seqs before end are reserved.
func (q *Queue) reserve(end uint64) error {
	if end <= q.reserved {
		return nil
	}
	q.mu.Lock()
	r := reservation{Oldest: q.index.oldestSeq(q.next), Next: q.next, Reserved: end + reserveAhead}
	q.mu.Unlock()
	for _, l := range q.losses {
		r.Oldest = min(r.Oldest, l.first)
	}
	if err := r.write(q.files.sequence); err != nil {
		return fmt.Errorf("reserve sequence numbers: %w", err)
	}
	q.reserved = r.Reserved
	return nil
}
