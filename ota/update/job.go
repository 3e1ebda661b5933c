package update

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/ota/fetch"
	"github.com/pyvorin/pyvorin-edge/trust"
)

// job is a bundle that is being fetched.
type job struct {
	nonce  string
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when the fields below are set

	name string // of the file in the inbox
	room int64
	err  error

	downloaded, total atomic.Int64
}

// errStopped: it is no longer time for this. What was fetched stays.
var errStopped = errors.New("fetching was stopped")

func (j *job) stop(why string) { j.cancel(fmt.Errorf("%w: %s", errStopped, why)) }

// startJob begins to fetch the bundle of a want.
func (u *Updater) startJob(ctx context.Context, w *want, o order, l *look) {
	ctx, cancel := context.WithCancelCause(ctx)
	j := &job{nonce: w.Nonce, cancel: cancel, done: make(chan struct{})}
	u.job = j
	source := bundleSource{o: o, state: *l.state, layout: l.layout, full: w.Full || !u.o.Delta, now: u.now()}
	go func() {
		defer close(j.done)
		j.name, j.room, j.err = u.bring(ctx, source, func(done, total int64) {
			j.downloaded.Store(done)
			j.total.Store(total)
		})
	}()
}

// finished yields when the job has ended; never while there is none.
func (u *Updater) finished() <-chan struct{} {
	if u.job == nil {
		return nil
	}
	return u.job.done
}

// stopJob ends the job and waits until it has.
func (u *Updater) stopJob(why error) {
	if u.job != nil {
		u.job.cancel(why)
		<-u.job.done
		u.job.cancel(nil)
		u.job = nil
	}
}

// endJob writes down what came of the job, which has ended.
func (u *Updater) endJob() {
	j := u.job
	j.cancel(nil)
	u.job = nil
	kind := kindOf(j.err)
	if kind == stopped {
		return
	}
	err := u.changeWant(j.nonce, func(d *desired, w *want) {
		if j.err == nil {
			w.Bundle, w.Room, w.Failures, w.Faults, w.Error = j.name, j.room, 0, 0, ""
			return
		}
		w.Error = j.err.Error()
		w.Failures++
		if kind == faulty {
			w.Faults++
		}
		switch {
		case errors.Is(j.err, errRuns):
			d.settle(w, u.outcomeOf(w, ota.Installed, "it runs already", u.now()))
		case kind == final || w.Faults >= maxFaults:
			d.settle(w, u.outcomeOf(w, ota.Refused, w.Error, u.now()))
		}
	})
	if err != nil {
		u.fail(err)
		u.retries[j.nonce] = time.Now().Add(retryMin)
		return
	}
	switch w := u.wants().find(j.nonce); {
	case j.err == nil:
		u.log.Info().Str("nonce", j.nonce).Str("file", j.name).Msg("bundle fetched")
	case w == nil:
		u.log.Error().Err(j.err).Str("nonce", j.nonce).Msg("bundle not fetched")
		delete(u.orders, j.nonce)
		u.cleanAt = time.Time{}
	default:
		u.log.Warn().Err(j.err).Str("nonce", j.nonce).Int("failures", w.Failures).Msg("bundle not fetched, tried again later")
		u.delay(w)
	}
}

// kind says what an error of fetching means for a want.
type kind int

const (
	passing kind = iota // it may be over soon: the network, the disk
	faulty              // what is offered is no good, which someone may mend
	final               // it will never be installed by this command
	stopped
)

func kindOf(err error) kind {
	is := func(targets ...error) bool {
		for _, t := range targets {
			if errors.Is(err, t) {
				return true
			}
		}
		return false
	}
	switch {
	case is(errStopped, context.Canceled):
		return stopped
	case is(syscall.ENOSPC, errNoAnchor):
		return passing
	case is(errRuns, errUnwanted, fetch.ErrOther, bundle.ErrWrongTarget, bundle.ErrWrongBase,
		trust.ErrNotSigned, trust.ErrThreshold, trust.ErrExpired, trust.ErrWrongType):
		return final
	case is(fetch.ErrNotFound, fetch.ErrRefused, bundle.ErrMalformed, bundle.ErrDamaged, trust.ErrMalformed):
		return faulty
	}
	return passing
}

var (
	errRuns     = errors.New("the release runs already")
	errUnwanted = errors.New("not what the command orders")
)

// bundleSource is where the bundle of a want is to be had.
type bundleSource struct {
	o      order
	state  ota.State
	layout ota.Layout
	full   bool // no delta
	now    time.Time
}

// bring fetches the delta for a release that is on this device, if there is one
// that is any good, and else the full bundle.
func (u *Updater) bring(ctx context.Context, s bundleSource, progress func(done, total int64)) (name string, room int64, err error) {
	anchor, err := u.anchor()
	if err != nil {
		return "", 0, err
	}
	j := fetch.Job{Anchor: anchor, Now: s.now, Progress: progress}
	if sameDisk(u.o.Layout.Inbox(), s.layout.Base) {
		j.Room = fetch.StagingRoom
	}
	for _, base := range s.bases() {
		j.Source, j.Name = deltaPlace(s.o.URL, base), deltaFile(s.o.SHA256, base)
		j.Admit = func(v bundle.Verified) error {
			if p := v.Manifest().Payload; p.Kind != bundle.Delta || p.BaseSHA256 != base {
				return bundle.ErrWrongBase
			}
			return u.admit(s, v)
		}
		v, err := u.o.Fetch.Fetch(ctx, j)
		if err == nil {
			return j.Name, fetch.StagingRoom(v), nil
		}
		if k := kindOf(err); k == passing || k == stopped || errors.Is(err, errRuns) {
			return "", 0, err
		}
		u.log.Debug().Err(err).Msg("no delta")
	}
	j.Source, j.Name, j.SHA256 = s.o.URL, fullFile(s.o.SHA256), s.o.SHA256
	j.Admit = func(v bundle.Verified) error { return u.admit(s, v) }
	v, err := u.o.Fetch.Fetch(ctx, j)
	if err != nil {
		return "", 0, err
	}
	return j.Name, fetch.StagingRoom(v), nil
}

// bases are the releases that a delta may be made against.
func (s bundleSource) bases() (digests []string) {
	if s.full {
		return nil
	}
	for _, r := range []*ota.Release{&s.state.Active, s.state.Previous} {
		if r != nil && !r.Seed && r.Digest != "" && (len(digests) == 0 || digests[0] != r.Digest) {
			digests = append(digests, r.Digest)
		}
	}
	return digests
}

// admit says whether the watchdog can be expected to install a bundle.
func (u *Updater) admit(s bundleSource, v bundle.Verified) error {
	m, o := v.Manifest(), s.o
	if m.Name != o.component {
		return fmt.Errorf("%w: it holds %s, not %s", errUnwanted, m.Name, o.component)
	}
	if m.Version != o.Version || o.Counter != 0 && m.Counter != o.Counter {
		return fmt.Errorf("%w: that is version %s (counter %d), and the bundle holds %s (%d)", errUnwanted, o.Version, o.Counter, m.Version, m.Counter)
	}
	if err := m.CheckTarget(u.o.Target); err != nil {
		return err
	}
	if err := m.CheckExpiry(s.now); err != nil {
		return err
	}
	if m.Digest() == s.state.Active.Digest {
		return errRuns
	}
	// What was committed last may come back after a repair or a rescue.
	again := m.Counter == s.state.Floor && m.Digest() == s.state.FloorDigest
	if m.Counter <= s.state.Floor && !again && !(o.AllowDowngrade && o.release) {
		return fmt.Errorf("%w: version %s has counter %d, and %d was committed; an older release needs a command with allow_downgrade that a release key signed too",
			errUnwanted, m.Version, m.Counter, s.state.Floor)
	}
	if need, free := fetch.StagingRoom(v), u.freeAt(s.layout.Base); free < need {
		return fmt.Errorf("%w: installing it takes %d bytes of %s, and %d are free", syscall.ENOSPC, need, s.layout.Base, max(0, free))
	}
	return nil
}

// deltaPlace is where the delta of the bundle at place lies.
func deltaPlace(place, base string) string {
	u, err := url.Parse(place)
	if err != nil || filepath.IsAbs(place) {
		return bundle.DeltaName(place, base)
	}
	if u.RawPath != "" {
		u.RawPath = bundle.DeltaName(u.RawPath, base)
	}
	u.Path = bundle.DeltaName(u.Path, base)
	return u.String()
}

// The names of files in the inbox begin with the bundle that they belong to, so
// that another process knows them again.
func fullFile(sha256 string) string { return sha256[:32] + ".bundle" }
func deltaFile(sha256, base string) string {
	return fmt.Sprintf("%s-%.16s.delta", sha256[:32], base)
}

// sameDisk reports whether both are on one file system, as far as that is known.
func sameDisk(a, b string) bool {
	var x, y unix.Stat_t
	return unix.Stat(a, &x) != nil || unix.Stat(b, &y) != nil || x.Dev == y.Dev
}
