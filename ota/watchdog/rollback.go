package watchdog

import (
	"context"
	"fmt"
	"time"

	"github.com/pyvorin/pyvorin-edge/ota"
)

// A release that was committed before has proved itself: going back to it is
// judged only by whether it runs.
const (
	rollbackHealthySeconds  = 5
	rollbackDeadlineSeconds = 120
)

// mayRollback says why an order to roll back is not obeyed; "" when it is.
func (w *Watchdog) mayRollback(o *order, now time.Time) string {
	anchor, err := w.anchor()
	if err != nil && len(o.Command) > 0 {
		return err.Error()
	}
	return w.authorize(o, anchor, now)
}

// rollback goes back to the retained release.
func (w *Watchdog) rollback(ctx context.Context, o *order) error {
	attempt := w.newAttempt(o.ID, ota.Rollback)
	why := w.mayRollback(o, attempt.Now)
	to := w.state.Previous
	switch {
	case why != "":
	case o.TargetVersion == w.state.Active.Version && o.TargetVersion != "":
		return w.conclude(o, ota.Outcome{Result: ota.Installed, To: o.TargetVersion, Reason: "it runs already"})
	case to == nil:
		why = "no other release is kept on this device"
	case o.TargetVersion != "" && o.TargetVersion != to.Version:
		why = fmt.Sprintf("version %s is not on this device; kept are %s and %s", clip(o.TargetVersion), w.state.Active.Version, to.Version)
	default:
		why = w.unusable(*to)
	}
	if why != "" {
		return w.conclude(o, ota.Outcome{Result: ota.Refused, To: clip(o.TargetVersion), Reason: why})
	}
	if o.command != nil {
		attempt.Nonce, attempt.RolloutID = o.command.Nonce, o.command.RolloutID
	}
	return w.goBack(ctx, attempt, *to, func(s *ota.State) { mark(s, o, attempt.Now) })
}

// unusable says why a retained release cannot be gone back to; "" when it can.
func (w *Watchdog) unusable(r ota.Release) string {
	found, err := w.inspect(r.Slot)
	switch {
	case err != nil:
		return err.Error()
	case found.Digest != r.Digest:
		return fmt.Sprintf("slot %s does not hold version %s any more", r.Slot, r.Version)
	}
	return ""
}

// goBack begins and judges the trial of a release that was committed before.
func (w *Watchdog) goBack(ctx context.Context, attempt *ota.Attempt, to ota.Release, also func(*ota.State)) error {
	// Without the mark the way back is only not resumed by itself.
	if err := w.setBusy(true); err != nil {
		w.log.Error().Err(err).Msg("goes back without being marked as busy")
	}
	err := w.change(func(s *ota.State) error {
		attempt.Candidate = &to
		attempt.MinHealthySeconds, attempt.DeadlineSeconds = rollbackHealthySeconds, rollbackDeadlineSeconds
		attempt.Boots, attempt.BeganAt = 1, w.o.Uptime().Seconds()
		s.Attempt = attempt
		also(s)
		return s.To(ota.Trial)
	})
	if err != nil {
		return err
	}
	return w.judge(ctx)
}

// conclude answers an order that needed no change, and comes to rest.
func (w *Watchdog) conclude(o *order, out ota.Outcome) error {
	if err := w.answer(o, out, nothing); err != nil {
		return err
	}
	w.settled()
	return nil
}

// newAttempt begins an attempt to replace what is active.
func (w *Watchdog) newAttempt(id string, action ota.Action) *ota.Attempt {
	base := w.state.Active
	return &ota.Attempt{ID: id, Action: action, Now: w.now(), Base: &base, BootID: w.o.BootID, AskedAt: w.o.Uptime().Seconds()}
}

// rescue goes back from a release that crashes again and again although it was
// committed: its trial was too short to show it.
func (w *Watchdog) rescue(ctx context.Context) error {
	s := w.state
	if !s.Phase.AtRest() || s.Previous == nil || s.RescueUsed || !w.recentlyCommitted() || w.hasFailed(*s.Previous) {
		return nil
	}
	status, err := w.status(ctx)
	if err != nil || !status.GaveUp || status.ExitCode == exitConfig {
		return nil // a config that is refused would be by the version before, too
	}
	if why := w.unusable(*s.Previous); why != "" {
		w.log.Error().Str("reason", why).Msg("crash loop after the commit, and nothing to go back to")
		return w.change(func(s *ota.State) error {
			s.Previous = nil
			return nil
		})
	}
	w.log.Error().Str("reason", status.Reason).Msg("crash loop after the commit, going back")
	attempt := w.newAttempt(newID(), ota.Rescue)
	attempt.Why = "it ended again and again after its commit: " + orUnknown(status.Reason)
	return w.goBack(ctx, attempt, *s.Previous, nothing)
}

// recentlyCommitted reports whether a crash loop may still be the release's
// fault. In the boot of the commit no clock is asked. Of a commit at an unknown
// time it may: going back is safe, and happens once.
func (w *Watchdog) recentlyCommitted() bool {
	s := w.state
	switch {
	case s.CommittedBoot != "" && s.CommittedBoot == w.o.BootID:
		return w.o.Uptime()-seconds(s.CommittedUp) <= rescueWindow
	case s.CommittedAt.IsZero():
		return s.CommittedBoot != ""
	}
	return w.now().Sub(s.CommittedAt) <= rescueWindow
}
