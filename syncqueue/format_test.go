package syncqueue_test

import (
	"context"
	"database/sql"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/syncqueue"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// The example in docs/formats.md is what the queue writes.
func TestDocumentedExample(t *testing.T) {
	doc, err := os.ReadFile("../docs/formats.md")
	if err != nil {
		t.Fatal(err)
	}
	o := options(t.TempDir())
	o.Encoding = syncqueue.Plain
	q := open(t, o)
	var readings []sensors.Reading
	for i, v := range []float64{21.5, 21.6} {
		r := reading(0, config.PriorityNormal)
		r.Sensor, r.Value = "temp-01", wire.NumberValue(v)
		r.Time = time.Date(2026, 1, 2, 3, 4, 5+5*i, 678e6, time.UTC)
		readings = append(readings, r)
	}
	if err := q.Enqueue(context.Background(), cleared(t, readings...)); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", o.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	documented := func(query string) {
		var got string
		if err := db.QueryRow(query).Scan(&got); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(doc), got) {
			t.Errorf("not in the document: %s", got)
		}
	}
	const row = `SELECT concat_ws('|', first, n, prio, ts0, ts1, encoding, clock, sum, length(payload)) FROM frames`
	documented(row)
	documented("SELECT CAST(payload AS TEXT) FROM frames")
	drain(t, q)
	documented(row)
	reserved, err := os.ReadFile(strings.TrimSuffix(o.Path, ".db") + ".seq")
	if err != nil || !strings.Contains(string(doc), string(reserved)) {
		t.Errorf("not in the document: %s (%v)", reserved, err)
	}
}
