package syncqueue_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/syncqueue"
	"github.com/pyvorin/pyvorin-edge/wire"
)

const pageSize = 1024

// filled returns the options of a closed queue with 20 rows of 50 readings, seqs
// 1 to 1000, and what it delivers.
func filled(t *testing.T, e syncqueue.Encoding) (syncqueue.Options, map[uint64]string) {
	t.Helper()
	o := options(t.TempDir())
	o.Encoding, o.BatchSize = e, 50
	q := open(t, o)
	enqueue(t, q, 1000, config.PriorityNormal)
	want := map[uint64]string{}
	var batches []syncqueue.Batch
	for {
		b, ok := lease(t, q, syncqueue.Want{})
		if !ok {
			break
		}
		lines, err := syncqueue.Lines(b)
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range lines {
			want[b.First+uint64(i)] = string(line)
		}
		batches = append(batches, b)
	}
	for _, b := range batches {
		q.Nack(b)
	}
	shut(t, q)
	return o, want
}

// outcome is what a receiver sees of a queue that was damaged.
type outcome struct {
	readings map[uint64]string
	lost     []wire.Reading // announcements
}

func deliverAll(t *testing.T, q *syncqueue.Queue) outcome {
	t.Helper()
	out := outcome{readings: map[uint64]string{}}
	for {
		b, ok := lease(t, q, syncqueue.Want{})
		if !ok {
			return out
		}
		lines, err := syncqueue.Lines(b)
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range decode(t, b) {
			if r.Sensor == wire.LossSensor {
				out.lost = append(out.lost, r)
			} else {
				out.readings[r.Seq] = string(lines[i])
			}
		}
		ack(t, q, b)
	}
}

// covers reports whether an announcement names seq.
func (o outcome) covers(seq uint64) bool {
	return slices.ContainsFunc(o.lost, func(r wire.Reading) bool {
		first, _ := r.Meta["first_seq"].Float()
		last, _ := r.Meta["last_seq"].Float()
		return float64(seq) >= first && float64(seq) <= last
	})
}

// check makes sure that what was delivered is what was enqueued, that what is
// missing was announced, and that the numbering did not go back.
func (o outcome) check(t *testing.T, what string, want map[uint64]string) {
	t.Helper()
	for seq, line := range want {
		got, ok := o.readings[seq]
		if ok && got != line {
			t.Errorf("%s: reading %d became %s", what, seq, got)
		}
		if !ok && !o.covers(seq) {
			t.Errorf("%s: reading %d is missing and not announced", what, seq)
			return
		}
	}
	for _, r := range o.lost {
		if r.Seq <= 1000 {
			t.Errorf("%s: seq %d was used again", what, r.Seq)
		}
	}
}

func overwrite(t *testing.T, path string, offset int64, data []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(data, offset); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func garbage(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

// Every page in turn is overwritten, in whole and by one flipped bit. Opening
// works, at most the rows on that page are lost, and the loss is announced.
func TestAnyDamagedPage(t *testing.T) {
	o, want := filled(t, syncqueue.Zstd)
	image, err := os.ReadFile(o.Path)
	if err != nil {
		t.Fatal(err)
	}
	pages := len(image) / pageSize
	for page := range pages {
		if page > 6 && page%5 != 0 {
			continue // leaves and overflow pages are all alike
		}
		for _, kind := range []string{"overwritten", "bit flipped"} {
			dir := t.TempDir()
			at := options(dir)
			at.BatchSize = 50
			damaged := slices.Clone(image)
			if kind == "overwritten" {
				copy(damaged[page*pageSize:], garbage(pageSize))
			} else {
				damaged[page*pageSize+rand.IntN(pageSize)] ^= 1 << rand.IntN(8)
			}
			if err := os.WriteFile(at.Path, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			copyFile(t, filepath.Join(filepath.Dir(o.Path), "sync_queue.seq"), filepath.Join(dir, "sync_queue.seq"))
			q, err := syncqueue.Open(context.Background(), at)
			if err != nil {
				t.Errorf("page %d %s: %v", page+1, kind, err)
				continue
			}
			first := deliverAll(t, q)
			enqueue(t, q, 1, config.PriorityNormal) // carries what Lease found
			second := deliverAll(t, q)
			first.lost = append(first.lost, second.lost...)
			for seq := range second.readings {
				if seq <= 1000 {
					t.Errorf("page %d %s: seq %d was used again", page+1, kind, seq)
				}
			}
			first.check(t, fmt.Sprintf("page %d %s", page+1, kind), want)
			if page == 0 && len(first.readings) != 1000 {
				t.Errorf("%s first page: %d of 1000 readings left", kind, len(first.readings))
			}
			if lost := 1000 - len(first.readings); page > 6 && lost > 100 {
				t.Errorf("page %d %s: %d readings lost to one page", page+1, kind, lost)
			}
			shut(t, q)
		}
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// flipPayload changes a byte of the payload that begins with line. SQLite leaves
// stale copies of what it moved, so all that look like it are changed.
func flipPayload(t *testing.T, o syncqueue.Options, line string) {
	t.Helper()
	image, err := os.ReadFile(o.Path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(image, []byte(line[:60])) {
		t.Fatal("payload not found")
	}
	changed := line[:30] + "~" + line[31:60]
	overwrite(t, o.Path, 0, bytes.ReplaceAll(image, []byte(line[:60]), []byte(changed)))
}

// A flipped bit inside a payload is invisible to SQLite. The checksum of the row
// keeps it from being sent.
func TestFlippedBitInAPayloadIsNotDelivered(t *testing.T) {
	o, want := filled(t, syncqueue.Plain)
	flipPayload(t, o, want[101])
	q := open(t, o)
	if s := q.Stats(); s.Depth != 1000 {
		t.Fatalf("depth %d: the damage was meant to go unnoticed at open", s.Depth)
	}
	first := deliverAll(t, q)
	if s := q.Stats(); len(first.readings) != 950 || s.LostRows != 50 {
		t.Errorf("%d delivered, %+v", len(first.readings), s)
	}
	enqueue(t, q, 1, config.PriorityNormal)
	first.lost = append(first.lost, deliverAll(t, q).lost...)
	first.check(t, "flipped bit", want)
	if len(first.lost) != 1 || first.lost[0].Value != wire.NumberValue(50) || first.lost[0].Type != "lost" {
		t.Errorf("announced %+v", first.lost)
	}
}

func TestSalvageCountsWhatItLost(t *testing.T) {
	o, want := filled(t, syncqueue.Plain)
	// Two payloads damaged, and a page that quick_check sees: the file's last.
	flipPayload(t, o, want[101])
	flipPayload(t, o, want[501])
	info, err := os.Stat(o.Path)
	if err != nil {
		t.Fatal(err)
	}
	// Claiming pages that are not there fails quick_check and hides no row.
	overwrite(t, o.Path, 32, []byte{0, 0, 0, 1, 0, 0, 0, byte(info.Size()/pageSize) & 1})
	q := open(t, o)
	if s := q.Stats(); s.Salvaged != 900 || s.LostRows != 100 || s.Depth != 900 {
		t.Errorf("%+v", s)
	}
	enqueue(t, q, 1, config.PriorityNormal)
	out := deliverAll(t, q)
	out.check(t, "salvage", want)
	set, err := filepath.Glob(filepath.Join(filepath.Dir(o.Path), "sync_queue.corrupt-*.db"))
	if err != nil || len(set) != 1 {
		t.Errorf("set aside: %v, %v", set, err)
	}
}

func TestNotADatabaseAtAll(t *testing.T) {
	for name, content := range map[string][]byte{"garbage": garbage(5000), "text": []byte("hello\n"), "zeros": make([]byte, 8192)} {
		t.Run(name, func(t *testing.T) {
			o := options(t.TempDir())
			for range 5 { // only three are kept
				if err := os.WriteFile(o.Path, content, 0o600); err != nil {
					t.Fatal(err)
				}
				os.Remove(o.Path + "-wal")
				q := open(t, o)
				enqueue(t, q, 1, config.PriorityNormal)
				if out := deliverAll(t, q); len(out.readings) != 1 {
					t.Errorf("%+v", out)
				}
				shut(t, q)
			}
			set, err := filepath.Glob(filepath.Join(filepath.Dir(o.Path), "sync_queue.corrupt-*.db"))
			if err != nil || len(set) != 3 {
				t.Errorf("set aside: %v, %v", set, err)
			}
		})
	}
}

// After the loss of the whole file the numbering goes on beyond every number
// that was used, and the receiver is told.
func TestSeqAfterTotalLoss(t *testing.T) {
	o, want := filled(t, syncqueue.Zstd)
	if err := os.Remove(o.Path); err != nil {
		t.Fatal(err)
	}
	q := open(t, o)
	enqueue(t, q, 1, config.PriorityNormal)
	out := deliverAll(t, q)
	out.check(t, "total loss", want)
	for seq := range out.readings {
		if seq <= 1000 {
			t.Errorf("seq %d was used again", seq)
		}
	}
	if len(out.lost) != 1 || out.lost[0].Value.Kind() != wire.None {
		t.Errorf("announced %+v", out.lost)
	}
	shut(t, q)

	// Both files lost their memory: time is beyond any number.
	if err := os.WriteFile(filepath.Join(filepath.Dir(o.Path), "sync_queue.seq"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(o.Path); err != nil {
		t.Fatal(err)
	}
	last := slices.Max(slices.Collect(maps.Keys(out.readings)))
	q = open(t, o)
	enqueue(t, q, 1, config.PriorityNormal)
	for seq := range deliverAll(t, q).readings {
		if seq <= last {
			t.Errorf("seq %d after %d", seq, last)
		}
	}
}

func TestDamageWhileRunning(t *testing.T) {
	o := options(t.TempDir())
	o.BatchSize = 50
	q := open(t, o)
	enqueue(t, q, 1000, config.PriorityNormal)
	out, ok := lease(t, q, syncqueue.Want{})
	if !ok {
		t.Fatal("nothing leased")
	}
	for _, sql := range []string{"PRAGMA wal_checkpoint(TRUNCATE)", "PRAGMA shrink_memory"} {
		if err := syncqueue.Exec(q, sql); err != nil {
			t.Fatal(err)
		}
	}
	overwrite(t, o.Path, 9*pageSize, garbage(5*pageSize))
	// A lease meets the damage, as a page that cannot be parsed or as a payload
	// that is not what was stored.
	for range 3 {
		if err := q.Enqueue(context.Background(), some(t, 10, config.PriorityNormal)); err != nil {
			t.Fatalf("enqueue: %v", err)
		}
	}
	ack(t, q, out) // the lease outlived the file
	got := deliverAll(t, q)
	enqueue(t, q, 10, config.PriorityNormal) // carries what the leases found
	got.lost = append(got.lost, deliverAll(t, q).lost...)
	if s := q.Stats(); s.Salvaged < 500 {
		t.Errorf("%+v", s)
	}
	if len(got.readings) < 530 || len(got.lost) == 0 {
		t.Errorf("%d delivered, announced %+v", len(got.readings), got.lost)
	}
	for seq := uint64(51); seq <= 1000; seq++ {
		if _, ok := got.readings[seq]; !ok && !got.covers(seq) {
			t.Fatalf("reading %d is missing and not announced", seq)
		}
	}
	if s := q.Stats(); s.Fault != "" {
		t.Errorf("%+v", s)
	}
}

// What the disk refuses is an error and a fault for as long as it lasts.
func TestFaultPasses(t *testing.T) {
	q := open(t, options(t.TempDir()))
	enqueue(t, q, 100, config.PriorityNormal)
	if err := syncqueue.Exec(q, "PRAGMA query_only=ON"); err != nil {
		t.Fatal(err)
	}
	b, _ := lease(t, q, syncqueue.Want{})
	if err := q.Enqueue(context.Background(), some(t, 1, config.PriorityNormal)); err == nil || q.Stats().Fault == "" {
		t.Errorf("enqueue on a read-only file: %v, %+v", err, q.Stats())
	}
	if err := q.Ack(context.Background(), b); err == nil {
		t.Error("ack on a read-only file")
	}
	if s := q.Stats(); s.Depth != 100 {
		t.Errorf("%+v", s)
	}
	if err := syncqueue.Exec(q, "PRAGMA query_only=OFF"); err != nil {
		t.Fatal(err)
	}
	ack(t, q, b)
	enqueue(t, q, 1, config.PriorityNormal)
	if got := seqsOf(drain(t, q)); !slices.Equal(got, []uint64{101}) || q.Stats().Fault != "" {
		t.Errorf("%v, %+v", got, q.Stats())
	}
}
