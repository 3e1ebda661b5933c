package modbus

import (
	"cmp"
	"slices"
)

// query is what one request asks for.
type query struct {
	kind           string // of register, as in config
	address, count int
}

// answer is what came for it: the bytes of its registers as they travelled,
// two each, or its bits.
type answer struct {
	registers []byte
	bits      []bool
}

// block is values that are read by one request.
type block struct {
	query
	values []value // by address
	silent bool    // the last request of it got no answer
}

// newPlan groups values whose registers are no more than maxGap apart.
func newPlan(values []value, maxGap int) []*block {
	sorted := slices.Clone(values)
	slices.SortStableFunc(sorted, func(a, b value) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), a.address-b.address)
	})
	var plan []*block
	for from := 0; from < len(sorted); {
		first := sorted[from]
		most := maxRegisters
		if isBit(first.kind) {
			most = maxBits
		}
		to, end := from+1, first.end()
		for ; to < len(sorted); to++ {
			next := sorted[to]
			if next.kind != first.kind || next.address-end > maxGap || next.end()-first.address > most {
				break
			}
			end = max(end, next.end())
		}
		plan = append(plan, newBlock(sorted[from:to]))
		from = to
	}
	return plan
}

func newBlock(values []value) *block {
	b := &block{query: query{kind: values[0].kind, address: values[0].address}, values: values}
	for _, v := range values {
		b.count = max(b.count, v.end()-b.address)
	}
	return b
}

// split divides a block of several values that the unit refuses to give at
// once: at the widest gap, which may be what it refuses, or in the middle. After
// a few more requests a value that it does not have stands alone.
func (b *block) split() (first, second *block) {
	at, widest := len(b.values)/2, 0
	end := b.values[0].end()
	for i, v := range b.values {
		if gap := v.address - end; gap > widest {
			at, widest = i, gap
		}
		end = max(end, v.end())
	}
	return newBlock(b.values[:at]), newBlock(b.values[at:])
}

// wireBytes is how many bytes the request and its answer are on a serial line.
func (q query) wireBytes() int {
	const request, overhead = 8, 5
	if isBit(q.kind) {
		return request + overhead + (q.count+7)/8
	}
	return request + overhead + 2*q.count
}
