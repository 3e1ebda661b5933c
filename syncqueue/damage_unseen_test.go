package syncqueue_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/syncqueue"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// Damage that leaves SQLite content: values of another type, headers of rows that
// say something else, rows that are not found any more. Opening works, and what
// does not arrive is announced.
func TestDamageThatSQLiteDoesNotSee(t *testing.T) {
	claimsPages := []byte{0, 0, 0, 1, 0, 0, 0, 1} // in the header; fails quick_check and hides no row
	for name, c := range map[string]struct {
		sql    string
		offset int64 // of bytes in the file that change as well; 0 none
		bytes  []byte
		left   int    // readings
		told   string // first_seq, last_seq and value of the announcement; "" for any
	}{
		"a null in a column":            {sql: "UPDATE frames SET ts0=NULL WHERE first=101", left: 950},
		"a null beside the clock":       {sql: "UPDATE frames SET clock=1, boot=NULL WHERE first=101", left: 1000},
		"no payload":                    {sql: "UPDATE frames SET payload=NULL WHERE first=101", left: 950},
		"a sum that is a blob":          {sql: "UPDATE frames SET sum=x'41ff' WHERE first=101", left: 950, told: "101-150: 50"},
		"fewer readings than there are": {sql: "UPDATE frames SET n=18 WHERE first=101", left: 950, told: "101-150: 50"},
		"more readings than there are":  {sql: "UPDATE frames SET n=4000 WHERE first=101", left: 950},
		"no readings":                   {sql: "UPDATE frames SET n=0 WHERE first=101", left: 950},
		"a seq before all":              {sql: "UPDATE frames SET first=-5 WHERE first=101", left: 950},
		"a loss that is no number":      {sql: "INSERT INTO loss VALUES('evicted size','many',1,1,1)", left: 1000},
		"counters that are null":        {sql: "INSERT OR REPLACE INTO meta VALUES('counters',NULL)", left: 1000},
		"rows that cannot be found":     {sql: "DELETE FROM frames WHERE first=101", offset: 32, bytes: claimsPages, left: 950},
		"the oldest cannot be found":    {sql: "DELETE FROM frames WHERE first=1", offset: 32, bytes: claimsPages, left: 950},
		"tables in other places":        {sql: "SELECT 1", offset: swappedRoot, left: 1000},
		"a header that forbids writing": {sql: "SELECT 1", offset: 18, bytes: []byte{34}, left: 1000},
		"a file that says it is small":  {sql: "SELECT 1", offset: 28, bytes: []byte{0, 0, 0, 9}, left: 1000},
		"a schema from the future":      {sql: "SELECT 1", offset: 44, bytes: []byte{0, 0, 0, 20}, left: 1000},
	} {
		t.Run(name, func(t *testing.T) {
			o, want := filled(t, syncqueue.Zstd)
			q := open(t, o)
			if err := syncqueue.Exec(q, c.sql); err != nil {
				t.Fatal(err)
			}
			shut(t, q)
			if c.offset == swappedRoot {
				c.offset, c.bytes = rootOfFrames(t, o.Path), []byte{3} // that of dead
			}
			if c.offset > 0 {
				overwrite(t, o.Path, c.offset, c.bytes)
			}
			q = open(t, o)
			got := deliverAll(t, q)
			enqueue(t, q, 1, config.PriorityNormal) // carries what the leases found
			got.lost = append(got.lost, deliverAll(t, q).lost...)
			got.check(t, name, want)
			if len(got.readings) != c.left {
				t.Errorf("%d readings left, want %d", len(got.readings), c.left)
			}
			if c.told != "" && (len(got.lost) != 1 || told(got.lost[0]) != c.told) {
				t.Errorf("announced %+v, want %s", got.lost, c.told)
			}
		})
	}
}

const swappedRoot = -1

// rootOfFrames returns where the file says on which page the table begins: before
// the statement that made it.
func rootOfFrames(t *testing.T, path string) int64 {
	t.Helper()
	image, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(image, []byte("CREATE TABLE frames")) - 1
	if at < 0 || image[at] != 2 {
		t.Fatalf("no root page at %d", at)
	}
	return int64(at)
}

// told writes an announcement as first-last: value.
func told(r wire.Reading) string {
	text := r.Meta["first_seq"].AppendJSON(nil)
	text = r.Meta["last_seq"].AppendJSON(append(text, '-'))
	return string(r.Value.AppendJSON(append(text, ": "...)))
}

// A row of which a value changed while the queue is open costs that row, and not
// the ones it is leased with.
func TestDamagedRowAmongSoundOnes(t *testing.T) {
	o := options(t.TempDir())
	q := open(t, o)
	for range 10 {
		enqueue(t, q, 10, config.PriorityNormal)
	}
	if err := syncqueue.Exec(q, "UPDATE frames SET encoding='x' WHERE first=31"); err != nil {
		t.Fatal(err)
	}
	got := deliverAll(t, q)
	enqueue(t, q, 1, config.PriorityNormal)
	got.lost = deliverAll(t, q).lost
	if len(got.readings) != 90 || len(got.lost) != 1 || told(got.lost[0]) != "31-40: 10" {
		t.Errorf("%d delivered, announced %+v", len(got.readings), got.lost)
	}
}

// Under a running agent the file became an older one, with damage: what the
// older one does not hold is announced.
func TestDamagedFileOfThePastWhileRunning(t *testing.T) {
	o := options(t.TempDir())
	o.BatchSize = 50
	q := open(t, o)
	settle := func() {
		t.Helper()
		for _, sql := range []string{"PRAGMA wal_checkpoint(TRUNCATE)", "PRAGMA shrink_memory"} {
			if err := syncqueue.Exec(q, sql); err != nil {
				t.Fatal(err)
			}
		}
	}
	enqueue(t, q, 500, config.PriorityNormal)
	settle()
	past, err := os.ReadFile(o.Path)
	if err != nil {
		t.Fatal(err)
	}
	enqueue(t, q, 500, config.PriorityNormal)
	settle()
	copy(past[9*pageSize:], garbage(3*pageSize))
	overwrite(t, o.Path, 0, past)
	if err := os.Truncate(o.Path, int64(len(past))); err != nil {
		t.Fatal(err)
	}
	got := deliverAll(t, q)
	enqueue(t, q, 1, config.PriorityNormal)
	got.lost = append(got.lost, deliverAll(t, q).lost...)
	for seq := uint64(1); seq <= 1000; seq++ {
		if _, ok := got.readings[seq]; !ok && !got.covers(seq) {
			t.Fatalf("reading %d is missing and not announced (%d delivered, announced %+v)", seq, len(got.readings), got.lost)
		}
	}
}

// What was to be announced is remembered when the file forgets it.
func TestLossesOutliveTheirTable(t *testing.T) {
	o := options(t.TempDir())
	o.MaxBytes = 4 << 10
	q := open(t, o)
	for range 6 { // the first eviction is announced at once, the others in a minute
		enqueue(t, q, 100, config.PriorityNormal)
	}
	evicted := q.Stats().Evicted
	for _, sql := range []string{"PRAGMA wal_checkpoint(TRUNCATE)", "PRAGMA shrink_memory"} {
		if err := syncqueue.Exec(q, sql); err != nil {
			t.Fatal(err)
		}
	}
	overwrite(t, o.Path, 3*pageSize, garbage(pageSize))
	enqueue(t, q, 100, config.PriorityNormal) // evicts, and meets the damage
	eventually(t, "recovery", func() bool { return q.Stats().Salvaged > 0 })
	shut(t, q)
	q = open(t, o) // announces again at once
	after := q.Stats().Evicted
	enqueue(t, q, 1, config.PriorityNormal)
	announced := 0.0
	for _, r := range deliverAll(t, q).lost {
		n, _ := r.Value.Float()
		announced += n
	}
	if int64(announced) != after || after <= evicted {
		t.Errorf("%v announced of %d, %d before the damage", announced, after, evicted)
	}
}

// A dead letter queued again is older than all else: salvage goes on behind it.
func TestSalvageOfAReadingQueuedAgain(t *testing.T) {
	o := options(t.TempDir())
	o.BatchSize = 50
	q := open(t, o)
	enqueue(t, q, 1000, config.PriorityNormal)
	b, _ := lease(t, q, syncqueue.Want{})
	if err := q.DeadLetter(context.Background(), b, 7, 400, "no"); err != nil {
		t.Fatal(err)
	}
	for ok := true; ok; b, ok = lease(t, q, syncqueue.Want{}) {
		if ack(t, q, b); b.Last == 500 {
			break
		}
	}
	if n, err := q.DeadRetry(context.Background()); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	shut(t, q)
	// As if the sidecar had been written now.
	if err := os.WriteFile(filepath.Join(filepath.Dir(o.Path), "sync_queue.seq"), []byte(`{"oldest":501,"next":1001,"reserved":2000000}`), 0o600); err != nil {
		t.Fatal(err)
	}
	overwrite(t, o.Path, 32, []byte{0, 0, 0, 1, 0, 0, 0, 1})
	q = open(t, o)
	if got := len(deliverAll(t, q).readings); got != 501 || q.Stats().Salvaged != 501 {
		t.Errorf("%d delivered, %+v", got, q.Stats())
	}
}

// A sidecar that promises numbers no queue can have used is not believed.
func TestImpossibleReservation(t *testing.T) {
	o := options(t.TempDir())
	if err := os.WriteFile(filepath.Join(filepath.Dir(o.Path), "sync_queue.seq"), []byte(`{"oldest":1,"next":1,"reserved":18446744073709551615}`), 0o600); err != nil {
		t.Fatal(err)
	}
	last := uint64(0)
	for range 2 {
		q := open(t, o)
		enqueue(t, q, 1, config.PriorityNormal)
		for _, r := range drain(t, q) {
			if r.Seq <= last || r.Seq > 1<<53 {
				t.Errorf("seq %d after %d", r.Seq, last)
			}
			last = max(last, r.Seq)
		}
		shut(t, q)
	}
}

// Counters must not wait for an ack: offline is when they matter.
func TestCountersAreSavedWhileOffline(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		o := options(dir)
		o.MaxBytes = 2000
		q := open(t, o)
		for range 5 {
			enqueue(t, q, 100, config.PriorityNormal)
		}
		evicted := q.Stats().Evicted
		time.Sleep(70 * time.Second)
		r, err := syncqueue.OpenReader(o.Path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if s, err := r.Stats(context.Background()); err != nil || evicted == 0 || s.Evicted < evicted {
			t.Errorf("a crash now would leave %+v, %v; %d were evicted", s, err, evicted)
		}
		shut(t, q)
	})
}
