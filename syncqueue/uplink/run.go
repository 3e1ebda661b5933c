package uplink

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/pyvorin/pyvorin-edge/internal/human"
	"github.com/pyvorin/pyvorin-edge/syncqueue"
)

const (
	beatInterval = 5 * time.Second

	// Until something was leased for the first time, the queue is asked after
	// 100 ms and then ever less often up to each second, so that the first
	// reading of a fresh start does not wait for a whole flush interval.
	firstWait   = 100 * time.Millisecond
	maxEarlyGap = time.Second

	maxBodyBytes = 1 << 20 // of one request, as far as whole frames allow
	minBodyBytes = 4 << 10 // however low the bandwidth cap is
)

// failure is why the receiver or the key stopped a delivery, and when to try
// again.
type failure struct {
	err        error
	paused     bool          // more tries will not help until someone acts
	retryAfter time.Duration // what the receiver asked for; 0 is nothing
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// loop is the state of one Run. Only Run's goroutine touches it.
type loop struct {
	*Uplink
	client *http.Client
	tick   *time.Ticker // each is a chance to beat, whatever the loop waits for
	pacer  pacer

	key      string // sent as Authorization
	keyStale bool   // the key is unknown or was refused

	early    time.Duration // next wait until something was leased; then 0
	size     int           // readings to lease: BatchSize, or less after a 413
	calm     int           // batches accepted since size last changed
	failures int           // deliveries that failed in a row
	refused  int           // single readings refused in a row, across batches
	partial  *delivery     // the last one that failed half done
	again    cut           // of the last batch that failed
}

// Run delivers until ctx ends, then what is still queued within
// ShutdownTimeout. It returns an error only when it cannot start. A Run that
// returned may be followed by another, but there must be only one at a time.
func (u *Uplink) Run(ctx context.Context) error {
	transport, err := u.transport()
	if err != nil {
		return fmt.Errorf("uplink: %w", err)
	}
	l := &loop{
		Uplink: u, client: newClient(transport), tick: time.NewTicker(u.beat),
		pacer:    pacer{bytesPerSecond: u.o.MaxBandwidthBytes},
		keyStale: true, early: firstWait, size: u.o.BatchSize,
	}
	defer l.tick.Stop()
	defer l.client.CloseIdleConnections()

	u.update(func(s *Stats) { s.Enabled = true })
	defer u.update(func(s *Stats) { s.Enabled = false })

	work, stop := outlive(ctx, u.o.ShutdownTimeout)
	defer stop()
	u.o.Beat()
	wait := time.NewTimer(0)
	defer wait.Stop()
	for {
		pending := u.o.Queue.Pending()
		if l.failures > 0 {
			pending = nil // a wait after a failure is not cut short by new readings
		}
		var flushed chan error
		select {
		case <-ctx.Done():
			l.finish(work)
			return nil
		case <-l.tick.C:
			u.o.Beat()
			if !l.keyChanged() {
				continue
			}
		case flushed = <-u.flush:
		case <-pending:
		case <-wait.C:
		}
		err := l.drain(work)
		if flushed != nil {
			flushed <- err
		}
		wait.Reset(l.nextWait(err))
	}
}

// outlive returns a context that ends d after ctx does.
func outlive(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-time.After(d):
			cancel()
		case <-work.Done():
		}
	})
	return work, func() { stop(); cancel() }
}

// finish delivers what is left when Run is told to stop. A paused delivery is
// not tried again.
func (l *loop) finish(work context.Context) {
	if l.o.ShutdownTimeout == 0 || l.Stats().Paused != "" {
		return
	}
	if err := l.drain(work); err != nil {
		l.log.Warn().Err(err).Msg("delivery stopped with readings left in the queue")
	}
}

// drain delivers until the queue is empty or a delivery fails. Its errors are
// already recorded.
func (l *loop) drain(ctx context.Context) error {
	err := l.askKey()
	for err == nil {
		// Paying for the last request before leasing the next lets readings
		// that arrive meanwhile go first.
		if err = l.pace(ctx); err != nil {
			break
		}
		var b syncqueue.Batch
		var ok bool
		if b, ok, err = l.o.Queue.Lease(ctx, l.want()); err != nil {
			err = fmt.Errorf("lease from the queue: %w", err)
			break
		}
		if !ok {
			// What failed was delivered or evicted.
			l.again = cut{}
			l.recovered()
			return nil
		}
		l.early = 0
		err = l.deliver(ctx, b)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("delivery was stopped: %w", ctx.Err())
	}
	l.failed(err)
	return err
}

// want is how much one lease should bring. Under a bandwidth cap that is what
// takes about a second, so that a live reading never waits long behind it.
func (l *loop) want() syncqueue.Want {
	bytes := int64(maxBodyBytes)
	if l.o.MaxBandwidthBytes > 0 {
		bytes = max(minBodyBytes, min(bytes, l.o.MaxBandwidthBytes))
	}
	readings := l.size
	if l.again.readings > 0 {
		readings = l.again.readings // what was queued since must not join it
	}
	return syncqueue.Want{Readings: readings, Bytes: bytes}
}

// askKey gets the API key if it is not known to be good.
func (l *loop) askKey() error {
	if !l.keyStale {
		return nil
	}
	key, err := l.readKey()
	if err != nil {
		return &failure{err: fmt.Errorf("API key: %w; check cloud.api_key or cloud.api_key_file", err), paused: true}
	}
	l.key, l.keyStale = key, false
	return nil
}

// keyChanged reports whether a key that was refused has been replaced.
func (l *loop) keyChanged() bool {
	if !l.keyStale {
		return false
	}
	key, err := l.readKey()
	return err == nil && key != l.key
}

func (l *loop) readKey() (string, error) {
	key, err := l.o.APIKey()
	if err != nil {
		return "", err
	}
	key = strings.TrimSpace(key) // a file usually ends in a newline
	if key != "" && !printable(key) {
		return "", errors.New("it contains spaces or characters that cannot be sent")
	}
	return key, nil
}

// nextWait is how long to wait after drain returned err.
func (l *loop) nextWait(err error) time.Duration {
	var f *failure
	switch {
	case errors.As(err, &f) && f.paused:
		return between(l.o.RetryMax/2, l.o.RetryMax, l.o.Rand())
	case err != nil:
		wait := fullJitter(l.o.RetryMin, l.o.RetryMax, l.failures, l.o.Rand())
		if f != nil {
			wait += f.retryAfter
		}
		return wait
	case l.early > 0:
		wait := min(l.early, l.o.FlushInterval)
		l.early = min(2*l.early, maxEarlyGap)
		return wait
	}
	return l.o.FlushInterval
}

// failed records a failed delivery, and logs it when that is news.
func (l *loop) failed(err error) {
	var f *failure
	why := ""
	if errors.As(err, &f) && f.paused {
		why = err.Error()
	}
	l.failures++
	before := l.Stats()
	l.update(func(s *Stats) {
		s.LastError, s.Paused = err.Error(), why
		if s.FailingSince.IsZero() {
			s.FailingSince = time.Now()
		}
	})
	switch {
	case why != "" && before.Paused == "":
		l.log.Error().Err(err).Msg("delivery paused")
	case before.FailingSince.IsZero():
		l.log.Warn().Err(err).Msg("delivery failed and is retried")
	}
}

// recovered records that nothing is left that failed. What gathered meanwhile
// may now wait for what is live.
func (l *loop) recovered() {
	if l.failures == 0 {
		return
	}
	since := l.Stats().FailingSince
	l.log.Info().Int("failures", l.failures).Str("after", human.Duration(time.Since(since))).Msg("delivery recovered")
	l.failures = 0
	l.update(func(s *Stats) { s.FailingSince, s.Paused = time.Time{}, "" })
	l.o.Queue.MarkBacklog()
}

// pace waits until the bandwidth cap allows another request.
func (l *loop) pace(ctx context.Context) error {
	wait := l.pacer.wait(time.Now())
	if wait == 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-l.tick.C:
			l.o.Beat()
		case <-timer.C:
			return nil
		}
	}
}
