package main

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/pyvorin/pyvorin-edge/internal/human"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// readingColumns are the cells of a readingRow.
var readingColumns = []string{"SENSOR", "VALUE", "UNIT", "QUALITY", "TIME", ""}

// readingRow is one line of output: the cells of a reading, and its JSON form,
// or a sensor's name and a remark on it, which begins where values do.
type readingRow struct {
	cells []string
	json  []byte
}

// growingTable prints rows that come by and by, in columns that only widen.
type growingTable struct {
	widths []int // of readingColumns; nil is as wide as the first rows need
	begun  bool
}

func (t *growingTable) print(out io.Writer, rows []readingRow) error {
	if t.widths == nil {
		t.widths = make([]int, len(readingColumns))
	}
	if !t.begun {
		t.begun = true
		rows = append([]readingRow{{cells: readingColumns}}, rows...)
	}
	for _, row := range rows {
		for i, cell := range row.cells {
			if i == 0 || len(row.cells) == len(readingColumns) {
				t.widths[i] = max(t.widths[i], utf8.RuneCountInString(cell))
			}
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row.cells {
			fmt.Fprintf(&line, "%-*s  ", t.widths[i], cell)
		}
		if _, err := fmt.Fprintln(out, strings.TrimRight(line.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}

// clockTime is the local time of day, with the zone: a device's is often not
// the one of who looks at it.
func clockTime(t time.Time) string { return t.Local().Format("15:04:05.000Z07:00") }

// valueText writes numbers of everyday size without an exponent.
func valueText(v wire.Value) string {
	if f, ok := v.Float(); ok && math.Abs(f) < 1e15 {
		return strconv.FormatFloat(f, 'f', -1, 64)
	}
	return v.String()
}

// cellFor returns what makes a name or a value fit for a table in out: what a
// device sent could hold escape sequences, or fill the screen.
func cellFor(out io.Writer) func(string) string {
	if !isTerminal(out) {
		return human.Plain
	}
	const most = 60
	return func(s string) string { return human.Cut(human.Plain(s), most) }
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
