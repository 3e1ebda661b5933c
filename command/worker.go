package command

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pyvorin/pyvorin-edge/wire"
)

// maxRuns is how often an order is begun in all: one that kills the agent must
// not do so for ever.
const maxRuns = 3

// work takes up what was interrupted, then one message after the other until
// ctx ends, and waits for the handlers.
func (l *Listener) work(ctx context.Context) {
	resumed := l.resume(ctx)
	retry := time.NewTicker(reopenPause)
	defer retry.Stop()
	for ctx.Err() == nil {
		if m, ok := l.inbox.take(); ok {
			if !resumed { // what is begun now would look interrupted later
				l.unrecorded(errors.New("it is not known yet what was interrupted"), m)
				continue
			}
			l.handle(ctx, m)
			continue
		}
		select {
		case <-ctx.Done():
		case <-l.inbox.wake:
		case <-retry.C:
			if !resumed {
				resumed = l.resume(ctx)
			}
			l.settle()
		}
	}
	ended := make(chan struct{})
	go func() {
		l.running.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(l.timing.grace):
		l.log.Error().Msg("handler left behind")
	}
	l.settle()
}

// handle obeys a message, or refuses it.
func (l *Listener) handle(ctx context.Context, msg message) {
	m := l.ledger.moment()
	o, rec, no := l.rules.judge(msg, m)
	if no != nil && !no.tell {
		l.refusals.add(no, msg.topic)
		return
	}
	// From here on it is known who signed it.
	known, told, err := l.ledger.look(rec, m)
	if err != nil {
		l.unrecorded(err, msg)
		return
	}
	if known != nil {
		no = known
	}
	e := l.entries[rec.name]
	switch {
	case no != nil:
	case e == nil || (rec.name == ConfigName) != (o.Config != nil):
		no = &refusal{reason: ReasonUnknown, err: fmt.Errorf("this version has no command %.64q", rec.name), tell: true}
	case e.busy.Load():
		no = &refusal{reason: ReasonBusy, err: fmt.Errorf("the %s before it has not ended", rec.name), tell: true}
	}
	if no != nil {
		l.refusals.add(no, msg.topic)
		if no.tell && !told {
			if err := l.ledger.refused(rec, l.report(o, wire.OutcomeRefused, string(no.reason)+": "+no.err.Error(), nil), m); err != nil {
				l.log.Error().Err(err).Msg("refusal not recorded")
			}
		}
		return
	}
	if err := l.ledger.begin(rec, m); err != nil {
		l.unrecorded(err, msg)
		return
	}
	l.log.Info().Str("command", rec.name).Str("nonce", o.Nonce).Str("version", o.Version).Bool("signed", o.Signed).Msg("command accepted")
	l.run(ctx, e, o, rec.key)
}

// unrecorded refuses what cannot be recorded. What is retained comes again.
func (l *Listener) unrecorded(err error, msg message) {
	l.refusals.add(refuse(ReasonLedger, err), msg.topic)
	if msg.retained {
		l.rehear()
	}
}

// resume takes up what was begun and did not end. It returns false when the
// ledger cannot be read.
func (l *Listener) resume(ctx context.Context) bool {
	pending, err := l.ledger.pending()
	if err != nil {
		l.log.Error().Err(err).Msg("interrupted commands cannot be read")
		return false
	}
	for _, p := range pending {
		if ctx.Err() != nil {
			return true
		}
		l.resumeOne(ctx, p)
	}
	return true
}

func (l *Listener) resumeOne(ctx context.Context, p interrupted) {
	o, err := l.rules.reopen(p.record)
	if err != nil {
		o.Command = wire.Command{Command: p.name}
		if p.name != ConfigName {
			o.Nonce = p.key
		}
	}
	o.Again = true
	e := l.entries[p.name]
	var why string
	switch {
	case err != nil:
		why = "interrupted, and what was kept of it cannot be read: " + err.Error()
	case e == nil:
		why = "interrupted, and this version has no such command"
	case !e.Idempotent:
		why = "interrupted: the agent stopped before it ended, and it may have been done, in part or not at all"
	case e.busy.Load():
		why = "interrupted, and another one is under way"
	case p.runs >= maxRuns:
		why = fmt.Sprintf("interrupted %d times: the agent stopped each time before it ended", p.runs)
	}
	if why == "" {
		if err := l.ledger.rerun(p.key); err != nil {
			l.log.Error().Err(err).Msg("interrupted command not taken up")
			return
		}
		l.log.Info().Str("command", p.name).Str("nonce", o.Nonce).Msg("interrupted command taken up")
		l.run(ctx, e, o, p.key)
		return
	}
	l.finish(p.key, o, stateFailed, why, nil)
}

// result is what a handler returned.
type result struct {
	detail map[string]any
	err    error
}

// run calls the handler, and waits for it unless it is a background one.
func (l *Listener) run(ctx context.Context, e *entry, o Order, key string) {
	if e.Background && !o.Again {
		if err := l.ledger.Report(l.report(o, wire.OutcomeAccepted, "", nil)); err != nil {
			l.log.Error().Err(err).Msg("report not kept")
		}
	}
	limited, cancel := context.WithTimeout(ctx, e.Timeout)
	results := make(chan result, 1)
	e.busy.Store(true)
	l.running.Go(func() {
		defer e.busy.Store(false)
		results <- call(limited, e.Handler, o)
	})
	wait := func() {
		defer cancel()
		l.conclude(ctx, limited, e, o, key, results)
	}
	if e.Background {
		l.running.Go(wait)
		return
	}
	wait()
}

// call calls the handler. A panic is its own, not the agent's.
func call(ctx context.Context, h Handler, o Order) (r result) {
	defer func() {
		if p := recover(); p != nil {
			r = result{err: fmt.Errorf("internal error: the handler of %s panicked: %v", o.Command.Command, p)}
		}
	}()
	detail, err := h.Handle(ctx, o)
	return result{detail, err}
}

// conclude waits for the handler and records what came of it.
func (l *Listener) conclude(ctx, limited context.Context, e *entry, o Order, key string, results <-chan result) {
	var r result
	select {
	case r = <-results:
	case <-limited.Done():
		select {
		case r = <-results:
		case <-time.After(l.timing.grace):
			r.err = errors.New("it did not end in time and goes on unwatched")
		}
	}
	switch {
	case r.err != nil && ctx.Err() != nil:
		return // the agent stops: taken up at the next start
	case r.err != nil && limited.Err() != nil:
		r.err = fmt.Errorf("not done within %v: %w", e.Timeout, r.err)
	}
	switch {
	case r.err != nil:
		l.finish(key, o, stateFailed, r.err.Error(), r.detail)
	case e.Begins:
		l.finish(key, o, stateAccepted, "", r.detail)
	default:
		l.finish(key, o, stateDone, "", r.detail)
	}
}

// outcome is how an order ended.
type outcome struct {
	key    string
	state  state
	report wire.Report
}

// finish records an outcome.
func (l *Listener) finish(key string, o Order, s state, reason string, detail map[string]any) {
	event := l.log.Info()
	if s == stateFailed {
		event = l.log.Error().Str("reason", reason)
	}
	event.Str("command", o.Command.Command).Str("nonce", o.Nonce).Str("outcome", string(s)).Msg("command ended")
	l.owedMu.Lock()
	l.owed = append(l.owed, outcome{key, s, l.report(o, string(s), reason, detail)})
	l.owedMu.Unlock()
	l.settle()
}

// settle records the outcomes that are not recorded yet. While the ledger cannot
// be written nothing is begun, so there are never many. After a restart such an
// order counts as interrupted.
func (l *Listener) settle() {
	l.owedMu.Lock()
	defer l.owedMu.Unlock()
	for len(l.owed) > 0 {
		if err := l.ledger.finish(l.owed[0].key, l.owed[0].state, l.owed[0].report); err != nil {
			l.log.Error().Err(err).Msg("outcome not recorded")
			return
		}
		l.owed = l.owed[1:]
	}
}

// report says what came of an order.
func (l *Listener) report(o Order, outcome, reason string, detail map[string]any) wire.Report {
	r := wire.Report{Kind: wire.ReportCommand, Nonce: o.Nonce, Outcome: outcome, Reason: reason, Detail: detail}
	switch {
	case o.Config != nil:
		r.Kind = wire.ReportConfig
		r.Detail = with(detail, map[string]any{"version": o.Config.Version, "checksum_sha256": o.Config.ChecksumSHA256})
	case o.Command.Command == wire.CommandReport && outcome == wire.OutcomeDone:
		r.Kind = wire.ReportHealth
	default:
		r.Detail = with(detail, map[string]any{"command": o.Command.Command})
	}
	return r
}

// with returns detail with more added where it does not say otherwise.
func with(detail, more map[string]any) map[string]any {
	for k, v := range detail {
		more[k] = v
	}
	return more
}
