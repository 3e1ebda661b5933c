package syncqueue

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// model is the index as one would write it without caring for speed.
type model struct {
	rows []modelRow // by seq
}

type modelRow struct {
	row
	backlog bool
}

func (m *model) at(first uint64) *modelRow {
	i := slices.IndexFunc(m.rows, func(r modelRow) bool { return r.first == first })
	if i < 0 {
		return nil
	}
	return &m.rows[i]
}

func (m *model) remove(first uint64) {
	m.rows = slices.DeleteFunc(m.rows, func(r modelRow) bool { return r.first == first })
}

// victim is the lowest priority, then the oldest, and not leased.
func (m *model) victim() uint64 {
	var best *modelRow
	for i := range m.rows {
		if r := &m.rows[i]; !r.leased && (best == nil || r.prio < best.prio) {
			best = r
		}
	}
	if best == nil {
		return 0
	}
	return best.first
}

// class orders leases: high priority, live, backlog by priority.
func (r *modelRow) class() int {
	switch {
	case r.prio == high && r.backlog:
		return 0
	case r.prio == high:
		return 1
	case !r.backlog:
		return 2
	case r.prio == normal:
		return 3
	}
	return 4
}

// pick is the first row in order of delivery, and what continues it.
func (m *model) pick(want Want) (firsts []uint64) {
	var best *modelRow
	for i := range m.rows {
		if r := &m.rows[i]; !r.leased && (best == nil || r.class() < best.class()) {
			best = r
		}
	}
	if best == nil {
		return nil
	}
	firsts = []uint64{best.first}
	readings, bytes := int64(best.n), int64(best.bytes)-rowOverheadBytes
	for prev := best; ; {
		r := m.at(prev.last() + 1)
		if r == nil || r.leased || r.class() != best.class() || r.backlog != best.backlog || r.encoding != best.encoding {
			return firsts
		}
		readings, bytes = readings+int64(r.n), bytes+int64(r.bytes)-rowOverheadBytes
		if readings > int64(want.Readings) || want.Bytes > 0 && bytes > want.Bytes {
			return firsts
		}
		firsts, prev = append(firsts, r.first), r
	}
}

func (m *model) totals() (depth, bytes, ready int64) {
	for _, r := range m.rows {
		depth, bytes = depth+int64(r.n), bytes+int64(r.bytes)
		if !r.leased {
			ready += int64(r.n)
		}
	}
	return depth, bytes, ready
}

// Whatever is done to the index: it leases, evicts and counts as the model does.
func TestIndexIsItsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var x index
		var m model
		next := uint64(1)
		var leased, gone []row
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				r := row{
					first: next, n: rapid.Uint32Range(1, 5).Draw(t, "n"), bytes: rapid.Uint32Range(100, 400).Draw(t, "bytes"),
					prio: priority(rapid.IntRange(0, 2).Draw(t, "prio")), encoding: Encoding(rapid.IntRange(1, 2).Draw(t, "encoding")),
				}
				next = r.last() + 1
				x.add(r, false)
				m.rows = append(m.rows, modelRow{row: r})
			},
			"markBacklog": func(*rapid.T) {
				x.markBacklog()
				for i := range m.rows {
					m.rows[i].backlog = true
				}
			},
			"lease": func(t *rapid.T) {
				want := Want{Readings: rapid.IntRange(1, 12).Draw(t, "readings"), Bytes: int64(rapid.IntRange(0, 900).Draw(t, "limit"))}
				picked, backlog := x.pick(want, func(*row) bool { return false })
				var got []uint64
				for _, r := range picked {
					got = append(got, r.first)
					if backlog != m.at(r.first).backlog {
						t.Fatalf("row %d is backlog: %v", r.first, !backlog)
					}
				}
				if w := m.pick(want); !slices.Equal(got, w) {
					t.Fatalf("leased %v, the model %v", got, w)
				}
				for _, r := range picked {
					x.setLeased(r, true)
					m.at(r.first).leased = true
					leased = append(leased, *r)
				}
			},
			"nack": func(t *rapid.T) {
				if len(leased) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(leased)-1).Draw(t, "which")
				r, _ := x.find(leased[i].first)
				x.setLeased(r, false)
				m.at(r.first).leased = false
				leased = slices.Delete(leased, i, i+1)
			},
			"ack": func(t *rapid.T) {
				if len(leased) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(leased)-1).Draw(t, "which")
				x.remove(leased[i].first)
				m.remove(leased[i].first)
				gone = append(gone, leased[i])
				leased = slices.Delete(leased, i, i+1)
			},
			"evict": func(t *rapid.T) {
				r := x.victim(func(*row) (bool, bool) { return true, false })
				want := m.victim()
				if r == nil && want == 0 {
					return
				}
				if r == nil || r.first != want {
					t.Fatalf("evicted %+v, the model %d", r, want)
				}
				x.remove(want)
				m.remove(want)
			},
			"restore": func(t *rapid.T) {
				if len(gone) == 0 {
					t.Skip()
				}
				r := gone[len(gone)-1]
				gone = gone[:len(gone)-1]
				r.leased = false
				if x.holding(r.first) == nil {
					x.restore(r)
					i, _ := slices.BinarySearchFunc(m.rows, r.first, func(a modelRow, first uint64) int { return int(a.first) - int(first) })
					m.rows = slices.Insert(m.rows, i, modelRow{row: r, backlog: true})
				}
			},
			"": func(t *rapid.T) {
				depth, bytes, ready := m.totals()
				if x.depth != depth || x.bytes != bytes || x.ready != ready {
					t.Fatalf("counts %d %d %d, the model %d %d %d", x.depth, x.bytes, x.ready, depth, bytes, ready)
				}
				want := next
				if len(m.rows) > 0 {
					want = m.rows[0].first
				}
				if got := x.oldestSeq(next); got != want {
					t.Fatalf("oldest seq %d, the model %d", got, want)
				}
			},
		})
	})
}

// Rows removed from the middle do not pile up, nor do those before the front.
func TestRowListGivesMemoryBack(t *testing.T) {
	var l rowList
	for seq := uint64(1); seq <= 100_000; seq++ {
		l.push(row{first: seq, n: 1})
	}
	for seq := uint64(2); seq <= 100_000; seq++ {
		l.remove(l.find(seq))
	}
	if len(l.all) > 5000 || cap(l.all) > 10_000 || l.find(1) == nil {
		t.Errorf("%d rows, room for %d, after all but one were removed", len(l.all), cap(l.all))
	}
}
