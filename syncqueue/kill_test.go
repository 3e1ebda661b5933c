package syncqueue_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/privacy"
	"github.com/pyvorin/pyvorin-edge/syncqueue"
	"github.com/pyvorin/pyvorin-edge/wire"
)

const killRounds = 40

// enqueueUntilKilled is the child: it enqueues readings with values of its own
// and delivers some, and says on standard output what is acknowledged ("a id")
// and what it delivered ("d id seq").
func enqueueUntilKilled(dir string) int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx := context.Background()
	o := options(dir)
	o.BatchSize = 20
	q, err := syncqueue.Open(ctx, o)
	if err != nil {
		return fail(err)
	}
	f, err := privacy.New(config.Privacy{Enabled: true}, privacy.Options{Log: zerolog.Nop()})
	if err != nil {
		return fail(err)
	}
	priorities := []config.Priority{config.PriorityLow, config.PriorityNormal, config.PriorityHigh}
	for id := time.Now().UnixMicro(); ; {
		first := id
		var readings []privacy.Cleared
		for range 1 + rand.IntN(30) {
			r := reading(0, priorities[rand.IntN(3)])
			r.Value = wire.NumberValue(float64(id))
			readings = f.Clear(readings, r)
			id++
		}
		if err := q.Enqueue(ctx, readings); err != nil {
			return fail(err)
		}
		for ; first < id; first++ {
			fmt.Printf("a %d\n", first)
		}
		if rand.IntN(3) > 0 {
			continue
		}
		b, ok, err := q.Lease(ctx, syncqueue.Want{})
		if err != nil {
			return fail(err)
		}
		if !ok {
			continue
		}
		lines, err := syncqueue.Lines(b)
		if err != nil {
			return fail(err)
		}
		for i, line := range lines {
			var r wire.Reading
			if err := json.Unmarshal(line, &r); err != nil {
				return fail(err)
			}
			v, _ := r.Value.Float()
			fmt.Printf("d %.0f %d\n", v, b.First+uint64(i))
		}
		if err := q.Ack(ctx, b); err != nil {
			return fail(err)
		}
	}
}

// Whatever the instant at which the process dies: every acknowledged reading
// arrives, and a seq never stands for two readings.
func TestKilledAtAnyInstantNothingAcknowledgedIsLost(t *testing.T) {
	dir := t.TempDir()
	acked := map[int64]bool{}
	bySeq, byID := map[uint64]int64{}, map[int64]uint64{}
	deliver := func(id int64, seq uint64) {
		if other, ok := bySeq[seq]; ok && other != id {
			t.Errorf("seq %d is both reading %d and %d", seq, other, id)
		}
		if other, ok := byID[id]; ok && other != seq {
			t.Errorf("reading %d has both seq %d and %d", id, other, seq)
		}
		bySeq[seq], byID[id] = id, seq
	}
	for range killRounds {
		for _, line := range runAndKill(t, dir) {
			var id int64
			var seq uint64
			if n, _ := fmt.Sscanf(line, "a %d", &id); n == 1 {
				acked[id] = true
			} else if n, _ := fmt.Sscanf(line, "d %d %d", &id, &seq); n == 2 {
				deliver(id, seq)
			}
		}
	}
	o := options(dir)
	o.BatchSize = 20
	q := open(t, o)
	last := uint64(0)
	for _, r := range drain(t, q) {
		v, _ := r.Value.Float()
		deliver(int64(v), r.Seq)
	}
	for id := range acked {
		if _, ok := byID[id]; !ok {
			t.Errorf("acknowledged reading %d is lost", id)
		}
	}
	for seq := range bySeq {
		last = max(last, seq)
	}
	for seq := uint64(1); seq <= last; seq++ {
		if _, ok := bySeq[seq]; !ok {
			t.Errorf("seq %d is missing", seq)
		}
	}
	if len(acked) < 100 || q.Stats().Salvaged != 0 {
		t.Errorf("%d readings acknowledged, %+v: that proves little", len(acked), q.Stats())
	}
}

// runAndKill runs the child, kills it at a random moment and returns the whole
// lines that it printed.
func runAndKill(t *testing.T, dir string) []string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), "SYNCQUEUE_TEST_CHILD=enqueue", "SYNCQUEUE_TEST_DIR="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(out)
	var lines []string
	for kill := time.AfterFunc(time.Hour, func() {}); ; {
		line, err := in.ReadString('\n')
		if err == io.EOF {
			kill.Stop()
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(lines) == 0 {
			kill.Stop()
			kill = time.AfterFunc(rand.N(30*time.Millisecond), func() { _ = cmd.Process.Kill() })
		}
		lines = append(lines, line)
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.Exited() {
		t.Fatalf("the child ended by itself: %v", err)
	}
	return lines
}

// A power cut leaves the WAL up to some byte after the last fsync. Whatever
// byte: all commits that were whole are there, and only the one that was cut is
// not.
func TestCutWALLosesOnlyTheLastCommit(t *testing.T) {
	dir := t.TempDir()
	o := options(dir)
	q := open(t, o)
	wal := func() int64 {
		info, err := os.Stat(o.Path + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	var ends []int64 // size of the WAL after each commit
	for i := range 12 {
		enqueue(t, q, 10+40*i, config.PriorityNormal)
		ends = append(ends, wal())
	}
	image := map[string][]byte{}
	for _, suffix := range []string{".db", ".db-wal", ".seq"} {
		data, err := os.ReadFile(filepath.Join(dir, "sync_queue"+suffix))
		if err != nil {
			t.Fatal(err)
		}
		image[suffix] = data
	}
	for range 25 {
		cut := ends[0] + rand.Int64N(ends[len(ends)-1]-ends[0]+1)
		want, commits := 0, 0
		for i, end := range ends {
			if end <= cut {
				want += 10 + 40*i
				commits++
			}
		}
		copied := t.TempDir()
		for suffix, data := range image {
			if suffix == ".db-wal" {
				data = data[:cut]
			}
			if err := os.WriteFile(filepath.Join(copied, "sync_queue"+suffix), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		after := open(t, options(copied))
		enqueue(t, after, 1, config.PriorityNormal)
		got := drain(t, after)
		seqs := seqsOf(got)
		slices.Sort(seqs)
		if !slices.Equal(seqs, rangeOf(1, uint64(want+1))) {
			t.Errorf("WAL cut at %d of %d, after %d commits: %d readings, want %d", cut, ends[len(ends)-1], commits, len(got)-1, want)
		}
		shut(t, after)
	}
}

func TestReadingsAreSyncedAndAcksNeedNotBe(t *testing.T) {
	q := open(t, options(t.TempDir()))
	level := func() int {
		n, err := syncqueue.Durability(q)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	enqueue(t, q, 1, config.PriorityNormal)
	if n := level(); n != 2 {
		t.Errorf("readings were committed with synchronous=%d", n)
	}
	drain(t, q)
	if n := level(); n != 1 {
		t.Errorf("an ack was committed with synchronous=%d", n)
	}
	enqueue(t, q, 1, config.PriorityNormal)
	if n := level(); n != 2 {
		t.Errorf("readings after an ack were committed with synchronous=%d", n)
	}
}
