package syncqueue

import (
	"context"
	"errors"
	"runtime"
	"time"

	"github.com/pyvorin/pyvorin-edge/privacy"
)

const (
	// tickEvery is how often the writer looks after things while nothing
	// happens, and reports that it is alive.
	tickEvery = 4 * time.Second

	// maxGroup bounds the readings merged into one commit; one call's readings
	// are never split.
	maxGroup = 4096

	// retryFull is how often a full disk is tried again.
	retryFull = time.Second

	// saveCountersEvery bounds how many counts a crash can lose.
	saveCountersEvery = time.Minute
)

// op is one request to the writer: readings to add, or something to do.
type op struct {
	add    []privacy.Cleared
	high   bool
	do     func() error
	answer chan error // capacity 1
}

// writer is the state of the writer goroutine.
type writer struct {
	group     []op // waiting for the next commit
	grouped   int  // readings in it
	reserved  uint64
	losses    losses
	announced time.Time // when losses were last announced
	saved     counters  // as last written
	savedAt   time.Time
	retryAt   time.Time // when a full disk is tried again
	broken    bool      // recovery failed: the file has to be opened again
	raw       []byte    // lines of the frame being built
	payload   []byte    // the same, compressed
	items     []item
}

// submit hands o to the writer and waits for its answer.
func (q *Queue) submit(ctx context.Context, o op) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case <-q.closing:
		return ErrClosed
	default:
	}
	select {
	case q.ops <- o:
	case <-q.closing:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-o.answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-q.done:
	}
	select {
	case err := <-o.answer:
		return err
	default:
		return ErrClosed
	}
}

// ask runs do in the writer goroutine.
func (q *Queue) ask(ctx context.Context, do func() error) error {
	return q.submit(ctx, op{do: do, answer: make(chan error, 1)})
}

// run is the writer goroutine.
func (q *Queue) run() {
	defer close(q.done)
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	linger := time.NewTimer(0)
	linger.Stop()
	defer linger.Stop()
	for {
		select {
		case o := <-q.ops:
			first := len(q.group) == 0
			if due := q.take(o) || q.gather(); due {
				linger.Stop()
				q.commitGroup()
			} else if first && len(q.group) > 0 {
				linger.Reset(q.linger())
			}
		case <-linger.C:
			q.commitGroup()
		case <-tick.C:
			q.maintain()
		case <-q.closing:
			q.finish()
			return
		}
		q.o.Beat()
	}
}

// linger is how long the first reading of a group waits for others.
func (q *Queue) linger() time.Duration {
	if q.hurried.Load() {
		return 0
	}
	return q.o.Linger
}

// take accepts one request, and reports whether the group has to be committed
// without further waiting.
func (q *Queue) take(o op) bool {
	if o.do != nil {
		o.answer <- q.attempt(true, o.do)
		return false
	}
	q.group = append(q.group, o)
	q.grouped += len(o.add)
	return o.high || q.grouped >= max(q.o.BatchSize, 100) || q.grouped >= maxGroup
}

// gather takes what already waits, and reports whether the group is due.
func (q *Queue) gather() bool {
	if len(q.group) == 0 {
		return false
	}
	// Callers that the last commit woke are about to come back; one turn of the
	// scheduler lets them share this commit instead of the next.
	if q.linger() == 0 {
		runtime.Gosched()
	}
	for q.grouped < maxGroup {
		select {
		case o := <-q.ops:
			if q.take(o) && q.linger() > 0 {
				return true
			}
		default:
			return q.linger() == 0
		}
	}
	return true
}

// commitGroup commits the readings gathered and answers their callers.
func (q *Queue) commitGroup() {
	if len(q.group) == 0 {
		return
	}
	err := q.enqueue()
	for i := range q.group {
		q.group[i].answer <- err
	}
	clear(q.group)
	q.group, q.grouped = q.group[:0], 0
	if err == nil {
		q.evict()
	}
}

// enqueue commits the readings of the group unless the disk is known to be full.
func (q *Queue) enqueue() error {
	if !q.mayTry() {
		return ErrFull
	}
	err := q.attempt(false, func() error { return q.add(q.group) })
	if err == nil {
		q.setFull(false)
	}
	return err
}

// maintain does what time, and not a caller, asks for.
func (q *Queue) maintain() {
	if q.isFull() && q.mayTry() && q.files.free() >= ballastBytes {
		q.setFull(false)
	}
	q.evict()
	if q.empty() && q.store.large() {
		if err := q.store.shrink(true); err != nil {
			q.o.Log.Warn().Err(err).Msg("queue file not shrunk")
		}
	}
	if q.announceDue() && q.mayTry() {
		// attempt notes what goes wrong; the next tick tries again.
		_ = q.attempt(false, func() error { return q.add(nil) })
	}
	if q.faulty() || q.countersDue() {
		_ = q.attempt(true, q.saveCounters)
	}
}

// finish serves what is still waiting and closes the file.
func (q *Queue) finish() {
	for waiting := true; waiting; {
		select {
		case o := <-q.ops:
			q.take(o)
		default:
			waiting = false
		}
	}
	q.commitGroup()
	err := q.attempt(true, q.saveCounters)
	q.storeMu.Lock()
	err = errors.Join(err, q.store.close())
	q.storeMu.Unlock()
	q.closeErr = errors.Join(err, q.lock.Unlock())
}

// attempt runs do, which changes the file, and deals with what is wrong with
// the file or the disk; with ballast, a full disk gives up its reserve for it.
// do must be safe to run again after it failed.
func (q *Queue) attempt(ballast bool, do func() error) error {
	err := q.ready()
	if err == nil {
		err = do()
	}
	if !q.broken && damaged(err) {
		q.o.Log.Error().Err(err).Msg("queue file found damaged")
		err = q.recover()
		q.broken = err != nil
		if err == nil {
			err = do()
		}
	}
	if diskFull(err) {
		q.retryAt = time.Now().Add(retryFull)
		q.setFull(true)
		if ballast && !q.broken && q.files.deflate() {
			err = do()
		}
		if diskFull(err) {
			return errors.Join(ErrFull, err)
		}
	}
	q.setFault(err)
	return err
}

// ready opens the file again when a recovery had failed.
func (q *Queue) ready() error {
	if !q.broken {
		return nil
	}
	err := q.openFile()
	q.broken = err != nil
	return err
}

// mayTry reports whether readings can be accepted, as far as is known. After
// the disk was full the ballast has to be back first: the space is for acks.
// What the file itself does not need any more goes to it.
func (q *Queue) mayTry() bool {
	if !q.isFull() {
		return true
	}
	if time.Now().Before(q.retryAt) {
		return false
	}
	q.retryAt = time.Now().Add(retryFull)
	if err := q.store.shrink(q.empty()); err != nil {
		q.o.Log.Debug().Err(err).Msg("queue file not shrunk")
	}
	return q.files.inflate() == nil
}

func (q *Queue) announceDue() bool {
	return len(q.losses) > 0 && (q.announced.IsZero() || time.Since(q.announced) >= announceEvery)
}

// signal tells the uplink that something waits.
func (q *Queue) signal() {
	select {
	case q.pending <- struct{}{}:
	default:
	}
}
