package syncqueue

import (
	"slices"
	"sort"

	"github.com/pyvorin/pyvorin-edge/config"
)

// priority is a config.Priority as stored; never renumber.
type priority uint8

const (
	low priority = iota
	normal
	high

	priorities
)

func priorityOf(p config.Priority) priority {
	switch p {
	case config.PriorityHigh:
		return high
	case config.PriorityLow:
		return low
	}
	return normal
}

// rowOverheadBytes is what a row counts beyond its payload.
const rowOverheadBytes = 64

// row is what the queue knows of a stored row without reading it. There is one
// for every row on disk, so it is kept small.
type row struct {
	first    uint64
	ts0      int64  // earliest timestamp, Unix milliseconds
	n        uint32 // readings; 0 in an index means removed
	bytes    uint32 // payload and overhead
	span     uint32 // milliseconds from the earliest to the latest timestamp
	prio     priority
	encoding Encoding
	clock    clockMark
	thisBoot bool // the clock columns are of this boot
	leased   bool
}

func (r *row) last() uint64 { return r.first + uint64(r.n) - 1 }

// clampSpan returns ts1-ts0 as a row keeps it.
func clampSpan(ts0, ts1 int64) uint32 { return uint32(min(max(ts1-ts0, 0), 1<<32-1)) }

// rowList is a list of rows in order of seq, from which most are taken at the
// front. A row removed elsewhere stays as a hole until the front reaches it.
type rowList struct {
	all   []row
	head  int // rows before it are gone
	holes int // removed rows at or after head
}

func (l *rowList) rows() []row { return l.all[l.head:] }

func (l *rowList) push(r row) { l.all = append(l.all, r) }

// insert puts r where its seq belongs.
func (l *rowList) insert(r row) {
	i := l.head + l.search(r.first)
	if i < len(l.all) && l.all[i].first == r.first { // the hole it left
		l.all[i] = r
		l.holes--
		return
	}
	l.all = slices.Insert(l.all, i, r)
}

// search returns the position in rows of the first row not before seq.
func (l *rowList) search(seq uint64) int {
	rows := l.rows()
	return sort.Search(len(rows), func(i int) bool { return rows[i].first >= seq })
}

// find returns the row that begins with seq first, nil when there is none.
func (l *rowList) find(first uint64) *row {
	rows := l.rows()
	if i := l.search(first); i < len(rows) && rows[i].first == first && rows[i].n > 0 {
		return &rows[i]
	}
	return nil
}

// holding returns the row that holds the reading seq, nil when there is none.
func (l *rowList) holding(seq uint64) *row {
	rows := l.rows()
	i := sort.Search(len(rows), func(i int) bool { return rows[i].first > seq }) - 1
	if i < 0 || rows[i].n == 0 || rows[i].last() < seq {
		return nil
	}
	return &rows[i]
}

// remove makes r, which find returned, a hole.
func (l *rowList) remove(r *row) {
	r.n = 0
	l.holes++
	for l.head < len(l.all) && l.all[l.head].n == 0 {
		l.head++
		l.holes--
	}
	live := len(l.all) - l.head - l.holes
	if gone := l.head + l.holes; gone < 1024 || gone < live {
		return
	}
	kept := make([]row, 0, live+live/4)
	for _, r := range l.rows() {
		if r.n > 0 {
			kept = append(kept, r)
		}
	}
	*l = rowList{all: kept}
}

// index is every row of the queue in the order of delivery and eviction.
type index struct {
	backlog, live [priorities]rowList
	depth, bytes  int64
	ready         int64 // readings that are not leased
}

// add puts a row that is newer than all others in its place.
func (x *index) add(r row, backlog bool) {
	if backlog {
		x.backlog[r.prio].push(r)
	} else {
		x.live[r.prio].push(r)
	}
	x.count(&r, 1)
}

// restore puts a row of old readings back.
func (x *index) restore(r row) {
	x.backlog[r.prio].insert(r)
	x.count(&r, 1)
}

func (x *index) count(r *row, sign int64) {
	x.depth += sign * int64(r.n)
	x.bytes += sign * int64(r.bytes)
	if !r.leased {
		x.ready += sign * int64(r.n)
	}
}

func (x *index) lists() [2 * priorities]*rowList {
	var all [2 * priorities]*rowList
	for p := range priorities {
		all[2*p], all[2*p+1] = &x.backlog[p], &x.live[p]
	}
	return all
}

// find returns the row that begins with first, and its list.
func (x *index) find(first uint64) (*row, *rowList) {
	for _, l := range x.lists() {
		if r := l.find(first); r != nil {
			return r, l
		}
	}
	return nil, nil
}

// holding returns the row that holds the reading seq, nil when there is none.
func (x *index) holding(seq uint64) *row {
	for _, l := range x.lists() {
		if r := l.holding(seq); r != nil {
			return r
		}
	}
	return nil
}

// remove forgets the row that begins with first, if there is one.
func (x *index) remove(first uint64) {
	if r, l := x.find(first); r != nil {
		x.count(r, -1)
		l.remove(r)
	}
}

// setLeased marks a row as leased or free again.
func (x *index) setLeased(r *row, leased bool) {
	if r.leased == leased {
		return
	}
	x.count(r, -1)
	r.leased = leased
	x.count(r, 1)
}

// markBacklog makes everything queued now backlog.
func (x *index) markBacklog() {
	for p := range priorities {
		for _, r := range x.live[p].rows() {
			if r.n == 0 {
				continue
			}
			// Only behind restored rows the order is not kept by itself.
			if rows := x.backlog[p].rows(); len(rows) == 0 || rows[len(rows)-1].first < r.first {
				x.backlog[p].push(r)
			} else {
				x.backlog[p].insert(r)
			}
		}
		x.live[p] = rowList{}
	}
}

// oldest returns the timestamp of the row accepted first; ok is false when
// there is no row.
func (x *index) oldest() (unixMilli int64, ok bool) {
	var first uint64
	for _, l := range x.lists() {
		if rows := l.rows(); len(rows) > 0 && (!ok || rows[0].first < first) {
			first, unixMilli, ok = rows[0].first, rows[0].ts0, true
		}
	}
	return unixMilli, ok
}

// oldestSeq returns the smallest seq queued, or next when there is none.
func (x *index) oldestSeq(next uint64) uint64 {
	for _, l := range x.lists() {
		if rows := l.rows(); len(rows) > 0 {
			next = min(next, rows[0].first)
		}
	}
	return next
}

// pick returns the rows of the next batch: high priority first, then live rows
// oldest first, then the backlog by priority and oldest first. They are of one
// encoding and one unbroken range of seqs. A row for which held is true, and
// what is behind it in its list, has to wait.
func (x *index) pick(want Want, held func(*row) bool) (picked []*row, backlog bool) {
	for _, from := range []struct {
		backlog bool
		lists   []*rowList
	}{
		{true, []*rowList{&x.backlog[high]}},
		{false, []*rowList{&x.live[high]}},
		{false, []*rowList{&x.live[normal], &x.live[low]}},
		{true, []*rowList{&x.backlog[normal]}},
		{true, []*rowList{&x.backlog[low]}},
	} {
		if picked := pickFrom(from.lists, want, held); len(picked) > 0 {
			return picked, from.backlog
		}
	}
	return nil, false
}

func pickFrom(lists []*rowList, want Want, held func(*row) bool) (picked []*row) {
	at := make([]int, len(lists))
	var readings, bytes int64
	for {
		var best *row
		var from int
		for i, l := range lists {
			rows := l.rows()
			for at[i] < len(rows) && (rows[at[i]].n == 0 || rows[at[i]].leased) {
				at[i]++
			}
			if at[i] == len(rows) || held(&rows[at[i]]) {
				continue
			}
			if r := &rows[at[i]]; best == nil || r.first < best.first {
				best, from = r, i
			}
		}
		if best == nil {
			return picked
		}
		if len(picked) > 0 {
			prev := picked[len(picked)-1]
			if best.first != prev.last()+1 || best.encoding != prev.encoding ||
				readings+int64(best.n) > int64(want.Readings) ||
				want.Bytes > 0 && bytes+int64(best.bytes)-rowOverheadBytes > want.Bytes {
				return picked
			}
		}
		picked = append(picked, best)
		readings += int64(best.n)
		bytes += int64(best.bytes) - rowOverheadBytes
		at[from]++
	}
}

// victim returns the row to evict next: the lowest priority, then the oldest,
// never a leased one. want says whether to take a row and, if not, whether to
// look at younger ones of its list.
func (x *index) victim(want func(*row) (take, goOn bool)) *row {
	for p := range priorities {
		old, young := x.backlog[p].victim(want), x.live[p].victim(want)
		// A restored row of the backlog can be younger than a live one.
		if old == nil || young != nil && young.first < old.first {
			old = young
		}
		if old != nil {
			return old
		}
	}
	return nil
}

func (l *rowList) victim(want func(*row) (take, goOn bool)) *row {
	rows := l.rows()
	for i := range rows {
		if rows[i].n == 0 || rows[i].leased {
			continue
		}
		if take, goOn := want(&rows[i]); take {
			return &rows[i]
		} else if !goOn {
			return nil
		}
	}
	return nil
}
