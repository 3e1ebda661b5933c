package uplink

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/pyvorin/pyvorin-edge/syncqueue"
)

const (
	// maxRefused is how many single readings in a row may become dead letters
	// before the receiver is suspected instead of the readings.
	maxRefused = 10

	// calmBatches is how many batches in a row must be accepted before a batch
	// size that a 413 lowered is tried at its double.
	calmBatches = 64

	// queueTimeout bounds what is written to the queue when Run is stopping: an
	// accepted batch must still be acknowledged then.
	queueTimeout = 10 * time.Second
)

// delivery is one batch on its way. It outlives a failed try, so that what was
// settled before the failure is not sent again.
type delivery struct {
	batch    syncqueue.Batch
	lines    [][]byte // its readings, once they had to be decoded
	todo     []span   // not yet accepted or dead-lettered, next first
	progress bool     // some of it is settled
	dead     int      // readings dead-lettered in this try
	refusal  error    // of the last of them
}

// cut remembers how a batch that failed was cut, so that it is leased as it
// was: the same bytes under the same key. The zero cut remembers nothing.
type cut struct {
	first     uint64
	readings  int
	overtaken bool // another batch was delivered since
}

// span is a part of a batch: the readings with index from up to, not
// including, to.
type span struct{ from, to int }

func (s span) len() int { return s.to - s.from }

// begin prepares b, in parts when it is larger than what the receiver takes, or
// takes up where an earlier try of the same batch ended.
func (l *loop) begin(b syncqueue.Batch) *delivery {
	if p := l.partial; p != nil && p.batch.First == b.First && p.batch.Last == b.Last {
		p.batch = b
		return p
	}
	d := &delivery{batch: b}
	for from := 0; from < b.Count; from += l.size {
		d.todo = append(d.todo, span{from, min(from+l.size, b.Count)})
	}
	return d
}

// deliver settles every reading of b and acknowledges it, or gives it back.
func (l *loop) deliver(ctx context.Context, b syncqueue.Batch) error {
	d := l.begin(b)
	err := l.settle(ctx, d)
	if d.dead > 0 {
		l.log.Warn().Err(d.refusal).Int("readings", d.dead).Uint64("first", b.First).Uint64("last", b.Last).Msg("readings dead-lettered")
		d.dead = 0
	}
	if err == nil {
		err = l.ack(ctx, b)
	}
	if err != nil {
		l.o.Queue.Nack(b)
		l.again = cut{first: b.First, readings: b.Count}
		if d.progress {
			l.partial = d
		}
		l.update(func(s *Stats) { s.Retries++ })
		return err
	}
	if l.partial == d {
		l.partial = nil
	}
	l.grow()
	l.delivered(b)
	return nil
}

// delivered notes that b is done. Deliveries have recovered once the batch that
// failed is through; not before, because the backlog mark that recovering makes
// could change how that batch is cut, and so its key. It may be overtaken once,
// by readings of high priority; if it was evicted meanwhile it never comes.
func (l *loop) delivered(b syncqueue.Batch) {
	l.update(func(s *Stats) { s.LastFlushAt = time.Now() })
	if a := &l.again; a.readings > 0 && a.first != b.First && !a.overtaken {
		a.overtaken = true
		return
	}
	l.again = cut{}
	l.recovered()
}

func (l *loop) ack(ctx context.Context, b syncqueue.Batch) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), queueTimeout)
	defer cancel()
	if err := l.o.Queue.Ack(ctx, b); err != nil {
		return fmt.Errorf("acknowledge in the queue: %w", err)
	}
	return nil
}

// settle sends d's parts until each reading is accepted or dead-lettered.
func (l *loop) settle(ctx context.Context, d *delivery) error {
	rotated := false
	for len(d.todo) > 0 {
		if l.refused >= maxRefused {
			d.isolate(l.o.Rand())
		}
		if err := l.pace(ctx); err != nil {
			return err
		}
		s := d.todo[0]
		a := l.post(ctx, d, s)
		switch {
		case a.verdict == accepted:
			d.settled()
			l.refused = 0
			l.update(func(st *Stats) { st.Accepted += int64(s.len()) })
		case a.verdict == refused:
			if err := l.refuse(ctx, d, s, a); err != nil {
				return err
			}
		case a.keyRefused() && !rotated && l.keyRotated():
			rotated = true // sent again with the new key, once
		default:
			return &failure{err: a.err, paused: a.verdict == paused, retryAfter: a.retryAfter}
		}
	}
	return nil
}

// keyRotated takes up a key that replaced the one just refused. Without one it
// leaves the key marked as stale.
func (l *loop) keyRotated() bool {
	l.keyStale = true
	return l.keyChanged() && l.askKey() == nil
}

// refuse halves a part that the receiver refused, or sets its only reading
// aside.
func (l *loop) refuse(ctx context.Context, d *delivery, s span, a answer) error {
	if s.len() > 1 {
		if a.status == http.StatusRequestEntityTooLarge {
			l.shrink(s.len())
		}
		d.halve()
		return nil
	}
	if l.refused >= maxRefused {
		// Readings of now are the better probe, if any come.
		l.o.Queue.MarkBacklog()
		return &failure{paused: true, err: fmt.Errorf(
			"the server refuses every reading: %w; check cloud.endpoint, cloud.format and the receiver; nothing more is set aside", a.err)}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), queueTimeout)
	defer cancel()
	seq := d.batch.First + uint64(s.from)
	if err := l.o.Queue.DeadLetter(ctx, d.batch, seq, a.status, a.reason); err != nil {
		return fmt.Errorf("dead-letter reading %d: %w", seq, err)
	}
	d.settled()
	d.dead, d.refusal = d.dead+1, a.err
	l.refused++
	l.update(func(st *Stats) { st.DeadLettered++ })
	return nil
}

// settled removes the next part.
func (d *delivery) settled() {
	d.todo = d.todo[1:]
	d.progress = true
}

// halve replaces the next part by its halves.
func (d *delivery) halve() {
	s := d.todo[0]
	mid := s.from + s.len()/2
	d.todo = slices.Insert(d.todo[1:], 0, span{s.from, mid}, span{mid, s.to})
}

// isolate moves one reading, picked by random in [0,1), to the front as a part
// of its own: the cheapest question to a receiver that refused all the last
// ones, and a different one each time.
func (d *delivery) isolate(random float64) {
	left := 0
	for _, s := range d.todo {
		left += s.len()
	}
	pick := int(random * float64(left))
	todo := make([]span, 1, len(d.todo)+2)
	for _, s := range d.todo {
		if pick < 0 || pick >= s.len() {
			todo = append(todo, s)
			pick -= s.len()
			continue
		}
		at := s.from + pick
		todo[0] = span{at, at + 1}
		for _, rest := range []span{{s.from, at}, {at + 1, s.to}} {
			if rest.len() > 0 {
				todo = append(todo, rest)
			}
		}
		pick = -1
	}
	d.todo = todo
}

// decode makes d.lines, one for each reading.
func (d *delivery) decode() error {
	if d.lines != nil {
		return nil
	}
	lines, err := syncqueue.Lines(d.batch)
	if err != nil {
		return fmt.Errorf("decode readings %d-%d: %w", d.batch.First, d.batch.Last, err)
	}
	d.lines = lines
	return nil
}

// shrink lowers the batch size after n readings were too large.
func (l *loop) shrink(n int) {
	l.size, l.calm = max(1, min(l.size, n/2)), 0
}

// grow raises a lowered batch size after enough batches were accepted.
func (l *loop) grow() {
	if l.size == l.o.BatchSize {
		return
	}
	if l.calm++; l.calm >= calmBatches {
		l.size, l.calm = min(2*l.size, l.o.BatchSize), 0
	}
}
