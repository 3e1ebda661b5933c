package pack

import (
	"encoding/binary"

	"github.com/pyvorin/pyvorin-edge/ota/bundle"
)

// seedBytes is the length from which a match is found, and maxTried how many
// places with the same seed are compared.
const (
	seedBytes = 16
	maxTried  = 24
)

// diff returns the patch that makes newer out of older (see bundle's delta.go).
// It is the algorithm of bsdiff: code that moved is equal but for the addresses
// in it, so a match goes on over differences as long as half of the bytes are
// equal. Exact matches to begin with are found by a hash of their first bytes
// instead of a suffix array, which takes a tenth of the time and finds about as
// much in programs.
func diff(older, newer []byte) []byte {
	d := differ{older: older, newer: newer, seeds: newSeeds(older)}
	d.run()
	return d.patch
}

type differ struct {
	older, newer []byte
	seeds        seeds
	patch        []byte

	// What was decided: newer up to done is in the patch, and continues at
	// older[at] as far as it is alike.
	done, at int
}

func (d *differ) run() {
	var scan, length, pos, offset int // newer[scan:scan+length] equals older[pos:]
	for scan < len(d.newer) {
		// Bytes that continue the present match count against a new one, which
		// has to be better by enough to be worth a record.
		continued, counted := 0, scan+length
		for scan += length; scan < len(d.newer); scan++ {
			pos, length = d.seeds.longest(d.older, d.newer, scan, scan+offset)
			for ; counted < scan+length; counted++ {
				if d.same(counted, counted+offset) {
					continued++
				}
			}
			if length == continued && length > 0 || length > continued+8 {
				break
			}
			if d.same(scan, scan+offset) {
				continued--
			}
		}
		if length == continued && scan < len(d.newer) {
			continue // it is the present match itself
		}
		d.emit(scan, pos)
		offset = pos - scan
	}
}

func (d *differ) same(i, j int) bool {
	return j >= 0 && j < len(d.older) && i < len(d.newer) && d.newer[i] == d.older[j]
}

// emit writes the record for newer[done:scan], after which newer[scan:] goes on
// at older[pos:].
func (d *differ) emit(scan, pos int) {
	forward := d.extendForward(scan)
	back := 0
	if scan < len(d.newer) {
		back = d.extendBack(scan, pos)
	}
	if overlap := d.done + forward - (scan - back); overlap > 0 {
		forward, back = d.share(overlap, forward, back, scan, pos)
	}
	end := scan - back
	seek := 0
	if scan < len(d.newer) {
		seek = (pos - back) - (d.at + forward)
	}
	rec := bundle.Record{Diff: int64(forward), Extra: int64(end - d.done - forward), Seek: int64(seek)}
	d.patch = rec.Append(d.patch)
	for i := range forward {
		d.patch = append(d.patch, d.newer[d.done+i]-d.older[d.at+i])
	}
	d.patch = append(d.patch, d.newer[d.done+forward:end]...)
	d.done, d.at = end, pos-back
}

// extendForward returns how far the present match goes on, at most to scan, with
// at least half of the bytes equal.
func (d *differ) extendForward(scan int) int {
	equal, best, length := 0, 0, 0
	for i := 0; d.done+i < scan && d.at+i < len(d.older); {
		if d.older[d.at+i] == d.newer[d.done+i] {
			equal++
		}
		i++
		if equal*2-i > best*2-length {
			best, length = equal, i
		}
	}
	return length
}

// extendBack returns how far before scan the next match begins already.
func (d *differ) extendBack(scan, pos int) int {
	equal, best, length := 0, 0, 0
	for i := 1; scan >= d.done+i && pos >= i; i++ {
		if d.older[pos-i] == d.newer[scan-i] {
			equal++
		}
		if equal*2-i > best*2-length {
			best, length = equal, i
		}
	}
	return length
}

// share divides the overlap of the two matches where that leaves the most bytes
// equal.
func (d *differ) share(overlap, forward, back, scan, pos int) (int, int) {
	score, best, mine := 0, 0, 0
	for i := range overlap {
		if d.newer[d.done+forward-overlap+i] == d.older[d.at+forward-overlap+i] {
			score++
		}
		if d.newer[scan-back+i] == d.older[pos-back+i] {
			score--
		}
		if score > best {
			best, mine = score, i+1
		}
	}
	return forward + mine - overlap, back - mine
}

// seeds finds the places in a text by the hash of their first bytes.
type seeds struct {
	shift uint
	last  []int32 // by hash: the last place, plus 1
	prev  []int32 // by place: the one before with the same hash, plus 1
}

func newSeeds(text []byte) seeds {
	bits := uint(16)
	for 1<<bits < len(text) && bits < 26 {
		bits++
	}
	s := seeds{shift: 64 - bits, last: make([]int32, 1<<bits), prev: make([]int32, len(text))}
	for i := 0; i+seedBytes <= len(text); i++ {
		h := s.hash(text[i:])
		s.prev[i], s.last[h] = s.last[h], int32(i+1)
	}
	return s
}

func (s seeds) hash(b []byte) uint64 {
	const odd = 0x9E3779B97F4A7C15
	lo, hi := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
	return ((lo*odd ^ hi) * odd) >> s.shift
}

// longest returns where in older the longest match of newer[scan:] is, of those
// that were tried, and its length; 0 for none. The place expected is tried first
// and wins a draw.
func (s seeds) longest(older, newer []byte, scan, expected int) (pos, length int) {
	if expected >= 0 && expected < len(older) {
		pos, length = expected, matchLength(older[expected:], newer[scan:])
	}
	if scan+seedBytes > len(newer) {
		return pos, length
	}
	next := s.last[s.hash(newer[scan:])]
	for range maxTried {
		if next == 0 {
			break
		}
		at := int(next - 1)
		next = s.prev[at]
		// Only what is longer counts, and that differs here if anywhere soon.
		if length > 0 && (at+length >= len(older) || scan+length >= len(newer) || older[at+length] != newer[scan+length]) {
			continue
		}
		if n := matchLength(older[at:], newer[scan:]); n > length {
			pos, length = at, n
		}
	}
	return pos, length
}

func matchLength(a, b []byte) int {
	n := min(len(a), len(b))
	i := 0
	for ; i+8 <= n; i += 8 {
		if binary.LittleEndian.Uint64(a[i:]) != binary.LittleEndian.Uint64(b[i:]) {
			break
		}
	}
	for i < n && a[i] == b[i] {
		i++
	}
	return i
}
