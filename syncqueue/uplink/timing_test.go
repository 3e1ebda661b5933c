package uplink

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/pyvorin/pyvorin-edge/syncqueue"
)

// roundTripper is a server without sockets, for tests in which time is not real.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	defer r.Body.Close()
	return f(r)
}

func status(code int) *http.Response {
	return &http.Response{StatusCode: code, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(""))}
}

// timed runs an Uplink over f in a bubble of fake time and ends it after test.
func timed(t *testing.T, q *fakeQueue, change func(*Options), f roundTripper, test func(u *Uplink, stop func())) {
	synctest.Test(t, func(t *testing.T) {
		q.pending = make(chan struct{}, 1) // of this bubble
		o := options(q, "http://receiver.test/ingest")
		o.Transport = f
		change(&o)
		u, stop := start(t, o)
		test(u, func() { stop(); synctest.Wait() })
		stop()
	})
}

// The bounds of the wait double from RetryMin to RetryMax, the wait is spread
// over all of what they allow, and success starts again at the bottom.
func TestBackoff(t *testing.T) {
	const low, high = time.Second, 10 * time.Second
	for failures, bound := range map[int]time.Duration{
		1: low, 2: 2 * low, 3: 4 * low, 4: 8 * low, 5: high, 6: high, 63: high, 64: high, 1000: high,
	} {
		var lowest, highest, sum time.Duration = high, 0, 0
		const n = 1000
		for i := range n {
			wait := fullJitter(low, high, failures, float64(i)/n)
			lowest, highest, sum = min(lowest, wait), max(highest, wait), sum+wait
		}
		if lowest != 0 || highest >= bound || highest < bound*99/100 || sum/n < bound*49/100 || sum/n > bound*51/100 {
			t.Errorf("after %d failures: from %v to %v, mean %v; want 0 to %v", failures, lowest, highest, sum/n, bound)
		}
	}

	q := newFakeQueue(1)
	var tries []time.Duration
	var begin time.Time
	timed(t, q, func(o *Options) {
		o.RetryMin, o.RetryMax = low, high
		o.Rand = func() float64 { return 0.5 }
		begin = time.Now()
	}, func(*http.Request) (*http.Response, error) {
		tries = append(tries, time.Since(begin))
		if len(tries) < 7 {
			return nil, errors.New("connection refused")
		}
		return status(200), nil
	}, func(u *Uplink, stop func()) {
		time.Sleep(time.Minute)
		stop()
		want := []time.Duration{0, 500, 1500, 3500, 7500, 12500, 17500} // milliseconds
		for i := range want {
			want[i] *= time.Millisecond
		}
		if len(tries) != len(want) {
			t.Fatalf("tries at %v, want %v", tries, want)
		}
		for i := range want {
			if tries[i] != want[i] {
				t.Fatalf("tries at %v, want %v", tries, want)
			}
		}
		if s := u.Stats(); s.Retries != 6 || !s.FailingSince.IsZero() || s.LastError != "connection refused" {
			t.Errorf("stats %+v", s)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, test := range []struct {
		value, date string
		want        time.Duration
	}{
		{"", "", 0},
		{"7", "", 7 * time.Second},
		{" 7 ", "", 7 * time.Second},
		{"-7", "", 0},
		{"soon", "", 0},
		{"86400", "", time.Hour},
		{"99999999999999999999999", "", 0},
		{"Fri, 02 Jan 2026 03:05:05 GMT", "", time.Minute},
		{"Fri, 02 Jan 2026 03:03:05 GMT", "", 0},
		{"Fri, 02 Jan 2099 03:03:05 GMT", "", time.Hour},
		{"Fri, 02 Jan 2020 03:00:30 GMT", "Fri, 02 Jan 2020 03:00:00 GMT", 30 * time.Second}, // this device's clock is ahead
	} {
		h := http.Header{"Retry-After": {test.value}, "Date": {test.date}}
		if got := retryAfter(h, now); got != test.want {
			t.Errorf("Retry-After %q, Date %q: %v, want %v", test.value, test.date, got, test.want)
		}
	}

	for _, code := range []int{429, 503} {
		var last time.Time
		var waited time.Duration
		timed(t, newFakeQueue(1), func(o *Options) { o.RetryMin, o.RetryMax = time.Second, time.Second },
			func(*http.Request) (*http.Response, error) {
				if last.IsZero() {
					last = time.Now()
					r := status(code)
					r.Header.Set("Retry-After", "120")
					return r, nil
				}
				waited = time.Since(last)
				return status(200), nil
			}, func(_ *Uplink, stop func()) {
				time.Sleep(10 * time.Minute)
				stop()
				if waited < 2*time.Minute || waited > 2*time.Minute+time.Second {
					t.Errorf("after a %d it waited %v", code, waited)
				}
			})
	}
}

// What nobody hurries is delivered once in each flush interval.
func TestFlushInterval(t *testing.T) {
	q := newFakeQueue(1)
	timed(t, q, func(o *Options) { o.FlushInterval = time.Minute },
		func(*http.Request) (*http.Response, error) { return status(200), nil },
		func(*Uplink, func()) {
			synctest.Wait()
			if q.depth() != 0 {
				t.Fatal("what was queued before the start is not delivered")
			}
			q.add(1)
			time.Sleep(time.Minute - time.Millisecond)
			synctest.Wait()
			if q.depth() != 1 {
				t.Error("delivered before the interval was over")
			}
			time.Sleep(time.Millisecond)
			synctest.Wait()
			if q.depth() != 0 {
				t.Error("not delivered after an interval")
			}
		})
}

// A paused delivery is probed with one request in each interval of RetryMax to
// half of it, and new readings do not hurry it.
func TestPauseInterval(t *testing.T) {
	q := newFakeQueue(500)
	var requests atomic.Int32
	timed(t, q, func(o *Options) { o.RetryMin, o.RetryMax = time.Second, 4*time.Minute },
		func(*http.Request) (*http.Response, error) {
			requests.Add(1)
			return status(404), nil
		}, func(u *Uplink, _ func()) {
			for range 3600 {
				time.Sleep(time.Second)
				select {
				case q.pending <- struct{}{}:
				default:
				}
			}
			if n := requests.Load(); n < 15 || n > 31 {
				t.Errorf("%d requests in an hour, want 15 to 31", n)
			}
			if q.depth() != 500 || u.Stats().DeadLettered != 0 {
				t.Errorf("%d of 500 readings kept", q.depth())
			}
		})
}

// The cap holds over time, and a batch under it is small enough that a live
// reading does not wait long.
func TestBandwidth(t *testing.T) {
	q := newFakeQueue(1000)
	q.encoding = syncqueue.Plain
	const rate = 10_000
	var sent atomic.Int64
	timed(t, q, func(o *Options) { o.MaxBandwidthBytes = rate },
		func(r *http.Request) (*http.Response, error) {
			sent.Add(r.ContentLength)
			return status(200), nil
		}, func(*Uplink, func()) {
			begin := time.Now()
			for q.depth() > 0 {
				time.Sleep(10 * time.Millisecond)
			}
			perSecond := float64(sent.Load()) / time.Since(begin).Seconds()
			if perSecond < 0.9*rate || perSecond > 1.2*rate { // the last batch is not waited for
				t.Errorf("%.0f bytes a second, want about %d", perSecond, rate)
			}
		})
}

// A reading that arrives while the cap is waited for goes before the backlog.
func TestLiveFirstUnderCap(t *testing.T) {
	q := newFakeQueue(200)
	q.MarkBacklog()
	var keys []string
	timed(t, q, func(o *Options) { o.MaxBandwidthBytes = 100 },
		func(r *http.Request) (*http.Response, error) {
			keys = append(keys, strings.TrimPrefix(r.Header.Get("Idempotency-Key"), device+":"))
			return status(200), nil
		}, func(_ *Uplink, stop func()) {
			synctest.Wait()
			q.add(1)
			time.Sleep(time.Hour)
			stop()
			if want := []string{"1-100", "201-201", "101-200"}; !slices.Equal(keys, want) {
				t.Errorf("sent %v, want %v", keys, want)
			}
		})
}

func TestPacer(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	p := pacer{bytesPerSecond: 1000}
	p.spend(now, 2000)
	if got := p.wait(now); got != 2*time.Second {
		t.Errorf("after 2000 bytes at 1000 a second: wait %v", got)
	}
	now = now.Add(time.Hour)
	if got := p.wait(now); got != 0 {
		t.Errorf("an hour later: wait %v", got)
	}
	p.spend(now, 2000)
	if got := p.wait(now); got != 2*time.Second {
		t.Errorf("after an hour of silence, which earns no credit: wait %v", got)
	}
	p = pacer{}
	p.spend(now, 1<<40)
	if got := p.wait(now); got != 0 {
		t.Errorf("without a cap: wait %v", got)
	}
}

// The loop proves that it turns while it waits for a slow answer, for a retry
// and for the bandwidth cap.
func TestBeat(t *testing.T) {
	q := newFakeQueue(200)
	q.encoding = syncqueue.Plain
	var beats []time.Time
	tries := 0
	timed(t, q, func(o *Options) {
		o.RequestTimeout, o.RetryMin, o.RetryMax, o.MaxBandwidthBytes = 30*time.Second, time.Minute, time.Minute, 500
		o.Beat = func() { beats = append(beats, time.Now()) }
	}, func(r *http.Request) (*http.Response, error) {
		if tries++; tries == 1 {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}
		return status(200), nil
	}, func(_ *Uplink, stop func()) {
		begin := time.Now()
		time.Sleep(5 * time.Minute)
		stop()
		if q.depth() != 0 {
			t.Errorf("%d readings left", q.depth())
		}
		last := begin
		for _, at := range append(beats, time.Now()) {
			if gap := at.Sub(last); gap > beatInterval {
				t.Fatalf("no beat for %v", gap)
			}
			last = at
		}
	})
}

// Told to stop, Run delivers what is queued, but for no longer than it may.
func TestShutdown(t *testing.T) {
	for name, test := range map[string]struct {
		timeout      time.Duration
		answer       func(n int32, r *http.Request) (*http.Response, error)
		requests     int32
		left         int
		atMost, from time.Duration
	}{
		"drains": {
			timeout: 5 * time.Second, requests: 5, left: 0, from: 4 * time.Second, atMost: 4 * time.Second,
			answer: func(_ int32, _ *http.Request) (*http.Response, error) {
				time.Sleep(time.Second)
				return status(200), nil
			},
		},
		"gives up at the deadline": {
			timeout: 5 * time.Second, requests: 3, left: 300, from: 5 * time.Second, atMost: 5 * time.Second,
			answer: func(n int32, r *http.Request) (*http.Response, error) {
				if n > 2 {
					<-r.Context().Done()
					return nil, r.Context().Err()
				}
				time.Sleep(time.Second)
				return status(200), nil
			},
		},
		"no time": {
			timeout: 0, requests: 1, left: 500,
			answer: func(_ int32, r *http.Request) (*http.Response, error) {
				<-r.Context().Done()
				return nil, r.Context().Err()
			},
		},
		"gives up at the first failure": {
			timeout: 5 * time.Second, requests: 3, left: 400,
			answer: func(n int32, _ *http.Request) (*http.Response, error) {
				if n == 1 {
					return status(200), nil
				}
				return status(500), nil
			},
		},
		"not tried while paused": {
			timeout: 5 * time.Second, requests: 1, left: 500,
			answer: func(int32, *http.Request) (*http.Response, error) { return status(403), nil },
		},
	} {
		t.Run(name, func(t *testing.T) {
			q := newFakeQueue(500)
			var requests atomic.Int32
			timed(t, q, func(o *Options) { o.ShutdownTimeout = test.timeout },
				func(r *http.Request) (*http.Response, error) { return test.answer(requests.Add(1), r) },
				func(_ *Uplink, stop func()) {
					synctest.Wait()
					if strings.HasPrefix(name, "drains") || test.left == 300 {
						time.Sleep(time.Second) // into the second request
						synctest.Wait()
					}
					begin := time.Now()
					stop()
					if took := time.Since(begin); took < test.from || took > test.atMost {
						t.Errorf("stopping took %v, want %v to %v", took, test.from, test.atMost)
					}
					if requests.Load() != test.requests || q.depth() != test.left || q.leased {
						t.Errorf("%d requests, %d left, leased %v; want %d, %d, false", requests.Load(), q.depth(), q.leased, test.requests, test.left)
					}
				})
		})
	}
}

// The log tells of changes, not of each try.
func TestLogsChangesOnly(t *testing.T) {
	var logged bytes.Buffer
	tries := 0
	timed(t, newFakeQueue(1), func(o *Options) {
		o.RetryMin, o.RetryMax, o.Log = time.Second, time.Second, zerolog.New(&logged)
	}, func(*http.Request) (*http.Response, error) {
		if tries++; tries <= 10 {
			return status(500), nil
		}
		return status(200), nil
	}, func(_ *Uplink, stop func()) {
		time.Sleep(time.Minute)
		stop()
		if n := strings.Count(logged.String(), "\n"); n != 2 {
			t.Errorf("%d lines:\n%s", n, logged.String())
		}
		wantText(t, "the log", logged.String(), "delivery failed", "delivery recovered", `"failures":10`)
	})
}

// The agent's error rate and latency come from Observe.
func TestObserve(t *testing.T) {
	tries := 0
	var errs []bool
	timed(t, newFakeQueue(1), func(o *Options) {
		o.RetryMin, o.RetryMax = time.Second, time.Second
		o.Observe = func(d time.Duration, err error) {
			if d != 3*time.Second {
				t.Errorf("observed %v, want 3s", d)
			}
			errs = append(errs, err != nil)
		}
	}, func(*http.Request) (*http.Response, error) {
		time.Sleep(3 * time.Second)
		if tries++; tries == 1 {
			return status(500), nil
		}
		return status(200), nil
	}, func(_ *Uplink, stop func()) {
		time.Sleep(time.Minute)
		stop()
		if len(errs) != 2 || !errs[0] || errs[1] {
			t.Errorf("observed failures %v, want [true false]", errs)
		}
	})
}

func TestOutlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		work, stop := outlive(ctx, 3*time.Second)
		defer stop()
		cancel()
		time.Sleep(3*time.Second - time.Millisecond)
		if work.Err() != nil {
			t.Error("it ended early")
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if work.Err() == nil {
			t.Error("it did not end")
		}
	})
}
