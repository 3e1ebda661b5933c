package update

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"time"

	"github.com/pyvorin/pyvorin-edge/internal/atomicfile"
	"github.com/pyvorin/pyvorin-edge/internal/clock"
	"github.com/pyvorin/pyvorin-edge/internal/human"
	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/ota/window"
)

const (
	retryMin = time.Minute
	retryMax = time.Hour

	// clockPatience is how long after a boot the windows wait for a clock that is
	// set. A device that never gets one must be updated all the same.
	clockPatience = time.Hour
)

// turn does what there is to do now. The request is looked for first: the watchdog
// removes it only after it has written what came of it.
func (u *Updater) turn(ctx context.Context) {
	request := u.request()
	for component, l := range u.looks {
		if l.refresh() && component == ota.AgentComponent {
			h := ota.Health(l.layout, u.o.Version)
			u.status.Store(&h)
		}
	}
	u.report(ctx)
	notes := make([]string, 0, 1) // what each want waits for
	if wants := u.wants().Wants; !u.o.Disabled && len(wants) > 0 {
		hold := u.o.Hold()
		busy := ""
		for _, w := range wants {
			d := u.step(ctx, w, request, busy, hold)
			notes = append(notes, d.why)
			switch {
			case w.Request != "":
				busy = "another update that was asked for"
			case d.verb == askNow || d.verb == fetchNow:
				busy = "another update"
			}
		}
	}
	if u.job != nil && u.wants().find(u.job.nonce) == nil {
		u.job.stop("it is not wanted any more")
	}
	u.clean(request)
	u.publish(notes)
	if u.fault == "" {
		u.logged = ""
	}
	u.fault = ""
}

// step decides what to do with a want, and does it.
func (u *Updater) step(ctx context.Context, w *want, request ota.Request, busy, hold string) decision {
	o, known := u.orders[w.Nonce]
	var rejected string
	if !known {
		var err error
		o, err = u.verify(w.Envelope, u.now())
		switch {
		case errors.Is(err, errNoAnchor):
			return wait("%v", err)
		case err != nil:
			rejected = err.Error()
		default:
			u.orders[w.Nonce] = o
		}
	}
	l, st := u.looks[w.Component], u.o.Clock.State()
	v := view{
		now: u.now(), rejected: rejected, state: l.state, stateErr: l.stateErr, outcome: l.outcome(w.Request),
		request: request.ID, busy: busy, hold: hold,
		download: u.closed(u.o.Download, "download", st), install: u.closed(u.o.Install, "install", st),
	}
	if at, failed := u.retries[w.Nonce]; failed {
		v.retryIn = time.Until(at)
	}
	if v.ready = w.Bundle != "" && isFile(u.inbox(w.Bundle)); v.ready {
		v.free = u.freeAt(l.layout.Base)
	}
	d := decide(w, o, v)
	if u.job != nil && u.job.nonce == w.Nonce && d.verb != fetchNow {
		u.job.stop(d.why)
	}
	if err := u.do(ctx, w, o, l, d); err != nil {
		u.fail(err)
	}
	return d
}

// fail makes a fault of our own files known.
func (u *Updater) fail(err error) {
	u.fault = err.Error()
	if u.fault != u.logged {
		u.logged = u.fault
		u.log.Error().Err(err).Msg("updates do not go on")
	}
}

// do carries a decision out.
func (u *Updater) do(ctx context.Context, w *want, o order, l *look, d decision) error {
	switch d.verb {
	case fetchNow:
		if u.job == nil {
			u.startJob(ctx, w, o, l)
		}
		return nil
	case waitFor:
		return nil
	case askNow:
		return u.ask(w, l)
	case lost:
		if u.unasked == w.Nonce { // it was never written
			return u.writeRequest(w, w.Request)
		}
	case withdraw:
		if err := os.Remove(u.o.Layout.Request()); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("withdraw the request: %w", err)
		}
		if err := atomicfile.SyncDir(u.o.Layout.Inbox()); err != nil {
			return fmt.Errorf("withdraw the request: %w", err)
		}
	}
	defer u.wake()
	err := u.changeWant(w.Nonce, func(dd *desired, w *want) {
		switch d.verb {
		case lost:
			w.Request, w.Error = "", d.why
			w.Asks++
		case amend:
			refusal := l.outcome(w.Request)
			w.mend(*refusal)
		case endWant:
			dd.end(w)
		case settle, withdraw:
			dd.settle(w, u.outcomeOf(w, d.result, d.why, u.now()))
		}
	})
	if err != nil {
		return err
	}
	switch d.verb {
	case amend:
		u.log.Warn().Str("nonce", w.Nonce).Str("reason", l.outcome(w.Request).Reason).Msg("watchdog refused, asked again soon")
		if now := u.wants().find(w.Nonce); now != nil && now.Failures > w.Failures {
			u.delay(now)
		}
	case endWant, settle, withdraw:
		u.log.Info().Str("nonce", w.Nonce).Str("outcome", string(d.result)).Str("reason", d.why).Msg("want ended")
		delete(u.orders, w.Nonce)
		delete(u.retries, w.Nonce)
		u.cleanAt = time.Time{}
	}
	return nil
}

// mend does what a refusal asks for before the watchdog is asked again.
func (w *want) mend(refusal ota.Outcome) {
	w.Request, w.Error = "", refusal.Reason
	w.Asks++
	switch refusal.Remedy {
	case ota.BringFull:
		w.Full, w.Bundle = true, ""
	case ota.BringAgain:
		w.Bundle = ""
		w.Failures++
	default:
		w.Failures++
	}
}

// ask writes down that the watchdog is asked, and asks it.
func (u *Updater) ask(w *want, l *look) error {
	id := newID()
	err := u.changeWant(w.Nonce, func(_ *desired, w *want) { w.Request = id })
	if err != nil {
		return err
	}
	u.log.Info().Str("nonce", w.Nonce).Str("version", w.To).Str("action", string(w.Action)).Msg("watchdog asked")
	return u.writeRequest(w, id)
}

func (u *Updater) writeRequest(w *want, id string) error {
	r := ota.Request{
		ID: id, At: u.o.Clock.Now().UTC(), Action: w.Action, Command: w.Envelope,
		MinHealthySeconds: u.o.MinHealthy.Seconds(), DeadlineSeconds: u.o.Deadline.Seconds(),
	}
	if w.Component != ota.AgentComponent {
		r.Component = w.Component
	}
	if w.Action == ota.Install {
		r.Bundle = w.Bundle
	} else {
		r.TargetVersion = w.To
	}
	u.unasked = w.Nonce
	if err := ota.WriteRequest(u.o.Layout, r); err != nil {
		return err
	}
	u.unasked = ""
	u.wake() // to tell what is waited for
	return nil
}

// delay has a want not tried again for a while: half to all of a bound that
// doubles with each failure.
func (u *Updater) delay(w *want) {
	bound := min(retryMax, retryMin<<min(w.Failures-1, 10))
	u.retries[w.Nonce] = time.Now().Add(bound/2 + rand.N(bound/2))
}

// closed says what has to be waited for until the window opens; "" while it is
// open.
func (u *Updater) closed(w window.Window, what string, st clock.State) string {
	now := u.o.Clock.Now()
	if w.Always() {
		return ""
	}
	if !st.Set {
		up := time.Duration(now.UnixNano()) - st.Offset
		if up >= clockPatience {
			return ""
		}
		return fmt.Sprintf("the clock to be set, for another %s; then the %s window is ignored", human.Duration(clockPatience-up), what)
	}
	if w.Open(now) {
		return ""
	}
	return fmt.Sprintf("the %s window, which opens at %s", what, w.Next(now).Format("2006-01-02 15:04 MST"))
}

// freeAt is what installing may use of the disk that dir is on. Where that is not
// known, the watchdog finds out.
func (u *Updater) freeAt(dir string) int64 {
	free, err := u.o.Free(dir)
	if err != nil {
		return math.MaxInt64
	}
	return free - u.o.Reserve
}

func isFile(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode().IsRegular()
}
