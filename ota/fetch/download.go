package fetch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/cenkalti/backoff/v5"

	"github.com/pyvorin/pyvorin-edge/ota/bundle"
)

const (
	// headBytes are asked for first; most manifests fit, and what follows them
	// is used too.
	headBytes = 16 << 10

	// maxFailures in a row without progressBytes in between end a job, and so do
	// maxBad copies of a part that are not what was signed.
	maxFailures   = 6
	progressBytes = 4 << 10
	maxBad        = 3

	// maxDoubts is how often the server may seem to have another bundle.
	maxDoubts = 3

	syncBytes = 8 << 20 // written without a sync at most
)

// How an error is to be taken, whatever else it is.
var (
	// errDoubt: what the server has may not be what it had. Its manifest tells.
	errDoubt = errors.New("in doubt")
	// errOurs: it is not the source's fault, so the source is not asked again.
	errOurs = errors.New("not of the source")
)

// marked is an error that is also mark, without saying so to people.
type marked struct {
	error
	mark error
}

func (m marked) Unwrap() []error { return []error{m.error, m.mark} }

// doubtful marks err.
func doubtful(err error) error { return marked{err, errDoubt} }

// ours marks err, if it is one.
func ours(err error) error {
	if err == nil {
		return nil
	}
	return marked{err, errOurs}
}

// download is a job under way.
type download struct {
	f     *Fetcher
	j     Job
	feed  feed
	waits *backoff.ExponentialBackOff

	file  *os.File // NAME.part
	piece *os.File // NAME.piece

	v        bundle.Verified
	have     []bool // parts that are in file
	bad      []int  // how often a part was not what was signed
	buf      []byte // of a part
	done     int64  // bytes of the bundle that are in file
	unsynced int64  // bytes written to file since its last sync

	received int64 // bytes that brought the job further
	failures int   // in a row, without getting further
}

// run fetches what is missing. When the server may have another bundle than
// before, it looks at the manifest there, and begins anew if that is so.
func (d *download) run(ctx context.Context) error {
	for doubts := 0; ; doubts++ {
		err := d.fetch(ctx)
		if !errors.Is(err, errDoubt) || d.v.IsZero() || doubts == maxDoubts {
			return err
		}
		same, lookErr := d.sameThere(ctx)
		switch {
		case lookErr != nil:
			return lookErr
		case !same:
			d.f.log.Warn().Msg("the server has another bundle now, begun anew")
			if err := d.discard(); err != nil {
				return err
			}
		case !errors.Is(err, errChanged):
			return err
		}
	}
}

// fetch goes on from what the files hold.
func (d *download) fetch(ctx context.Context) error {
	if err := d.resume(ctx); err != nil {
		return err
	}
	if d.v.IsZero() {
		if err := d.insist(ctx, func() error { return d.fetchHead(ctx) }); err != nil {
			return err
		}
	}
	if err := d.admit(d.v); err != nil {
		return err
	}
	if err := d.checkSpace(true); err != nil {
		return err
	}
	if err := d.begin(); err != nil {
		return err
	}
	for round := 0; ; round++ {
		for i := range d.have {
			if d.have[i] {
				continue
			}
			if err := d.insist(ctx, func() error { return d.fetchPart(ctx, i) }); err != nil {
				return err
			}
		}
		err := d.finish(ctx)
		if !errors.Is(err, bundle.ErrDamaged) || round == 1 {
			return err
		}
		d.f.log.Warn().Err(err).Msg("what was written reads back differently, fetched again")
		if err := d.scan(ctx); err != nil {
			return err
		}
	}
}

// insist calls do until it succeeds, as long as more tries may help.
func (d *download) insist(ctx context.Context, do func() error) error {
	for {
		before := d.received
		err := do()
		if err == nil {
			return nil
		}
		d.feed.close()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !passing(err) {
			return err
		}
		if d.received-before >= progressBytes {
			d.failures = 0
			d.waits.Reset()
		}
		if d.failures++; d.failures >= maxFailures {
			return fmt.Errorf("%d times in a row: %w", maxFailures, err)
		}
		wait := d.waits.NextBackOff()
		var busy *busyError
		if errors.As(err, &busy) {
			wait += busy.after
		}
		d.f.log.Debug().Err(err).Dur("wait_ms", wait).Msg("fetching broke off")
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// passing reports whether an error may go away by itself, soon.
func passing(err error) bool {
	for _, lasting := range []error{
		ErrNotFound, ErrRefused, ErrOther, errDoubt, bundle.ErrMalformed, bundle.ErrDamaged, syscall.ENOSPC, errOurs,
	} {
		if errors.Is(err, lasting) {
			return false
		}
	}
	return true
}

// admit asks the caller.
func (d *download) admit(v bundle.Verified) error {
	if d.j.Admit == nil {
		return nil
	}
	return d.j.Admit(v)
}

// progress tells the caller, with what the piece adds.
func (d *download) progress(piece int64) {
	if d.j.Progress != nil {
		d.j.Progress(d.done+piece, d.v.Size())
	}
}

// sameThere reports whether the source still begins with the manifest of what is
// being fetched. The error says why what it has instead is not fetched.
func (d *download) sameThere(ctx context.Context) (same bool, err error) {
	var envelope []byte
	err = d.insist(ctx, func() error {
		d.feed.close()
		d.feed.src.forget()
		r := &feedReader{d: d, ctx: ctx}
		var err error
		if envelope, err = bundle.ReadEnvelope(r); r.err != nil {
			return r.err
		}
		return ours(err)
	})
	d.feed.close()
	if err != nil {
		return false, err
	}
	if string(envelope) == string(d.v.Envelope()) {
		return true, nil
	}
	v, err := bundle.Verify(envelope, d.j.Anchor, d.j.Now)
	if err == nil {
		err = d.admit(v)
	}
	return false, err
}

// feedReader reads the source from its beginning, and keeps nothing.
type feedReader struct {
	d   *download
	ctx context.Context
	at  int64
	err error
}

func (r *feedReader) Read(p []byte) (int, error) {
	n, err := r.d.feed.read(r.ctx, p, r.at, max(headBytes, r.at+int64(len(p))))
	r.at += int64(n)
	r.d.received += int64(n)
	if err != nil {
		r.err = err
	}
	return n, err
}
