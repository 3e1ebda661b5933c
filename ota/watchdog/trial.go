package watchdog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pyvorin/pyvorin-edge/ota"
)

const (
	// restartPatience bounds how long the service manager may take for a
	// restart. It is longer than systemd's usual time to stop a unit and its
	// usual time to start one together.
	restartPatience = 4 * time.Minute
	restartTries    = 6 // with pauses from Options.Poll on, each twice the one before

	// statusPatience bounds how long it may take to tell how the service is, and
	// longestGap what may pass between two looks at it.
	statusPatience = 10 * time.Second
	longestGap     = 2 * time.Minute

	// baselineTries is how often what runs is asked how it is.
	baselineTries = 3
	// baselinePatience is how long what runs is given, after an interruption, to
	// become what it was before it.
	baselinePatience = 3 * time.Minute

	// maxRestartsKept bounds Attempt.Restarts.
	maxRestartsKept = 2 * crashes
)

// beginTrial turns a staged release into one on trial, and judges it.
// Interrupted says that since the update was asked for the machine, or the
// watchdog, was started anew.
func (w *Watchdog) beginTrial(ctx context.Context, interrupted bool) error {
	baseline := w.baseline(ctx)
	if interrupted {
		baseline = w.recovered(ctx, baseline)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	err := w.change(func(s *ota.State) error {
		a := s.Attempt
		if a.BootID != w.o.BootID {
			a.AskedAt = 0
		}
		a.BootID, a.Boots, a.BeganAt = w.o.BootID, 1, w.o.Uptime().Seconds()
		a.Baseline = baseline
		return s.To(ota.Trial)
	})
	if err != nil {
		return err
	}
	w.log.Info().Str("version", w.state.Attempt.Candidate.Version).Msg("trial began")
	return w.judge(ctx)
}

// baseline asks how the component is now; nil when it does not answer.
func (w *Watchdog) baseline(ctx context.Context) *ota.Baseline {
	for try := range baselineTries {
		if try > 0 && !pause(ctx, w.o.Poll) {
			return nil
		}
		l := w.look(ctx)
		if l.statusErr == nil && l.reportErr == nil {
			return l.report.Baseline()
		}
		if l.statusErr == nil && !l.status.Running {
			return nil
		}
	}
	return nil
}

// recovered waits until the component, which was just started, is as it was
// when the update was asked for: what is not yet good again would not count. But
// it need not become so, since a link may be down for good.
func (w *Watchdog) recovered(ctx context.Context, baseline *ota.Baseline) *ota.Baseline {
	before := w.state.Attempt.Baseline
	if before == nil {
		return baseline
	}
	for began := w.o.Uptime(); !covers(baseline, before) && w.o.Uptime()-began < baselinePatience; {
		if !pause(ctx, w.o.Poll) {
			break
		}
		baseline = w.baseline(ctx)
	}
	return baseline
}

// covers reports whether in b all is good that was in before.
func covers(b, before *ota.Baseline) bool {
	return b != nil && (b.CloudGood || !before.CloudGood) && (b.FleetConnected || !before.FleetConnected) &&
		!slices.ContainsFunc(before.Checks, func(name string) bool { return !slices.Contains(b.Checks, name) })
}

// pause waits, and reports false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func (w *Watchdog) look(ctx context.Context) (l look) {
	if l.status, l.statusErr = w.status(ctx); l.statusErr != nil {
		return l
	}
	l.report, l.reportErr = Report{}, errors.New("it does not run")
	if l.status.Running {
		l.report, l.reportErr = w.o.Probe.Look(ctx, l.status.PID)
	}
	return l
}

// status asks the service manager, which may be in trouble itself.
func (w *Watchdog) status(ctx context.Context) (Status, error) {
	ctx, cancel := context.WithTimeout(ctx, statusPatience)
	defer cancel()
	return w.o.Service.Status(ctx)
}

// resumeTrial goes on with a trial that another watchdog began to judge.
func (w *Watchdog) resumeTrial(ctx context.Context) error {
	if w.state.Attempt.Verdict == "" {
		err := w.change(func(s *ota.State) error {
			w.resumed(s.Attempt)
			return nil
		})
		if err != nil && !w.state.Attempt.Activated {
			return err // nothing is tried that could not be written down
		} else if err != nil {
			w.log.Error().Err(err).Msg("state is kept in memory only")
		}
	}
	return w.judge(ctx)
}

// resumed has a trial go on that nobody watched for a while. No time was lost:
// what is left is at least enough to be well for long enough. But that is not
// given for ever.
func (w *Watchdog) resumed(a *ota.Attempt) {
	a.BeganAt = max(a.BeganAt, w.o.Uptime().Seconds()+leastSeconds(a.MinHealthySeconds)-a.DeadlineSeconds)
	if a.Resumed++; a.Resumed > maxResumed {
		a.Verdict = fmt.Sprintf("its trial was interrupted %d times", maxResumed)
	}
}

// judge carries a trial to its end: activates the candidate if that has not
// happened in this boot, looks at it until there is a verdict, and carries that
// out. When ctx ends first, the next Run goes on.
func (w *Watchdog) judge(ctx context.Context) error {
	if w.state.Attempt.Verdict != "" {
		return w.takeBack(ctx)
	}
	if !w.state.Attempt.Activated {
		if err := w.activate(w.state.Attempt.Candidate.Slot); err != nil {
			return err // the disk's fault; the next Run tries again, and not for ever
		}
		if err := w.restart(ctx); err != nil && ctx.Err() != nil {
			return ctx.Err()
		} else if err != nil {
			return w.condemn(ctx, err.Error())
		}
		w.note(func(s *ota.State) {
			s.Attempt.Activated, s.Attempt.BeganAt = true, w.o.Uptime().Seconds()
		})
	}
	t := trial{}
	tick := time.NewTicker(w.o.Poll)
	defer tick.Stop()
	for last := w.o.Uptime(); ; {
		l := w.look(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		now := w.o.Uptime()
		if now-last > longestGap { // the machine slept
			t.healthy = 0
			w.note(func(s *ota.State) { w.resumed(s.Attempt) })
		}
		last = now
		w.countRestarts(l)
		if err := w.interrupt(); err != nil {
			w.log.Error().Err(err).Msg("request not answered during a trial")
		}
		if t.attempt = w.state.Attempt; t.attempt.Verdict != "" {
			return w.takeBack(ctx)
		}
		switch v, why := t.judge(l, now); v {
		case keep:
			return w.commit()
		case takeBack:
			return w.condemn(ctx, why)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// countRestarts keeps the restarts that the service manager counted where a
// watchdog that is killed does not lose them.
func (w *Watchdog) countRestarts(l look) {
	if l.statusErr != nil || l.status.Restarts == w.state.Attempt.Seen {
		return
	}
	now := w.o.Uptime().Seconds()
	w.note(func(s *ota.State) {
		a := s.Attempt
		// Fewer than before: the service manager itself was started anew, or
		// somebody restarted the service.
		for range min(max(l.status.Restarts-a.Seen, 0), crashes) {
			a.Restarts = append(a.Restarts, now)
		}
		if over := len(a.Restarts) - maxRestartsKept; over > 0 {
			a.Restarts = slices.Delete(a.Restarts, 0, over)
		}
		a.Seen = l.status.Restarts
	})
}

// commit keeps the candidate for good.
func (w *Watchdog) commit() error {
	w.log.Info().Str("version", w.state.Attempt.Candidate.Version).Msg("release committed")
	return w.finish(func(s *ota.State, o *ota.Outcome) error {
		a := s.Attempt
		o.Result, o.Reason = ota.Installed, "it was well for "+seconds(a.MinHealthySeconds).String()
		s.Previous = a.Base
		s.Active = *a.Candidate
		w.stampCommit(s)
		switch {
		case a.Action == ota.Rescue:
			// Nobody asked for the older release: the newer one has failed, and
			// what is older than that stays refused.
			o.Result, o.From, o.To, o.Reason = ota.TakenBack, a.Candidate.Version, a.Base.Version, a.Why
			remember(s, *a.Base, a.Why, w.now())
			s.RescueUsed = true
		case !a.Candidate.Seed: // which has no counter
			s.Floor, s.FloorDigest = a.Candidate.Counter, a.Candidate.Digest
		}
		return s.To(ota.Committed)
	})
}

// condemn writes down why the candidate is taken back, and does it.
func (w *Watchdog) condemn(ctx context.Context, why string) error {
	why = short(why)
	w.log.Error().Str("version", w.state.Attempt.Candidate.Version).Str("reason", why).Msg("trial failed")
	w.note(func(s *ota.State) { s.Attempt.Verdict = why })
	return w.takeBack(ctx)
}

// takeBack carries a verdict out: it needs neither the candidate, nor the
// network, nor anyone's consent.
func (w *Watchdog) takeBack(ctx context.Context) error {
	active, instead, err := w.point(*w.state.Attempt.Base)
	if err != nil {
		return err
	}
	restartErr := w.restart(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if restartErr != nil {
		// What runs may still be the candidate; active names the other one, so
		// whatever starts the service next starts that.
		w.log.Error().Err(restartErr).Msg("service not restarted after a rollback")
	}
	return w.finish(func(s *ota.State, o *ota.Outcome) error {
		a := s.Attempt
		o.Result, o.Reason = ota.TakenBack, a.Verdict
		if a.Action == ota.Rescue {
			o.Reason = a.Why + "; the release before it is no better: " + a.Verdict
			s.RescueUsed = true
		}
		if instead != "" {
			o.Reason += fmt.Sprintf("; version %s runs instead, since %s", active.Version, instead)
		}
		if restartErr != nil {
			o.Reason += "; what runs may still be it: " + restartErr.Error()
		}
		remember(s, *a.Candidate, a.Verdict, w.now())
		s.Active = active
		s.Previous = nil // what is in the other slot has failed
		return s.To(ota.RolledBack)
	})
}

// remember has a release not tried again without a new command.
func remember(s *ota.State, r ota.Release, why string, now time.Time) {
	s.Failures = slices.DeleteFunc(s.Failures, func(f ota.Failure) bool { return f.Digest == r.Digest })
	s.Failures = append(s.Failures, ota.Failure{Digest: r.Digest, Version: r.Version, Reason: short(why), At: now})
	if over := len(s.Failures) - ota.MaxFailures; over > 0 {
		s.Failures = slices.Delete(s.Failures, 0, over)
	}
}

// restart has the service manager start what active names. It tries for a
// while: systemd may be busy with the boot.
func (w *Watchdog) restart(ctx context.Context) error {
	var err error
	for try := range restartTries {
		if try > 0 && !pause(ctx, w.o.Poll<<(try-1)) {
			return ctx.Err()
		}
		limited, cancel := context.WithTimeout(ctx, restartPatience)
		err = w.o.Service.Restart(limited)
		late := limited.Err() != nil
		cancel()
		if err == nil || late || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("restart the service: %w", err)
	}
	return nil
}
