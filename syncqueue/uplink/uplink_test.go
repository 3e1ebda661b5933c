package uplink

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pyvorin/pyvorin-edge/syncqueue"
)

func TestDeliver(t *testing.T) {
	for encoding, coding := range map[syncqueue.Encoding]string{syncqueue.Zstd: "zstd", syncqueue.Gzip: "gzip", syncqueue.Plain: ""} {
		t.Run(encoding.String(), func(t *testing.T) {
			q, rc := newFakeQueue(250), newReceiver(nil)
			q.encoding = encoding
			u, _ := start(t, options(q, serve(t, rc).URL+"/v1/ingest"))
			if err := flush(t, u); err != nil {
				t.Fatal(err)
			}
			requests := rc.seen()
			if len(requests) != 3 || rc.distinct() != 250 || q.depth() != 0 {
				t.Fatalf("%d requests, %d readings taken, %d queued; want 3, 250, 0", len(requests), rc.distinct(), q.depth())
			}
			r, sent := requests[1], makeBatch(encoding, 101, 100)
			if !bytes.Equal(r.body, bytes.Join(sent.Frames, nil)) {
				t.Error("the body is not the stored frames")
			}
			for name, want := range map[string]string{
				"Authorization": "Bearer secret-key", "Content-Type": "application/x-ndjson", "Content-Encoding": coding,
				"Idempotency-Key": device + ":101-200", "Content-Length": strconv.Itoa(len(r.body)), "User-Agent": "pyvorin-edge/0.0.0-dev",
			} {
				if got := r.header.Get(name); got != want {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
			s := u.Stats()
			if !s.Enabled || s.LastFlushAt.IsZero() || !s.FailingSince.IsZero() || s.LastError != "" || s.Paused != "" ||
				s.Requests != 3 || s.Accepted != 250 || s.Retries != 0 || s.DeadLettered != 0 || s.BytesSent == 0 {
				t.Errorf("stats %+v", s)
			}
		})
	}
}

// The statuses, each answered once: what was sent must be handled as promised
// and, unless refused, taken by the next request.
func TestStatuses(t *testing.T) {
	type outcome struct {
		statuses []int
		paused   string // in Stats.Paused; "" means retried
		dead     bool
	}
	for _, want := range []outcome{
		{statuses: []int{408, 425, 429, 500, 502, 503, 504, 599}},
		{statuses: []int{401, 403}, paused: "cloud.api_key"},
		{statuses: []int{404, 405, 410, 421, 301, 302, 307, 308}, paused: "cloud.endpoint"},
		{statuses: []int{407}, paused: "proxy"},
		{statuses: []int{406, 415}, paused: "cloud.format"},
		{statuses: []int{400, 402, 409, 411, 413, 414, 418, 422, 431, 451}, dead: true},
	} {
		for _, status := range want.statuses {
			t.Run(strconv.Itoa(status), func(t *testing.T) {
				t.Parallel()
				q := newFakeQueue(1)
				rc := newReceiver(func(w http.ResponseWriter, _ request) bool {
					w.Header().Set("Location", "/elsewhere")
					http.Error(w, "why\x00 it\nis so", status)
					return false
				})
				u, _ := start(t, options(q, serve(t, rc).URL))
				if want.dead {
					eventually(t, "the queue is empty", func() bool { return q.depth() == 0 })
					if got := q.dead[1]; got != (deadLetter{status, "why it is so"}) {
						t.Errorf("dead letter %+v", got)
					}
					return
				}
				eventually(t, "delivery fails", func() bool { return u.Stats().LastError != "" })
				s := u.Stats()
				wantText(t, "LastError", s.LastError, strconv.Itoa(status), "why it is so")
				if s.FailingSince.IsZero() || s.Retries != 1 || (s.Paused != "") != (want.paused != "") {
					t.Errorf("stats %+v", s)
				}
				wantText(t, "Paused", s.Paused, want.paused)

				rc.setAnswer(nil)
				if err := flush(t, u); err != nil {
					t.Fatal(err)
				}
				requests := rc.seen()
				if len(requests) != 2 || requests[0].key != requests[1].key || !bytes.Equal(requests[0].body, requests[1].body) {
					t.Errorf("the second of %d requests differs from the first", len(requests))
				}
				if s := u.Stats(); s.Paused != "" || !s.FailingSince.IsZero() || q.depth() != 0 || len(q.dead) != 0 || q.marks != 1 {
					t.Errorf("after recovery: stats %+v, %d queued, %d dead, backlog marked %d times", s, q.depth(), len(q.dead), q.marks)
				}
			})
		}
	}
}

func TestRedirectIsNotFollowed(t *testing.T) {
	other := newReceiver(nil)
	target := serve(t, other).URL
	q := newFakeQueue(3)
	rc := newReceiver(func(w http.ResponseWriter, _ request) bool {
		w.Header().Set("Location", target)
		w.WriteHeader(http.StatusTemporaryRedirect)
		return false
	})
	u, _ := start(t, options(q, serve(t, rc).URL))
	eventually(t, "delivery pauses", func() bool { return u.Stats().Paused != "" })
	wantText(t, "Paused", u.Stats().Paused, target, "cloud.endpoint")
	if len(other.seen()) != 0 || q.depth() != 3 {
		t.Errorf("%d requests followed it, %d readings kept", len(other.seen()), q.depth())
	}
}

// Batches share a connection, and none is left open at the end.
func TestConnectionReuse(t *testing.T) {
	q, rc := newFakeQueue(1000), newReceiver(nil)
	var opened, closed atomic.Int32
	s := httptest.NewUnstartedServer(rc)
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			opened.Add(1)
		case http.StateClosed:
			closed.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	u, stop := start(t, options(q, s.URL))
	if err := flush(t, u); err != nil {
		t.Fatal(err)
	}
	if opened.Load() != 1 || len(rc.seen()) != 10 {
		t.Errorf("%d connections for %d requests", opened.Load(), len(rc.seen()))
	}
	stop()
	eventually(t, "the connection is closed", func() bool { return closed.Load() == 1 })
}

// A key that is another one each time it is asked for costs one more request
// and not an endless row of them.
func TestEverChangingKey(t *testing.T) {
	q := newFakeQueue(1)
	rc := newReceiver(func(w http.ResponseWriter, _ request) bool {
		w.WriteHeader(http.StatusUnauthorized)
		return false
	})
	o := options(q, serve(t, rc).URL)
	var asked atomic.Int64
	o.APIKey = func() (string, error) { return strconv.FormatInt(asked.Add(1), 10), nil }
	u, _ := start(t, o)
	eventually(t, "delivery pauses", func() bool { return u.Stats().Paused != "" })
	if n := len(rc.seen()); n != 2 {
		t.Errorf("%d requests, want 2", n)
	}
}

// A key that was rotated on disk is taken up without a restart: at once when
// the old one is refused, and later while delivery is paused.
func TestKeyRotation(t *testing.T) {
	var key, good atomic.Value
	key.Store("old\n")
	good.Store("Bearer old")
	q := newFakeQueue(5)
	rc := newReceiver(func(w http.ResponseWriter, r request) bool {
		if r.header.Get("Authorization") != good.Load() {
			w.WriteHeader(http.StatusUnauthorized)
			return false
		}
		return true
	})
	o := options(q, serve(t, rc).URL)
	o.APIKey = func() (string, error) { return key.Load().(string), nil }
	u, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	u.beat = 10 * time.Millisecond
	run(t, u)
	eventually(t, "the first readings are taken", func() bool { return q.depth() == 0 })

	good.Store("Bearer new")
	key.Store("new\n")
	q.add(5)
	if err := flush(t, u); err != nil {
		t.Fatalf("a key that was already rotated: %v", err)
	}

	good.Store("Bearer newest")
	q.add(5)
	if err := flush(t, u); err == nil || u.Stats().Paused == "" {
		t.Fatalf("a refused key: err %v, stats %+v", err, u.Stats())
	}
	requests := len(rc.seen())
	key.Store("newest\n")
	eventually(t, "delivery resumes by itself", func() bool { return q.depth() == 0 && u.Stats().Paused == "" })
	if n := len(rc.seen()) - requests; n != 1 {
		t.Errorf("it took %d requests to resume, want 1", n)
	}
}

func TestUnreadableKeyPauses(t *testing.T) {
	var missing atomic.Bool
	missing.Store(true)
	q, rc := newFakeQueue(5), newReceiver(nil)
	o := options(q, serve(t, rc).URL)
	o.APIKey = func() (string, error) {
		if missing.Load() {
			return "", errors.New("open key: no such file")
		}
		return "k", nil
	}
	u, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	u.beat = 10 * time.Millisecond
	run(t, u)
	eventually(t, "delivery pauses", func() bool { return u.Stats().Paused != "" })
	wantText(t, "Paused", u.Stats().Paused, "no such file", "cloud.api_key_file")
	missing.Store(false)
	eventually(t, "delivery resumes by itself", func() bool { return q.depth() == 0 })
}

// With nothing left to deliver there is nothing to act on either, and readings
// that come later are not held up by an old failure.
func TestPauseEndsWithAnEmptyQueue(t *testing.T) {
	q, rc := newFakeQueue(5), newReceiver(func(w http.ResponseWriter, _ request) bool {
		w.WriteHeader(http.StatusNotFound)
		return false
	})
	u, _ := start(t, options(q, serve(t, rc).URL))
	eventually(t, "delivery pauses", func() bool { return u.Stats().Paused != "" })
	q.mu.Lock()
	q.live = nil // evicted
	q.mu.Unlock()
	if err := flush(t, u); err != nil || u.Stats().Paused != "" || !u.Stats().FailingSince.IsZero() {
		t.Fatalf("Flush returned %v, stats %+v", err, u.Stats())
	}
	rc.setAnswer(nil)
	q.add(1)
	q.pending <- struct{}{}
	eventually(t, "new readings are delivered at once", func() bool { return q.depth() == 0 })
}

// The server's words are shown to people and kept with dead letters, so a key
// it echoes must not be in them.
func TestKeyIsNeverShown(t *testing.T) {
	q := newFakeQueue(1)
	rc := newReceiver(func(w http.ResponseWriter, r request) bool {
		http.Error(w, "bad header "+r.header.Get("Authorization"), http.StatusForbidden)
		return false
	})
	u, _ := start(t, options(q, serve(t, rc).URL))
	eventually(t, "delivery pauses", func() bool { return u.Stats().Paused != "" })
	if s := u.Stats(); strings.Contains(s.LastError+s.Paused, "secret-key") {
		t.Errorf("the key is shown: %q", s.LastError)
	}
}

// After an outage, what is measured now goes before what gathered meanwhile.
func TestLiveBeforeBacklog(t *testing.T) {
	q := newFakeQueue(300)
	var up atomic.Bool
	rc := newReceiver(nil)
	rc.setAnswer(func(w http.ResponseWriter, r request) bool {
		if !up.Load() {
			w.WriteHeader(http.StatusBadGateway)
			return false
		}
		if r.seqs[0] == 1 {
			q.add(10) // 301-310, measured while the first batch is delivered
		}
		if r.seqs[0] == 101 {
			q.add(10) // 321-330
		}
		return true
	})
	u, _ := start(t, options(q, serve(t, rc).URL))
	eventually(t, "delivery fails", func() bool { return u.Stats().Retries > 0 })
	up.Store(true)
	if err := flush(t, u); err != nil {
		t.Fatal(err)
	}
	var order []uint64
	for _, r := range rc.seen()[1:] {
		order = append(order, r.seqs[0])
	}
	// 1-100 was under way; 301-310 was queued before the recovery was known,
	// and 311-320 after it.
	if want := []uint64{1, 101, 311, 201, 301}; !slices.Equal(order, want) {
		t.Errorf("batches began with %v, want %v", order, want)
	}
}

// Readings of high priority may go before the batch that failed. Only once that
// one is through, or shows to be gone, is the rest made backlog.
func TestRecoveryWaitsForTheFailedBatch(t *testing.T) {
	failed, high := makeBatch(syncqueue.Plain, 1, 5), makeBatch(syncqueue.Plain, 6, 1)
	for name, test := range map[string]struct {
		then  []syncqueue.Batch
		marks int
	}{
		"overtaken": {[]syncqueue.Batch{high}, 0},
		"through":   {[]syncqueue.Batch{high, failed}, 1},
		"evicted":   {[]syncqueue.Batch{high, high}, 1},
	} {
		q := newFakeQueue(0)
		u, err := New(options(q, "http://localhost"))
		if err != nil {
			t.Fatal(err)
		}
		l := &loop{Uplink: u, failures: 3, again: cut{first: 1, readings: 5}}
		for _, b := range test.then {
			l.delivered(b)
		}
		if q.marks != test.marks || (l.failures == 0) != (test.marks > 0) {
			t.Errorf("%s: backlog marked %d times, want %d; %d failures", name, q.marks, test.marks, l.failures)
		}
	}
}

// A fresh start does not wait for the flush interval, and what is pending wakes
// delivery later on.
func TestWake(t *testing.T) {
	q, rc := newFakeQueue(0), newReceiver(nil)
	var asked atomic.Int32
	q.fail = func(string) error { asked.Add(1); return nil }
	u, _ := start(t, options(q, serve(t, rc).URL))
	eventually(t, "the queue was found empty", func() bool { return asked.Load() > 0 })
	q.add(1)
	eventually(t, "the first reading of a fresh start is delivered", func() bool { return q.depth() == 0 })
	q.add(1)
	q.pending <- struct{}{}
	eventually(t, "what is pending is delivered", func() bool { return q.depth() == 0 })
	if s := u.Stats(); s.Requests != 2 {
		t.Errorf("%d requests, want 2", s.Requests)
	}
}

// When only the acknowledgement fails, the readings are not sent again.
func TestAckFails(t *testing.T) {
	q, rc := newFakeQueue(100), newReceiver(nil)
	var full atomic.Bool
	full.Store(true)
	q.fail = func(verb string) error {
		if verb == "ack" && full.Load() {
			return errors.New("disk full")
		}
		return nil
	}
	u, _ := start(t, options(q, serve(t, rc).URL))
	eventually(t, "the acknowledgement fails", func() bool { return u.Stats().LastError != "" })
	wantText(t, "LastError", u.Stats().LastError, "acknowledge", "disk full")
	full.Store(false)
	if err := flush(t, u); err != nil {
		t.Fatal(err)
	}
	if n := len(rc.seen()); n != 1 || q.depth() != 0 {
		t.Errorf("%d requests, %d left; want 1, 0", n, q.depth())
	}
}

func TestFlushWithoutRun(t *testing.T) {
	u, err := New(options(newFakeQueue(1), "http://127.0.0.1:1"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := u.Flush(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Flush returned %v", err)
	}
}

func TestNew(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*Options)
		want   string
	}{
		"no queue":        {func(o *Options) { o.Queue = nil }, "queue"},
		"device id":       {func(o *Options) { o.DeviceID = "a b" }, "device id"},
		"no device id":    {func(o *Options) { o.DeviceID = "" }, "device id"},
		"format":          {func(o *Options) { o.Format = "xml" }, "senml"},
		"batch size":      {func(o *Options) { o.BatchSize = 0 }, "batch size"},
		"timeout":         {func(o *Options) { o.RequestTimeout = 0 }, "positive"},
		"retry order":     {func(o *Options) { o.RetryMin = 2 * o.RetryMax }, "in order"},
		"bandwidth":       {func(o *Options) { o.MaxBandwidthBytes = -1 }, "negative"},
		"half a key pair": {func(o *Options) { o.CertFile = "x" }, "key_file"},
		"no endpoint":     {func(o *Options) { o.Endpoint = "" }, "URL"},
		"scheme":          {func(o *Options) { o.Endpoint = "ftp://h/x" }, "ftp"},
		"password":        {func(o *Options) { o.Endpoint = "https://u:hidden@h/x" }, "api_key"},
	} {
		o := options(newFakeQueue(0), "https://api.example.com/v1/ingest")
		test.change(&o)
		_, err := New(o)
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		wantText(t, name, err.Error(), test.want)
		if strings.Contains(err.Error(), "hidden") {
			t.Errorf("%s: the password is in %q", name, err)
		}
	}
}
