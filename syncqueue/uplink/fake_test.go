package uplink

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/pyvorin/pyvorin-edge/syncqueue"
	"github.com/pyvorin/pyvorin-edge/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const device = "FLEET-0123456789ab"

// fakeQueue is a queue in memory. A batch that was given back may be cut
// differently when it is leased again.
type fakeQueue struct {
	encoding syncqueue.Encoding
	fail     func(verb string) error // may be nil
	pending  chan struct{}

	mu            sync.Mutex
	next          uint64
	live, backlog []uint64                   // seqs
	stored        map[uint64]syncqueue.Batch // in place of made-up ones, by First
	leased        bool
	dead          map[uint64]deadLetter
	nacks, marks  int
}

type deadLetter struct {
	status int
	reason string
}

func newFakeQueue(readings int) *fakeQueue {
	q := &fakeQueue{
		encoding: syncqueue.Zstd, pending: make(chan struct{}, 1), next: 1,
		stored: map[uint64]syncqueue.Batch{}, dead: map[uint64]deadLetter{},
	}
	q.add(readings)
	return q
}

// add enqueues live readings and wakes nobody.
func (q *fakeQueue) add(n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for range n {
		q.live = append(q.live, q.next)
		q.next++
	}
}

func (q *fakeQueue) depth() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.live) + len(q.backlog)
}

func (q *fakeQueue) deadSeqs() []uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	var seqs []uint64
	for seq := range q.dead {
		seqs = append(seqs, seq)
	}
	slices.Sort(seqs)
	return seqs
}

func (q *fakeQueue) check(verb string) error {
	if q.fail == nil {
		return nil
	}
	return q.fail(verb)
}

func (q *fakeQueue) Lease(_ context.Context, w syncqueue.Want) (syncqueue.Batch, bool, error) {
	if err := q.check("lease"); err != nil {
		return syncqueue.Batch{}, false, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.leased {
		return syncqueue.Batch{}, false, errors.New("leased twice")
	}
	from := q.live
	if len(from) == 0 {
		from = q.backlog
	}
	if len(from) == 0 {
		return syncqueue.Batch{}, false, nil
	}
	q.leased = true
	if b, ok := q.stored[from[0]]; ok {
		return b, true, nil
	}
	n := 1
	for n < len(from) && n < w.Readings && from[n] == from[0]+uint64(n) {
		n++
	}
	b := makeBatch(q.encoding, from[0], n)
	b.Backlog = len(q.live) == 0
	return b, true, nil
}

// makeBatch has one frame for the first reading and one for the others.
func makeBatch(e syncqueue.Encoding, first uint64, n int) syncqueue.Batch {
	b := syncqueue.Batch{First: first, Last: first + uint64(n) - 1, Count: n, Encoding: e}
	var lines [][]byte
	for i := range n {
		r := testReading(first + uint64(i))
		lines = append(lines, r.AppendJSON(nil))
	}
	for _, part := range [][][]byte{lines[:1], lines[1:]} {
		if len(part) == 0 {
			continue
		}
		frame, err := syncqueue.Encode(nil, e, part)
		if err != nil {
			panic(err)
		}
		b.Frames = append(b.Frames, frame)
	}
	return b
}

func testReading(seq uint64) wire.Reading {
	return wire.Reading{
		DeviceID: device, Seq: seq, Sensor: "temp-01", Type: "temperature", Value: wire.NumberValue(20 + float64(seq*7919%1000)/100), Unit: "C",
		Timestamp: time.UnixMilli(1767323045678 + int64(seq)), Quality: wire.Good,
	}
}

func (q *fakeQueue) Ack(_ context.Context, b syncqueue.Batch) error {
	if err := q.check("ack"); err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	inBatch := func(seq uint64) bool { return b.First <= seq && seq <= b.Last }
	q.live = slices.DeleteFunc(q.live, inBatch)
	q.backlog = slices.DeleteFunc(q.backlog, inBatch)
	q.leased = false
	return nil
}

func (q *fakeQueue) Nack(syncqueue.Batch) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.leased = false
	q.nacks++
}

func (q *fakeQueue) DeadLetter(_ context.Context, b syncqueue.Batch, seq uint64, status int, reason string) error {
	if err := q.check("dead-letter"); err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.leased || seq < b.First || seq > b.Last {
		return errors.New("not leased")
	}
	q.dead[seq] = deadLetter{status, reason}
	return nil
}

func (q *fakeQueue) MarkBacklog() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.backlog = append(q.backlog, q.live...)
	q.live = nil
	q.marks++
}

func (q *fakeQueue) Pending() <-chan struct{} { return q.pending }

// request is what a receiver got, in the order it came.
type request struct {
	key    string
	header http.Header
	body   []byte // as it travelled
	seqs   []uint64
}

// receiver is the operator's side. answer decides on a request; nil, and an
// answer that writes nothing, is 200.
type receiver struct {
	mu       sync.Mutex
	answer   func(w http.ResponseWriter, r request) (taken bool)
	requests []request
	got      map[uint64]int // how often each reading was taken
}

func newReceiver(answer func(http.ResponseWriter, request) bool) *receiver {
	return &receiver{answer: answer, got: map[uint64]int{}}
}

func (rc *receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil || int64(len(body)) != r.ContentLength {
		http.Error(w, "short body", http.StatusTeapot)
		return
	}
	seqs, err := decodeSeqs(r.Header.Get("Content-Encoding"), body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusTeapot)
		return
	}
	req := request{r.Header.Get("Idempotency-Key"), r.Header.Clone(), body, seqs}
	rc.mu.Lock()
	rc.requests = append(rc.requests, req)
	answer := rc.answer
	rc.mu.Unlock()
	if answer != nil && !answer(w, req) {
		return
	}
	rc.mu.Lock()
	defer rc.mu.Unlock()
	for _, seq := range seqs {
		rc.got[seq]++
	}
}

func (rc *receiver) setAnswer(answer func(http.ResponseWriter, request) bool) {
	rc.mu.Lock()
	defer rc.mu.Unlock()
	rc.answer = answer
}

func (rc *receiver) seen() []request {
	rc.mu.Lock()
	defer rc.mu.Unlock()
	return slices.Clone(rc.requests)
}

// distinct is how many different readings were taken.
func (rc *receiver) distinct() int {
	rc.mu.Lock()
	defer rc.mu.Unlock()
	return len(rc.got)
}

func decodeSeqs(coding string, body []byte) ([]uint64, error) {
	var in io.Reader = bytes.NewReader(body)
	switch coding {
	case "zstd":
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		in = z
	case "gzip":
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, err
		}
		in = z
	}
	var seqs []uint64
	for d := json.NewDecoder(in); ; {
		var r wire.Reading
		if err := d.Decode(&r); errors.Is(err, io.EOF) {
			return seqs, nil
		} else if err != nil {
			return nil, err
		}
		seqs = append(seqs, r.Seq)
	}
}

// serve starts rc on a loopback socket.
func serve(t testing.TB, rc http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(rc)
	t.Cleanup(s.Close)
	return s
}

// options deliver q to endpoint and, after the try at start, only when told to.
func options(q Queue, endpoint string) Options {
	return Options{
		Queue: q, DeviceID: device, Endpoint: endpoint, APIKey: func() (string, error) { return "secret-key", nil },
		BatchSize: 100, FlushInterval: time.Hour, RequestTimeout: 10 * time.Second, RetryMin: time.Hour, RetryMax: time.Hour,
		Log: zerolog.Nop(),
	}
}

// start runs an Uplink until the test ends or stop is called.
func start(t testing.TB, o Options) (u *Uplink, stop func()) {
	t.Helper()
	u, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return u, run(t, u)
}

func run(t testing.TB, u *Uplink) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- u.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// flush asks for a delivery and returns its outcome.
func flush(t testing.TB, u *Uplink) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return u.Flush(ctx)
}

// fataler is what testing.TB and rapid.T have in common here.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// eventually waits for a condition that another goroutine brings about.
func eventually(t fataler, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("timed out waiting until %s", what)
		}
	}
}

func wantText(t testing.TB, what, got string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(got, part) {
			t.Errorf("%s is %q, without %q", what, got, part)
		}
	}
}
