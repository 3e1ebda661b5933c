package syncqueue

import (
	"time"

	"github.com/pyvorin/pyvorin-edge/wire"
)

// lossKind is a cause for which readings that were accepted will not arrive.
type lossKind string

const (
	evictedSize lossKind = "evicted size"
	evictedAge  lossKind = "evicted age"
	lostDamage  lossKind = "lost damage"
	lostJump    lossKind = "lost jump"

	// salvageEnd is not a loss: salvage notes with it, in first, the seq after
	// the newest row that it could read, for the jump that follows.
	salvageEnd lossKind = "salvage end"
)

// lossKinds says how each kind is announced.
var lossKinds = []struct {
	kind        lossKind
	typ, reason string
}{
	{evictedSize, wire.LossEvicted, "the queue reached its size limit"},
	{evictedAge, wire.LossEvicted, "older than the age limit"},
	{lostDamage, wire.LossLost, "the queue file was damaged"},
	{lostJump, wire.LossLost, "the queue file was lost; numbering went on after the highest number that it may have used"},
}

// announceEvery bounds announcements: one of each kind in this time. What is
// lost between is added up, on disk, and announced then.
const announceEvery = time.Minute

// loss is what was lost of one kind since the last announcement.
type loss struct {
	n           int64
	exact       bool // n is the number; otherwise nobody knows
	first, last uint64
}

// lossOf is the loss of all that r holds.
func lossOf(r row) loss { return loss{n: int64(r.n), exact: true, first: r.first, last: r.last()} }

func lossesOf(rows []row) []loss {
	out := make([]loss, len(rows))
	for i, r := range rows {
		out[i] = lossOf(r)
	}
	return out
}

func (l loss) merge(m loss) loss {
	if l == (loss{}) {
		return m
	}
	return loss{n: l.n + m.n, exact: l.exact && m.exact, first: min(l.first, m.first), last: max(l.last, m.last)}
}

// losses are the losses not announced yet, as the table loss has them.
type losses map[lossKind]loss

// with returns a copy of ls to which l was added.
func (ls losses) with(kind lossKind, l loss) losses {
	out := losses{}
	for k, v := range ls {
		out[k] = v
	}
	out[kind] = out[kind].merge(l)
	return out
}

// saveLosses replaces the losses noted; it runs inside a transaction.
func (s *store) saveLosses(ls losses) error {
	if _, err := s.write.ExecContext(bg, "DELETE FROM loss"); err != nil {
		return err
	}
	for kind, l := range ls {
		if _, err := s.putLoss.ExecContext(bg, string(kind), l.n, l.exact, int64(l.first), int64(l.last)); err != nil {
			return err
		}
	}
	return nil
}

func (s *store) loadLosses() (losses, error) {
	rows, err := s.write.QueryContext(bg, "SELECT kind, n, exact, first, last FROM loss")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	ls := losses{}
	for rows.Next() {
		var kind lossKind
		var l loss
		var first, last int64
		if err := rows.Scan(&kind, &l.n, &l.exact, &first, &last); err != nil {
			return nil, damage(err.Error())
		}
		l.first, l.last = uint64(first), uint64(last)
		ls[kind] = l
	}
	return ls, rows.Err()
}

// announcements returns the readings that tell the receiver of ls.
func announcements(ls losses, now time.Time) []wire.Reading {
	var out []wire.Reading
	for _, k := range lossKinds {
		l, ok := ls[k.kind]
		if !ok {
			continue
		}
		r := wire.Reading{
			Sensor: wire.LossSensor, Type: k.typ, Unit: "1", Timestamp: now, Quality: wire.Good,
			Meta: map[string]wire.Value{
				"first_seq": wire.NumberValue(float64(l.first)),
				"last_seq":  wire.NumberValue(float64(l.last)),
				"reason":    wire.TextValue(k.reason),
			},
		}
		if l.exact {
			r.Value = wire.NumberValue(float64(l.n))
		} else {
			r.Quality, r.Reason = wire.Uncertain, "how many of these numbers were queued is not known"
		}
		out = append(out, r)
	}
	return out
}

// span is a range of seqs whose rows were lost.
type span struct {
	first, last uint64
	exact       bool
}
