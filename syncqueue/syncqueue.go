// Package syncqueue is the device's durable outbox: it keeps readings on disk
// until the cloud has acknowledged them.
//
// The parties are the pipeline, which enqueues readings that the privacy rules
// cleared; the queue's writer goroutine, the only one that changes the file;
// and the uplink, which leases batches, delivers them, and acks.
//
// # Files
//
// Beside sync_queue.db (SQLite in WAL mode, so also -wal and -shm) there are
// sync_queue.lock, held while a process has the queue open; sync_queue.seq,
// which reserves sequence numbers; sync_queue.ballast, space set aside for a
// full disk; up to three sync_queue.corrupt-TIME.db that were set aside; and, while
// one of those is read, sync_queue.salvage.db and sync_queue.repair.db.
// docs/formats.md describes them.
//
// # Promises
//
// When Enqueue returns nil its readings are on the medium, fsync included: a
// power cut loses none of them. Waiting callers share one commit. A commit is a
// few rows, one per priority and batch, each a compressed frame of NDJSON lines
// exactly as it will travel.
//
// Delivery is at least once. An ack is written without waiting for the medium,
// so a power cut may bring back what had been delivered, under the same
// sequence numbers; a receiver recognises it by device id and seq.
//
// # Sequence numbers
//
// Every accepted reading gets the next number, for ever: over restarts, crashes
// and an emptied queue. The newest row, or the marker that replaces it when it
// goes, says which number comes next. In case the file is lost, the sidecar
// sync_queue.seq reserves numbers a million ahead, before any of them is used:
// numbering then goes on after the reserved range. So it jumps forward and never
// back, because a receiver would discard readings under numbers it has seen.
//
// # Losses
//
// What the queue gives up (evicted by size or age, unreadable, skipped by a
// jump) is counted and announced by readings of its own in the stream, see
// wire.LossSensor. The receiver can so tell a known loss from an unknown one.
//
// # Faults
//
// A damaged file is set aside, what can be read of it is moved to a new one, and
// the rest is announced, at Open as well as while running; Open does not fail
// because of it. With a full disk Enqueue answers ErrFull while acks go on, on
// the space of the ballast, until there is room again. Other errors of the disk
// are returned to who met them and shown as Stats.Fault until they pass.
package syncqueue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofrs/flock"
	"github.com/rs/zerolog"

	"github.com/pyvorin/pyvorin-edge/internal/clock"
	"github.com/pyvorin/pyvorin-edge/privacy"
)

// Errors that callers branch on.
var (
	// ErrFull says that the disk has no room for more readings. It passes by
	// itself; until then the caller keeps them or drops them, counted.
	ErrFull = errors.New("no room on disk for the queue")

	// ErrClosed says that the queue was closed.
	ErrClosed = errors.New("the queue is closed")

	// ErrLocked says that another process has the queue open.
	ErrLocked = errors.New("another process has the queue open")
)

// Options configure a Queue.
type Options struct {
	Path           string        // of the queue file, such as …/sync_queue.db; its folder must exist
	DeviceID       string        // stamped on every reading
	Encoding       Encoding      // of new frames; older ones keep theirs
	BatchSize      int           // readings in a frame at most; 0 means 100
	Linger         time.Duration // how long readings gather before one commit; 0 merges only what already waits
	MaxBytes       int64         // of stored rows, beyond which eviction begins; 0 means 256 MiB
	MaxAge         time.Duration // beyond which a reading is evicted; 0 keeps all
	MaxDeadLetters int           // beyond which the oldest go; 0 means 1000
	Clock          clock.Clock
	Beat           func() // called at least every 5 s while the writer works; nil for none
	Log            zerolog.Logger
}

func (o *Options) check() error {
	switch {
	case o.Path == "":
		return errors.New("queue options: Path is missing")
	case o.DeviceID == "":
		return errors.New("queue options: DeviceID is missing")
	case o.Clock == nil:
		return errors.New("queue options: Clock is missing")
	case o.Encoding > Zstd:
		return fmt.Errorf("queue options: no such encoding: %v", o.Encoding)
	case o.BatchSize < 0 || o.BatchSize > maxFrameReadings || o.Linger < 0 || o.MaxBytes < 0 || o.MaxAge < 0 || o.MaxDeadLetters < 0:
		return errors.New("queue options: a limit is negative or too large")
	}
	if o.BatchSize == 0 {
		o.BatchSize = 100
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = 256 << 20
	}
	if o.MaxDeadLetters == 0 {
		o.MaxDeadLetters = 1000
	}
	if o.Beat == nil {
		o.Beat = func() {}
	}
	o.Log = o.Log.With().Str("component", "syncqueue").Logger()
	return nil
}

// Want limits a batch. A batch has at least one row all the same.
type Want struct {
	Readings int   // 0 means the queue's BatchSize
	Bytes    int64 // compressed; 0 means no limit
}

// Queue is an open queue. Its methods are safe for concurrent use.
type Queue struct {
	o      Options
	files  files
	lock   *flock.Flock
	opened time.Time

	ops     chan op
	closing chan struct{} // closed by Close
	done    chan struct{} // closed when the writer goroutine has ended
	pending chan struct{}

	hurried   atomic.Bool
	closeOnce sync.Once
	closeErr  error // valid after done

	writer // what only the writer goroutine uses

	// storeMu guards the pointer, which recovery replaces while readers work.
	storeMu sync.RWMutex
	store   *store

	mu       sync.Mutex
	index    index
	leases   map[uint64]*lease // by first seq
	claimed  int64             // bytes of rows being evicted, still in index
	next     uint64            // seq of the next reading
	counters counters
	dead     int64 // dead letters kept
	salvaged int64
	lost     int64
	fault    string
	full     bool // the disk has no room
}

// Open opens or creates the queue. It fails only for what an operator must put
// right; a damaged file it sets aside.
func Open(ctx context.Context, o Options) (_ *Queue, err error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	q := &Queue{
		o: o, files: filesOf(o.Path), opened: o.Clock.Now(),
		ops: make(chan op, 128), closing: make(chan struct{}), done: make(chan struct{}), pending: make(chan struct{}, 1),
		leases: map[uint64]*lease{},
	}
	if q.lock, err = q.files.acquire(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("open queue: %w", err)
			if q.store != nil {
				err = errors.Join(err, q.store.close())
			}
			err = errors.Join(err, q.lock.Unlock())
		}
	}()
	if err := q.files.inflate(); err != nil {
		q.o.Log.Warn().Err(err).Msg("ballast not written: acks may fail on a full disk")
	}
	if err := q.openFile(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	go q.run()
	return q, nil
}

// Enqueue stores readings and returns when they are durable, or an error and
// none of them is queued: all or nothing. Readings whose priority is high do not
// wait for Options.Linger. When ctx ends first its error is returned, the
// readings may still be committed, and the slice must not be used again.
func (q *Queue) Enqueue(ctx context.Context, readings []privacy.Cleared) error {
	if len(readings) == 0 {
		return nil
	}
	o := op{add: readings, answer: make(chan error, 1)}
	for i := range readings {
		c := &readings[i]
		if !c.Valid() {
			return errors.New("enqueue: a reading was not cleared by the privacy rules")
		}
		if n := roughBytes(c); n > maxReadingBytes {
			return fmt.Errorf("enqueue: a reading of %s has %d bytes; the limit is %d", c.Name(), n, maxReadingBytes)
		}
		o.high = o.high || priorityOf(c.Priority()) == high
	}
	if err := q.submit(ctx, o); err != nil {
		return fmt.Errorf("enqueue %d readings: %w", len(readings), err)
	}
	return nil
}

// maxReadingBytes bounds one reading's texts. Escaped they are up to six times
// as long, which still decodes.
const maxReadingBytes = 4 << 20

// roughBytes adds up the texts that make a reading large.
func roughBytes(c *privacy.Cleared) int {
	r := c.Wire()
	text, _ := r.Value.Text()
	n := len(text) + len(r.Sensor) + len(r.Type) + len(r.Unit) + len(r.Reason)
	for k, v := range r.Tags {
		n += len(k) + len(v)
	}
	for k, v := range r.Meta {
		text, _ := v.Text()
		n += len(k) + len(text)
	}
	return n
}

// Pending yields when a full batch, or a reading of high priority, waits to be
// leased. Its capacity is 1: one signal may stand for many.
func (q *Queue) Pending() <-chan struct{} { return q.pending }

// MarkBacklog makes all that is queued now backlog: later readings are leased
// before it. Call it when the connection returns.
func (q *Queue) MarkBacklog() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.index.markBacklog()
}

// Hurry commits what is waiting and lets nothing linger from here on: an
// orderly stop must not wait for Options.Linger.
func (q *Queue) Hurry(ctx context.Context) error {
	q.hurried.Store(true)
	return q.ask(ctx, func() error {
		q.commitGroup()
		return nil
	})
}

// Close commits what is waiting, writes the counters and closes the file. When
// ctx ends first, closing goes on in the background.
func (q *Queue) Close(ctx context.Context) error {
	q.closeOnce.Do(func() { close(q.closing) })
	select {
	case <-q.done:
		return q.closeErr
	case <-ctx.Done():
		return fmt.Errorf("close queue: %w", ctx.Err())
	}
}

// current returns the store to read from; release ends its use.
func (q *Queue) current() (s *store, release func()) {
	q.storeMu.RLock()
	return q.store, q.storeMu.RUnlock
}
