// Package uplink delivers what the queue holds to the operator's endpoint.
//
// The parties are the Queue, which leases batches in the order they should go
// (live readings before the backlog); the Uplink, one loop that POSTs them one
// at a time; and the receiver behind the endpoint, which answers for them. A
// batch travels as the queue stored it: its compressed frames, concatenated,
// are the body.
//
// What it promises: a batch is acknowledged to the queue only after a 2xx, so
// delivery is at least once; a retry sends the same bytes under the same
// Idempotency-Key (`<device_id>:<first seq>-<last seq>`), so that the receiver
// can make it exactly once. The receiver's answer decides what happens next:
//
//	2xx                                    acknowledged
//	408, 425, 429, 5xx, no answer          sent again, after a random wait that doubles, or after Retry-After
//	401, 403, 404, 405 …, redirects        paused: someone must act; all is kept, and delivery resumes by itself
//	400, 413, 422 and every other 4xx      halved down to the reading that is refused; that one becomes a dead letter
//
// A receiver that refuses every reading is more likely broken than every
// reading is: after ten dead letters in a row with nothing accepted between
// them, delivery pauses and the rest is kept.
//
// It keeps nothing on disk. When power is lost between the receiver's answer
// and the acknowledgement, the readings are sent again; batches may then be cut
// differently, and the receiver tells duplicates by device_id and seq.
package uplink

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/pyvorin/pyvorin-edge/internal/buildinfo"
	"github.com/pyvorin/pyvorin-edge/syncqueue"
)

// Queue is what an Uplink delivers from. Only its loop calls these, one call at
// a time; Ack and DeadLetter may take as long as a commit to disk.
type Queue interface {
	// Lease returns the batch that should go next, about as large as w wants
	// and never empty; ok is false when nothing is queued.
	Lease(ctx context.Context, w syncqueue.Want) (b syncqueue.Batch, ok bool, err error)
	// Ack removes a leased batch for good, Nack makes it leasable again.
	Ack(ctx context.Context, b syncqueue.Batch) error
	Nack(b syncqueue.Batch)
	// DeadLetter sets one reading of a leased batch aside. The batch stays
	// leased, and doing it twice for one seq must be harmless.
	DeadLetter(ctx context.Context, b syncqueue.Batch, seq uint64, status int, reason string) error
	// MarkBacklog says that everything queued so far may wait for what comes.
	MarkBacklog()
	// Pending yields when something should not wait for the next interval.
	Pending() <-chan struct{}
}

// Options are what an Uplink needs. Queue, DeviceID, Endpoint and every
// duration but ShutdownTimeout are required.
type Options struct {
	Queue    Queue
	DeviceID string
	Endpoint string // http or https URL

	// APIKey returns the key to send; "" sends none. It is asked at start and
	// again while the receiver refuses the key, so a rotated key file is
	// noticed without a restart. Nil sends none.
	APIKey func() (string, error)

	Format            string // of the body: "ndjson" (also ""), "json" or "senml"
	BatchSize         int    // most readings in one request
	FlushInterval     time.Duration
	RequestTimeout    time.Duration // whole request, answer included
	RetryMin          time.Duration // first upper bound of the random wait after a failure
	RetryMax          time.Duration // largest upper bound of it
	ShutdownTimeout   time.Duration // for delivering the rest when Run's context ends; 0 delivers nothing more
	MaxBandwidthBytes int64         // body bytes a second, averaged; 0 is no cap

	CAFile            string // PEM; authorities to trust instead of the system's
	CertFile, KeyFile string // PEM; client certificate, read again for each connection

	UserAgent string                     // "" is pyvorin-edge/VERSION
	Observe   func(time.Duration, error) // called after each request; may be nil
	Beat      func()                     // called while the loop turns, at least every 5 s; may be nil
	Log       zerolog.Logger

	Transport http.RoundTripper // replaces the network; tests
	Rand      func() float64    // in [0,1); nil is math/rand
}

// Stats are figures since New, but for the current state of delivery.
type Stats struct {
	Enabled      bool      // Run is at work
	LastFlushAt  time.Time // when the queue last took an acknowledgement
	FailingSince time.Time // first failure of an unbroken row of them; zero while delivery works or nothing is queued
	LastError    string    // the last failure, kept after recovery
	Paused       string    // why delivery stands still until someone acts, and what to do; "" when it does not

	Requests     int64 // sent
	Retries      int64 // batches handed back to be sent again
	Accepted     int64 // readings that the receiver took, repeated ones included
	DeadLettered int64 // readings that it refused
	BytesSent    int64 // bodies, repeated ones included
}

// Uplink delivers a queue. Its methods are safe for concurrent use.
type Uplink struct {
	o     Options
	log   zerolog.Logger
	flush chan chan error // from Flush to the loop
	beat  time.Duration   // beatInterval; shorter in tests

	mu    sync.Mutex
	stats Stats
}

// New checks the options. It does no I/O: a certificate file that cannot be
// read is found by Run.
func New(o Options) (*Uplink, error) {
	if err := o.setDefaults(); err != nil {
		return nil, fmt.Errorf("uplink: %w", err)
	}
	return &Uplink{
		o: o, log: o.Log.With().Str("component", "uplink").Logger(),
		flush: make(chan chan error), beat: beatInterval,
	}, nil
}

func (o *Options) setDefaults() error {
	if o.Format == "" {
		o.Format = formatNDJSON
	}
	if o.UserAgent == "" {
		o.UserAgent = "pyvorin-edge/" + buildinfo.Version
	}
	if o.APIKey == nil {
		o.APIKey = func() (string, error) { return "", nil }
	}
	if o.Observe == nil {
		o.Observe = func(time.Duration, error) {}
	}
	if o.Beat == nil {
		o.Beat = func() {}
	}
	if o.Rand == nil {
		o.Rand = rand.Float64
	}
	switch {
	case o.Queue == nil:
		return errors.New("a queue is required")
	case !printable(o.DeviceID):
		return fmt.Errorf("device id %q: it must be printable ASCII without spaces, because it travels in a header", o.DeviceID)
	case contentTypes[o.Format] == "":
		return fmt.Errorf("format %q: use ndjson, json or senml", o.Format)
	case o.BatchSize < 1:
		return fmt.Errorf("batch size %d: it must be at least 1", o.BatchSize)
	case o.FlushInterval <= 0 || o.RequestTimeout <= 0:
		return errors.New("flush interval and request timeout must be positive")
	case o.RetryMin <= 0 || o.RetryMax < o.RetryMin:
		return fmt.Errorf("retry waits from %v to %v: they must be positive and in order", o.RetryMin, o.RetryMax)
	case o.ShutdownTimeout < 0 || o.MaxBandwidthBytes < 0:
		return errors.New("shutdown timeout and bandwidth must not be negative")
	case (o.CertFile == "") != (o.KeyFile == ""):
		return errors.New("cert_file and key_file belong together: set both or none")
	}
	return checkEndpoint(o.Endpoint)
}

// checkEndpoint never quotes the URL: one with a password in it is refused, and
// errors are shown to people.
func checkEndpoint(endpoint string) error {
	u, err := url.Parse(endpoint)
	switch {
	case err != nil || u.Host == "":
		return errors.New("endpoint: it must be a URL such as https://api.example.com/v1/ingest")
	case u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("endpoint: scheme %q is not http or https", u.Scheme)
	case u.User != nil:
		return errors.New("endpoint: it must not contain a user or password; use api_key")
	}
	return nil
}

// printable reports whether s is a non-empty run of visible ASCII.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return s != ""
}

// Stats returns the current figures.
func (u *Uplink) Stats() Stats {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.stats
}

// update changes the figures under their lock.
func (u *Uplink) update(change func(*Stats)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	change(&u.stats)
}

// Flush delivers everything queued, at once: it cuts short a wait between
// retries and tries a paused delivery. It returns nil when the queue is empty,
// or the first failure. The work is Run's, so Flush waits for Run; when ctx ends
// first, the delivery goes on without it.
func (u *Uplink) Flush(ctx context.Context) error {
	done := make(chan error, 1)
	select {
	case u.flush <- done:
	case <-ctx.Done():
		return fmt.Errorf("flush: delivery is busy or not running: %w", ctx.Err())
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("flush: still delivering: %w", ctx.Err())
	}
}
