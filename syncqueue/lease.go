package syncqueue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// lease is a batch that is out.
type lease struct {
	last uint64
	rows []uint64            // first seqs
	dead map[uint64]struct{} // readings kept aside as dead letters
}

// Lease returns the next batch to deliver; false means that there is none now.
// It never waits for readings. Of what is queued, high priority comes first,
// then what is younger than the last MarkBacklog or Open, oldest first, then the
// backlog by priority and oldest first. Nothing is leased twice: every batch
// must be given to Ack or Nack. Rows that turn out to be damaged are given up,
// counted and announced, and the next batch is tried.
func (q *Queue) Lease(ctx context.Context, w Want) (Batch, bool, error) {
	if w.Readings <= 0 {
		w.Readings = q.o.BatchSize
	}
	for {
		select {
		case <-q.closing:
			return Batch{}, false, ErrClosed
		case <-ctx.Done():
			return Batch{}, false, ctx.Err()
		default:
		}
		b, rows := q.pick(w)
		if len(rows) == 0 {
			return Batch{}, false, nil
		}
		bad, err := q.fill(ctx, &b, rows)
		if err == nil && len(bad) == 0 {
			return b, true, nil
		}
		q.mu.Lock()
		q.free(b)
		q.mu.Unlock()
		if err == nil {
			err = q.ask(ctx, func() error { return q.giveUp(bad) })
		}
		if err != nil {
			return Batch{}, false, fmt.Errorf("lease: %w", err)
		}
	}
}

// pick chooses the rows of a batch and leases them.
func (q *Queue) pick(w Want) (Batch, []row) {
	now, state := q.o.Clock.Now(), q.o.Clock.State()
	q.mu.Lock()
	defer q.mu.Unlock()
	picked, backlog := q.index.pick(w, q.held(now, state))
	if len(picked) == 0 {
		return Batch{}, nil
	}
	b := Batch{First: picked[0].first, Last: picked[len(picked)-1].last(), Encoding: picked[0].encoding, Backlog: backlog}
	b.Count = int(b.Last - b.First + 1)
	rows := make([]row, len(picked))
	l := &lease{last: b.Last, rows: make([]uint64, len(picked))}
	for i, r := range picked {
		q.index.setLeased(r, true)
		rows[i], l.rows[i] = *r, r.first
	}
	q.leases[b.First] = l
	return b, rows
}

// fill reads the frames of b, settles their timestamps, and returns the rows
// that are damaged.
func (q *Queue) fill(ctx context.Context, b *Batch, rows []row) (bad []badRow, err error) {
	found, err := q.read(ctx, b)
	if err != nil {
		return nil, err
	}
	state := q.o.Clock.State()
	var settled []settledRow
	b.Frames = make([][]byte, 0, len(rows))
	for _, r := range rows {
		for len(found) > 0 && found[0].first < r.first {
			found = found[1:]
		}
		if len(found) == 0 || found[0].first != r.first {
			bad = append(bad, badRow{r, lossOf(r)})
			continue
		}
		if s := &found[0]; s.n != r.n || s.encoding != r.encoding || !s.intact() {
			bad = append(bad, badRow{r, s.held(r)})
			continue
		}
		s, shift, changed, err := settle(found[0], state)
		if err != nil {
			bad = append(bad, badRow{r, lossOf(r)})
			continue
		}
		if changed {
			settled = append(settled, settledRow{s, r.ts0 + shift.Milliseconds(), r.span})
		}
		b.Frames = append(b.Frames, s.payload)
	}
	if len(bad) == 0 && len(settled) > 0 {
		// Stored, so that after a restart the same bytes are sent. What cannot
		// be stored is delivered all the same.
		if err := q.ask(ctx, func() error { return q.saveSettled(settled) }); err != nil {
			q.o.Log.Warn().Err(err).Msg("corrected timestamps not stored")
		}
	}
	return bad, nil
}

// read reads the rows of b; when the file turns out to be damaged, from what
// could be salvaged.
func (q *Queue) read(ctx context.Context, b *Batch) ([]stored, error) {
	rows, err := q.readRows(b)
	if damaged(err) {
		err = q.ask(ctx, func() error {
			// Someone else may have replaced the file by now.
			_, err := q.readRows(b)
			return err
		})
		if err == nil {
			rows, err = q.readRows(b)
		}
	}
	return rows, err
}

func (q *Queue) readRows(b *Batch) ([]stored, error) {
	s, release := q.current()
	defer release()
	return s.rowsBetween(b.First, b.Last)
}

// settledRow is a row whose timestamps were put right.
type settledRow struct {
	stored
	ts0  int64
	span uint32
}

func (q *Queue) saveSettled(rows []settledRow) error {
	err := q.store.update(lazy, func() error {
		for _, r := range rows {
			if _, err := q.store.settle.ExecContext(bg, r.ts0, r.ts0+int64(r.span), int64(r.sum), r.payload, int64(r.first), int64(r.n)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, s := range rows {
		if r, _ := q.index.find(s.first); r != nil {
			q.index.count(r, -1)
			r.ts0, r.bytes, r.clock = s.ts0, uint32(len(s.payload))+rowOverheadBytes, clockTrusted
			q.index.count(r, 1)
		}
	}
	return nil
}

// badRow is a row that cannot be delivered, and the readings lost with it.
type badRow struct {
	row
	lost loss
}

// held returns what was lost with the damaged row r, of which s was read. A frame
// that is whole says so itself: then it is the row's header that is damaged.
func (s *stored) held(r row) loss {
	lines, err := frameLines(s.encoding, s.payload)
	var head struct{ Seq uint64 }
	if err != nil || json.Unmarshal(lines[0], &head) != nil {
		return lossOf(r)
	}
	whole := stored{first: head.Seq, n: uint32(len(lines)), encoding: s.encoding, payload: s.payload}
	if verifyFrame(&whole) != nil {
		return lossOf(r)
	}
	return lossOf(row{first: whole.first, n: whole.n})
}

// giveUp discards rows that cannot be delivered, unless they are gone already.
func (q *Queue) giveUp(rows []badRow) error {
	q.mu.Lock()
	var here []row
	var lost []loss
	for i := range rows {
		if r, _ := q.index.find(rows[i].first); r != nil && !r.leased {
			here, lost = append(here, rows[i].row), append(lost, rows[i].lost)
		}
	}
	q.mu.Unlock()
	if len(here) == 0 {
		return nil
	}
	return q.discard(here, lost, lostDamage)
}

// Ack deletes a delivered batch. It does not wait for the medium: after a power
// cut the batch may be delivered again.
func (q *Queue) Ack(ctx context.Context, b Batch) error {
	err := q.ask(ctx, func() error { return q.ack(b) })
	if err != nil {
		return fmt.Errorf("ack %d-%d: %w", b.First, b.Last, err)
	}
	return nil
}

var errNotLeased = errors.New("the batch is not leased")

// leased returns the lease of b.
func (q *Queue) leased(b Batch) (*lease, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.leases[b.First]
	if l == nil || l.last != b.Last {
		return nil, errNotLeased
	}
	return l, nil
}

func (q *Queue) ack(b Batch) error {
	l, err := q.leased(b)
	if err != nil {
		return err
	}
	err = q.store.update(lazy, func() error { return q.store.removeRows(b.First, b.Last, q.next) })
	if err != nil {
		return err
	}
	now := q.o.Clock.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.counters.delivered(int64(b.Count-len(l.dead)), now)
	delete(q.leases, b.First)
	for _, first := range l.rows {
		q.index.remove(first)
	}
	return nil
}

// Nack frees a batch that could not be delivered, and counts a retry.
func (q *Queue) Nack(b Batch) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.free(b) {
		q.counters.Retries++
	}
}

// free makes the rows of a batch available again, and reports whether it was
// leased. The caller has q.mu.
func (q *Queue) free(b Batch) bool {
	l := q.leases[b.First]
	if l == nil || l.last != b.Last {
		return false
	}
	delete(q.leases, b.First)
	for _, first := range l.rows {
		if r, _ := q.index.find(first); r != nil {
			q.index.setLeased(r, false)
		}
	}
	return true
}
