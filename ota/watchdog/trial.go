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
	// restartPatience bounds how long the service manager may take for a restart.
	restartPatience = 2 * time.Minute
	restartTries    = 5
	restartPause    = time.Second

	// maxRestartsKept bounds Attempt.Restarts.
	maxRestartsKept = 2 * crashes
)

// beginTrial turns a staged release into one on trial, and judges it.
func (w *Watchdog) beginTrial(ctx context.Context) error {
	baseline := w.baseline(ctx)
	err := w.change(func(s *ota.State) error {
		a := s.Attempt
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
	l := w.look(ctx)
	if l.statusErr != nil || l.reportErr != nil || !l.status.Running {
		return nil
	}
	return l.report.Baseline()
}

func (w *Watchdog) look(ctx context.Context) (l look) {
	if l.status, l.statusErr = w.o.Service.Status(ctx); l.statusErr != nil {
		return l
	}
	l.report, l.reportErr = Report{}, errors.New("it does not run")
	if l.status.Running {
		l.report, l.reportErr = w.o.Probe.Look(ctx, l.status.PID)
	}
	return l
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
			return err
		}
		if err := w.restart(ctx); err != nil && ctx.Err() != nil {
			return ctx.Err()
		} else if err != nil {
			return w.condemn(ctx, err.Error())
		}
		err := w.change(func(s *ota.State) error {
			s.Attempt.Activated, s.Attempt.BeganAt = true, w.o.Uptime().Seconds()
			return nil
		})
		if err != nil {
			return err
		}
	}
	t := trial{attempt: w.state.Attempt}
	tick := time.NewTicker(w.o.Poll)
	defer tick.Stop()
	for {
		l := w.look(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		w.countRestarts(l)
		t.attempt = w.state.Attempt
		switch v, why := t.judge(l, w.o.Uptime()); v {
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
	a := w.state.Attempt
	if l.statusErr != nil || l.status.Restarts == a.Seen {
		return
	}
	now := w.o.Uptime().Seconds()
	count := func(s *ota.State) error {
		a := s.Attempt
		// Fewer than before: the service manager itself was started anew.
		for range min(max(l.status.Restarts-a.Seen, 0), crashes) {
			a.Restarts = append(a.Restarts, now)
		}
		if over := len(a.Restarts) - maxRestartsKept; over > 0 {
			a.Restarts = slices.Delete(a.Restarts, 0, over)
		}
		a.Seen = l.status.Restarts
		return nil
	}
	if err := w.change(count); err != nil {
		// A disk that cannot be written must not save a release that crashes.
		w.log.Error().Err(err).Msg("restarts are counted in memory only")
		count(w.state)
	}
}

// commit keeps the candidate for good.
func (w *Watchdog) commit() error {
	w.log.Info().Str("version", w.state.Attempt.Candidate.Version).Msg("release committed")
	return w.finish(func(s *ota.State, o *ota.Outcome) error {
		a := s.Attempt
		o.Result, o.Reason = ota.Installed, "it was well for "+seconds(a.MinHealthySeconds).String()
		if a.Action == ota.Rescue {
			// Nobody asked for the older release: the newer one has failed.
			o.Result, o.From, o.To, o.Reason = ota.TakenBack, a.Candidate.Version, a.Base.Version, a.Why
			remember(s, *a.Base, a.Why, w.now())
			s.RescueUsed = true
		} else {
			s.RescueUsed = false
		}
		s.Previous = a.Base
		s.Active = *a.Candidate
		s.Floor = a.Candidate.Counter
		s.CommittedAt = w.now()
		return s.To(ota.Committed)
	})
}

// condemn writes down why the candidate is taken back, and does it.
func (w *Watchdog) condemn(ctx context.Context, why string) error {
	w.log.Error().Str("version", w.state.Attempt.Candidate.Version).Str("reason", why).Msg("trial failed")
	err := w.change(func(s *ota.State) error {
		s.Attempt.Verdict = why
		return nil
	})
	if err != nil {
		w.log.Error().Err(err).Msg("verdict not written down, carried out all the same")
		w.state.Attempt.Verdict = why
	}
	return w.takeBack(ctx)
}

// takeBack carries a verdict out: it needs neither the candidate, nor the
// network, nor anyone's consent.
func (w *Watchdog) takeBack(ctx context.Context) error {
	a := w.state.Attempt
	if err := w.activate(a.Base.Slot); err != nil {
		return err
	}
	if err := w.restart(ctx); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		// What runs may still be the candidate; active names the other one, so
		// whatever starts the service next starts that.
		w.log.Error().Err(err).Msg("service not restarted after a rollback")
	}
	return w.finish(func(s *ota.State, o *ota.Outcome) error {
		a := s.Attempt
		o.Result, o.Reason = ota.TakenBack, a.Verdict
		if a.Action == ota.Rescue {
			o.Reason = a.Why + "; the release before it is no better: " + a.Verdict
			s.RescueUsed = true
		}
		remember(s, *a.Candidate, a.Verdict, w.now())
		s.Active = *a.Base
		s.Previous = nil // what is in the other slot has failed
		return s.To(ota.RolledBack)
	})
}

// remember has a release not tried again without a new command.
func remember(s *ota.State, r ota.Release, why string, now time.Time) {
	s.Failures = slices.DeleteFunc(s.Failures, func(f ota.Failure) bool { return f.Digest == r.Digest })
	s.Failures = append(s.Failures, ota.Failure{Digest: r.Digest, Version: r.Version, Reason: why, At: now})
	if over := len(s.Failures) - ota.MaxFailures; over > 0 {
		s.Failures = slices.Delete(s.Failures, 0, over)
	}
}

// restart has the service manager start what active names. It tries for a
// while: systemd may be busy with the boot.
func (w *Watchdog) restart(ctx context.Context) error {
	var err error
	for try := range restartTries {
		if try > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(restartPause):
			}
		}
		limited, cancel := context.WithTimeout(ctx, restartPatience)
		err = w.o.Service.Restart(limited)
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
	return fmt.Errorf("restart the service: %w", err)
}
