package ingest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
	"pgregory.net/rapid"

	"github.com/pyvorin/pyvorin-edge/wire"
)

var testTime = time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC)

func reading(device string, seq uint64) wire.Reading {
	return wire.Reading{DeviceID: device, Seq: seq, Sensor: fmt.Sprintf("s-%d", seq%3), Type: "temperature",
		Value: wire.NumberValue(float64(seq) / 2), Unit: "C", Timestamp: testTime, Quality: wire.Good}
}

func readings(device string, first, last uint64) (rs []wire.Reading) {
	for seq := first; seq <= last; seq++ {
		rs = append(rs, reading(device, seq))
	}
	return rs
}

// runStore opens the store at path and runs it until stop or the test's end.
func runStore(t testing.TB, path string) (s *Store, stop func()) {
	t.Helper()
	s = openStore(t, path)
	return s, start(t, s, s.Run)
}

// testClock stands until it is set.
type testClock struct{ atomic.Pointer[time.Time] }

func (c *testClock) set(t time.Time) { c.Store(&t) }

// runWriter is runStore by a clock of its own and without pruning.
func runWriter(t testing.TB, path string) (s *Store, clock *testClock, stop func()) {
	t.Helper()
	clock = &testClock{}
	clock.set(testTime)
	s = openStore(t, path)
	s.now = func() time.Time { return *clock.Load() }
	return s, clock, start(t, s, func(ctx context.Context) error { s.write(ctx); return nil })
}

func openStore(t testing.TB, path string) *Store {
	t.Helper()
	s, err := OpenStore(path, StoreOptions{Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func start(t testing.TB, s *Store, run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-done, s.Close()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func mustAdd(t testing.TB, s *Store, want Result, rs ...wire.Reading) {
	t.Helper()
	got, err := s.Add(context.Background(), rs[0].DeviceID, rs)
	if err != nil || got != want {
		t.Fatalf("Add = %+v, %v; want %+v", got, err, want)
	}
}

func onlyDevice(t testing.TB, s *Store) Device {
	t.Helper()
	devices, err := s.Devices(context.Background(), 10)
	if err != nil || len(devices) != 1 {
		t.Fatalf("devices %v, %v; want one", devices, err)
	}
	return devices[0]
}

func TestRepeatsAndRestarts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fleet.db")
	s, stop := runStore(t, path)
	mustAdd(t, s, Result{Accepted: 10}, readings("d", 1, 10)...)
	mustAdd(t, s, Result{Duplicates: 10}, readings("d", 1, 10)...)
	mustAdd(t, s, Result{Accepted: 5, Duplicates: 5}, readings("d", 6, 15)...) // cut differently
	stop()

	s, _ = runStore(t, path)
	mustAdd(t, s, Result{Accepted: 1, Duplicates: 15}, readings("d", 1, 16)...)
	mustAdd(t, s, Result{Accepted: 1, Duplicates: 2}, reading("d", 17), reading("d", 17), reading("d", 3))
	got := onlyDevice(t, s)
	if got.Received != 17 || got.Duplicates != 32 || got.Conflicts != 0 || got.MinSeq != 1 || got.MaxSeq != 17 || got.Missing != 0 {
		t.Errorf("device %+v", got)
	}
	stored, err := s.Readings(context.Background(), "d", Query{Limit: 100})
	if err != nil || len(stored) != 17 {
		t.Fatalf("%d readings stored, %v; want 17", len(stored), err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the database has mode %v, %v; want 0600", info.Mode(), err)
	}
}

func TestConcurrentDuplicates(t *testing.T) {
	s, _ := runStore(t, filepath.Join(t.TempDir(), "fleet.db"))
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for first := uint64(1); first <= 91; first += 10 {
				if _, err := s.Add(context.Background(), "d", readings("d", first, first+14)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	got := onlyDevice(t, s)
	if got.Received != 105 || got.Duplicates != 20*10*15-105 || got.Conflicts != 0 || got.Missing != 0 {
		t.Errorf("device %+v; want 105 received", got)
	}
}

func TestConflictKeepsFirst(t *testing.T) {
	s, _ := runStore(t, filepath.Join(t.TempDir(), "fleet.db"))
	other := reading("d", 7)
	other.Value = wire.TextValue("else")
	mustAdd(t, s, Result{Accepted: 1}, reading("d", 7))
	mustAdd(t, s, Result{Duplicates: 1, Conflicts: 1}, other)
	other.Seq = 8
	again := reading("d", 8)
	mustAdd(t, s, Result{Accepted: 1, Duplicates: 1, Conflicts: 1}, again, other) // in one batch
	got, err := s.Readings(context.Background(), "d", Query{Limit: 10})
	if diff := cmp.Diff(lines([]wire.Reading{reading("d", 8), reading("d", 7)}), lines(got)); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	if d := onlyDevice(t, s); d.Conflicts != 2 {
		t.Errorf("conflicts %d, want 2", d.Conflicts)
	}
}

func lines(rs []wire.Reading) (out []string) {
	for i := range rs {
		out = append(out, string(rs[i].AppendJSON(nil)))
	}
	return out
}

func TestEveryFieldSurvives(t *testing.T) {
	s, _ := runStore(t, filepath.Join(t.TempDir(), "fleet.db"))
	rs := readings("d", 1, 5)
	rs[0].Value = wire.BoolValue(true)
	rs[1].Value = wire.BoolValue(false)
	rs[2].Value = wire.TextValue("21.5\x00<b>é")
	rs[3].Value, rs[3].Quality, rs[3].Reason = wire.Value{}, wire.Bad, "no answer"
	rs[4].Value, rs[4].Clock = wire.NumberValue(3), wire.ClockCorrected
	rs[4].Tags = map[string]string{"room": "1"}
	rs[4].Meta = map[string]wire.Value{"topic": wire.TextValue("a/b"), "n": wire.NumberValue(1), "ok": wire.BoolValue(true), "none": {}}
	want := lines(rs)
	mustAdd(t, s, Result{Accepted: 5}, rs...)
	got, err := s.Readings(context.Background(), "d", Query{Limit: 10})
	for i, j := 0, len(got)-1; i < j; i, j = i+1, j-1 {
		got[i], got[j] = got[j], got[i]
	}
	if diff := cmp.Diff(want, lines(got)); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	mustAdd(t, s, Result{Duplicates: 5}, got...) // equal content is no conflict
}

func TestQueries(t *testing.T) {
	s, _ := runStore(t, filepath.Join(t.TempDir(), "fleet.db"))
	rs := readings("d", 1, 100)
	for i := range rs {
		rs[i].Timestamp = testTime.Add(time.Duration(i) * time.Second)
	}
	mustAdd(t, s, Result{Accepted: 50}, rs[50:]...)
	mustAdd(t, s, Result{Accepted: 50}, rs[:50]...) // the backlog comes after what is live
	seqs := func(rs []wire.Reading, err error) (out []uint64) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rs {
			out = append(out, r.Seq)
		}
		return out
	}
	ctx := context.Background()
	if diff := cmp.Diff([]uint64{99, 100, 98}, seqs(s.Latest(ctx, "d", 10))); diff != "" { // s-0, s-1, s-2
		t.Error("latest", diff)
	}
	if diff := cmp.Diff([]uint64{100, 97}, seqs(s.Readings(ctx, "d", Query{Sensor: "s-1", Limit: 2}))); diff != "" {
		t.Error("sensor", diff)
	}
	if diff := cmp.Diff([]uint64{100, 99}, seqs(s.Readings(ctx, "d", Query{Since: rs[98].Timestamp, Limit: 50}))); diff != "" {
		t.Error("since", diff)
	}
	if _, err := s.Latest(ctx, "nobody", 1); !errors.Is(err, ErrNoDevice) {
		t.Errorf("unknown device: %v", err)
	}
}

func TestMissingAndAnnounced(t *testing.T) {
	s, _ := runStore(t, filepath.Join(t.TempDir(), "fleet.db"))
	missing := func(want int64) {
		t.Helper()
		if got := onlyDevice(t, s); got.Missing != want {
			t.Errorf("missing %d of %+v, want %d", got.Missing, got, want)
		}
	}
	announce := func(seq uint64, kind string, value wire.Value) wire.Reading {
		r := reading("d", seq)
		r.Sensor, r.Type, r.Value = wire.LossSensor, kind, value
		return r
	}
	mustAdd(t, s, Result{Accepted: 10}, readings("d", 11, 20)...)
	missing(0)
	mustAdd(t, s, Result{Accepted: 10}, readings("d", 41, 50)...)
	missing(20)
	mustAdd(t, s, Result{Accepted: 5}, readings("d", 21, 25)...) // the backlog arrives
	missing(15)
	mustAdd(t, s, Result{Accepted: 1}, announce(51, wire.LossEvicted, wire.NumberValue(9)))
	missing(6)
	mustAdd(t, s, Result{Duplicates: 1}, announce(51, wire.LossEvicted, wire.NumberValue(9)))
	missing(6)
	mustAdd(t, s, Result{Accepted: 1}, announce(52, wire.LossLost, wire.NumberValue(5)))
	missing(1)
	mustAdd(t, s, Result{Accepted: 4}, announce(53, wire.LossLost, wire.NumberValue(-5)), announce(54, wire.LossLost, wire.NumberValue(0.5)),
		announce(55, "depth", wire.NumberValue(1)), announce(56, wire.LossLost, wire.TextValue("1")))
	missing(1)
	mustAdd(t, s, Result{Accepted: 1}, announce(57, wire.LossLost, wire.NumberValue(100)))
	missing(0) // more announced than was ever due
}

// A device that had to give up its oldest readings before it was ever heard of
// must not get a credit for later losses.
func TestAnnouncedBeforeTheFirstContact(t *testing.T) {
	s, _ := runStore(t, filepath.Join(t.TempDir(), "fleet.db"))
	evicted := reading("d", 1001)
	evicted.Sensor, evicted.Type, evicted.Value = wire.LossSensor, wire.LossEvicted, wire.NumberValue(1000)
	evicted.Meta = map[string]wire.Value{"first_seq": wire.NumberValue(1), "last_seq": wire.NumberValue(1000)}
	mustAdd(t, s, Result{Accepted: 1}, evicted)
	if d := onlyDevice(t, s); d.Missing != 0 || d.MinSeq != 1 {
		t.Errorf("after the announcement: %+v", d)
	}
	mustAdd(t, s, Result{Accepted: 10}, readings("d", 1502, 1511)...)
	if d := onlyDevice(t, s); d.Missing != 500 {
		t.Errorf("500 readings are missing: %+v", d)
	}
}

func TestRetention(t *testing.T) {
	s, clock, _ := runWriter(t, filepath.Join(t.TempDir(), "fleet.db"))
	ctx := context.Background()
	prune := func(want int) {
		t.Helper()
		if n, err := s.prune(ctx); err != nil || n != want {
			t.Fatalf("pruned %d, %v; want %d", n, err, want)
		}
	}
	mustAdd(t, s, Result{Accepted: 1200}, readings("d", 1, 1200)...) // more than two steps
	mustAdd(t, s, Result{Accepted: 10}, readings("d", 1301, 1310)...)
	clock.set(testTime.Add(time.Hour))
	mustAdd(t, s, Result{Accepted: 10}, readings("d", 1311, 1320)...)
	prune(0)
	clock.set(testTime.Add(s.retention + time.Minute))
	prune(1210)
	mustAdd(t, s, Result{Accepted: 100, Duplicates: 1220}, readings("d", 1, 1320)...)
	if d := onlyDevice(t, s); d.Received != 1320 || d.Missing != 0 || d.Conflicts != 0 || d.MinSeq != 1 {
		t.Errorf("device after pruning: %+v", d)
	}
	if left, err := s.Readings(ctx, "d", Query{Limit: 2000}); err != nil || len(left) != 110 {
		t.Errorf("%d readings left, %v; want 110", len(left), err)
	}
	clock.set(testTime.Add(3 * s.retention))
	prune(110)
	if latest, err := s.Latest(ctx, "d", 10); err != nil || len(latest) != 3 {
		t.Errorf("latest after pruning: %v, %v; want 3 sensors", latest, err)
	}
	var ranges, first, last int
	if err := s.reader.QueryRow("SELECT count(*), min(first), max(last) FROM pruned").Scan(&ranges, &first, &last); err != nil || ranges != 1 || first != 1 || last != 1320 {
		t.Errorf("pruned: %d ranges, %d to %d, %v; want one, 1 to 1320", ranges, first, last, err)
	}
}

// TestExactlyOnceProperty: whatever the order, the repeats and the pruning,
// each seq is accepted once and the counts agree with a model.
func TestExactlyOnceProperty(t *testing.T) {
	s, clock, _ := runWriter(t, filepath.Join(t.TempDir(), "fleet.db"))
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		device := fmt.Sprintf("d-%d", run)
		accepted, duplicates := map[uint64]bool{}, int64(0)
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			if rapid.Bool().Draw(rt, "prune") {
				later := rapid.SampledFrom([]time.Duration{time.Hour, s.retention / 2, 2 * s.retention}).Draw(rt, "later")
				clock.set(clock.Load().Add(later))
				if _, err := s.prune(context.Background()); err != nil {
					rt.Fatal(err)
				}
			}
			seqs := rapid.SliceOfN(rapid.Uint64Range(1, 30), 1, 15).Draw(rt, "seqs")
			var rs []wire.Reading
			want := Result{}
			for _, seq := range seqs {
				rs = append(rs, reading(device, seq))
				if accepted[seq] {
					want.Duplicates++
				} else {
					want.Accepted++
				}
				accepted[seq] = true
			}
			duplicates += int64(want.Duplicates)
			if got, err := s.Add(context.Background(), device, rs); err != nil || got != want {
				rt.Fatalf("Add(%v) = %+v, %v; want %+v", seqs, got, err, want)
			}
		}
		devices, err := s.Devices(context.Background(), run)
		if err != nil {
			rt.Fatal(err)
		}
		d := devices[slices.IndexFunc(devices, func(d Device) bool { return d.DeviceID == device })]
		if d.Received != int64(len(accepted)) || d.Duplicates != duplicates || d.Missing != d.MaxSeq-d.MinSeq+1-d.Received {
			rt.Fatalf("device %+v; want %d received, %d duplicates", d, len(accepted), duplicates)
		}
	})
}

func TestDatabaseFullAndRecovery(t *testing.T) {
	s, _ := runStore(t, filepath.Join(t.TempDir(), "fleet.db"))
	ctx := context.Background()
	limit := func(pages int) {
		t.Helper()
		if err := s.inWriter(ctx, func() error {
			_, err := s.conn.ExecContext(ctx, fmt.Sprintf("PRAGMA max_page_count = %d", pages))
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	mustAdd(t, s, Result{Accepted: 10}, readings("d", 1, 10)...)
	limit(1) // SQLite raises it to what the file has now
	if _, err := s.Add(ctx, "d", readings("d", 11, 2010)); !errors.Is(err, ErrFull) {
		t.Fatalf("Add into a full database: %v", err)
	}
	if !errors.Is(s.Failure(), ErrFull) {
		t.Errorf("Failure = %v, want ErrFull", s.Failure())
	}
	if d := onlyDevice(t, s); d.Received != 10 || d.MaxSeq != 10 {
		t.Errorf("part of the refused batch is stored: %+v", d)
	}
	limit(100_000)
	mustAdd(t, s, Result{Accepted: 2000}, readings("d", 11, 2010)...)
	if s.Failure() != nil {
		t.Errorf("Failure after recovery = %v", s.Failure())
	}
}

// TestOneBatchFailsAlone: batches that share a commit do not share a failure.
func TestOneBatchFailsAlone(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "fleet.db"))
	defer s.Close()
	ctx := context.Background()
	if err := s.transaction(func() error {
		_, err := s.conn.ExecContext(ctx, "CREATE TRIGGER refuse BEFORE INSERT ON readings WHEN new.sensor = 'poison' BEGIN SELECT raise(ABORT, 'poison'); END")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	poison := reading("bad", 1)
	poison.Sensor = "poison"
	jobs := []*job{
		{device: "a", readings: readings("a", 1, 5), done: make(chan error, 1)},
		{device: "bad", readings: []wire.Reading{poison}, done: make(chan error, 1)},
		{device: "b", readings: readings("b", 1, 5), done: make(chan error, 1)},
	}
	s.commit(jobs)
	for i, want := range []bool{true, false, true} {
		if err := <-jobs[i].done; (err == nil) != want {
			t.Errorf("job %d: %v", i, err)
		}
	}
	if jobs[0].result.Accepted != 5 || jobs[2].result.Accepted != 5 {
		t.Errorf("results %+v, %+v; want 5 accepted", jobs[0].result, jobs[2].result)
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	if _, err := OpenStore(filepath.Join(dir, "absent", "fleet.db"), StoreOptions{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent folder: %v", err)
	}
	path := filepath.Join(dir, "text.db")
	if err := os.WriteFile(path, []byte(strings.Repeat("not a database ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenStore(path, StoreOptions{}); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("not a database: %v", err)
	}
	path = filepath.Join(dir, "newer.db")
	s := openStore(t, path)
	if _, err := s.conn.ExecContext(context.Background(), "PRAGMA user_version = 99"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenStore(path, StoreOptions{}); err == nil || !strings.Contains(err.Error(), "newer version") {
		t.Errorf("newer schema: %v", err)
	}
}
