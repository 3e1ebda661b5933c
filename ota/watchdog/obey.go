package watchdog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/ota/disk"
	"github.com/pyvorin/pyvorin-edge/trust"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// The names of what is in Options.Home.
const (
	requestFile  = "inbox/" + ota.RequestFile
	anchorFile   = "trust_anchor.json"
	deviceIDFile = "device_id"
)

// localPatience is how old a request of root's may be that no command is behind:
// older ones were left by a power cut, or are being played back.
const localPatience = 15 * time.Minute

// order is a request with what was found out about its sender.
type order struct {
	ota.Request
	byRoot  bool          // the file belongs to the trusted user
	command *wire.Command // nil when no valid command is behind it
	release bool          // release keys signed the command too
}

// obey takes requests until there is none.
func (w *Watchdog) obey(ctx context.Context) error {
	for range 16 { // whoever writes faster than that has to wait for the next Run
		req, err := w.readRequest()
		if err != nil || req == nil {
			return err
		}
		if req.Component != w.o.Component {
			return nil
		}
		switch {
		case w.state.Last != nil && w.state.Last.ID == req.ID:
			err = w.dropRequest(req.ID) // it was done when the power was cut
		case req.Action == ota.Install:
			err = w.install(ctx, req, 1)
		default:
			err = w.rollback(ctx, req)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readRequest returns the request; nil when there is none. One that cannot be
// read is removed: nobody waits for its outcome.
func (w *Watchdog) readRequest() (*order, error) {
	info, err := w.o.Home.Lstat(requestFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var data []byte
	if err == nil {
		data, err = disk.ReadFile(w.o.Home, requestFile, ota.MaxRequestBytes)
	}
	var req ota.Request
	if err == nil {
		req, err = ota.ParseRequest(data)
	}
	if err != nil {
		w.log.Warn().Err(err).Msg("request removed")
		return nil, w.removeRequest()
	}
	if req.Component == "" {
		req.Component = ota.AgentComponent
	}
	owner := ownerOf(info)
	if w.o.CheckOwners && owner != w.o.Owner && owner != w.o.Agent {
		w.log.Warn().Uint32("owner", owner).Msg("request of another user removed")
		return nil, w.removeRequest()
	}
	return &order{Request: req, byRoot: !w.o.CheckOwners || owner == w.o.Owner}, nil
}

// dropRequest removes the request with this id; another one that has come in
// its place stays.
func (w *Watchdog) dropRequest(id string) error {
	req, err := w.readRequest()
	if err != nil || req == nil || req.ID != id {
		return err
	}
	return w.removeRequest()
}

func (w *Watchdog) removeRequest() error {
	if err := disk.RemoveAll(w.o.Home, requestFile); err != nil {
		return fmt.Errorf("remove the request: %w", err)
	}
	if err := w.o.Home.SyncDir(path.Dir(requestFile)); err != nil {
		return fmt.Errorf("remove the request: %w", err)
	}
	return nil
}

// authorize checks who is behind an order: a signed command, else root. It
// fills in what it finds and returns why the order is not obeyed; "" when it
// is. The attempt's own command is no repetition.
func (w *Watchdog) authorize(o *order, anchor *trust.Anchor, now time.Time) string {
	if len(o.Command) == 0 {
		switch {
		case o.Action == ota.Install:
			return "" // the bundle's own signatures decide
		case !o.byRoot:
			return "a rollback needs a signed command, or root's word"
		case now.Sub(o.At).Abs() > localPatience:
			return fmt.Sprintf("the request is of %s; ask again", o.At.UTC().Format(time.RFC3339))
		case w.obeyed(o.ID):
			return "the request was obeyed before"
		}
		return ""
	}
	verified, err := anchor.Verify(o.Command, trust.CommandType, now)
	if err != nil {
		return "its command is not to be obeyed: " + err.Error()
	}
	c, err := wire.ParseCommand(verified.Payload())
	if err != nil {
		return err.Error()
	}
	component := c.Component
	if component == "" {
		component = ota.AgentComponent
	}
	own := w.state.Attempt != nil && w.state.Attempt.Nonce == c.Nonce
	switch {
	case c.Command != map[ota.Action]string{ota.Install: wire.CommandUpdate, ota.Rollback: wire.CommandRollback}[o.Action]:
		return fmt.Sprintf("its command is %q, which does not order to %s", c.Command, o.Action)
	case component != w.o.Component:
		return "its command is for the component " + component
	case !w.isTarget(c.Target):
		return "its command is for other devices"
	case !now.Before(c.ExpiresAt):
		return fmt.Sprintf("its command expired on %s", c.ExpiresAt.UTC().Format(time.RFC3339))
	case !own && w.obeyed(c.Nonce):
		return "its command was obeyed before"
	case o.Action == ota.Rollback && c.TargetVersion != "" && o.TargetVersion != "" && c.TargetVersion != o.TargetVersion:
		return "its command names another version"
	}
	if o.Action == ota.Rollback {
		o.TargetVersion = c.TargetVersion
	}
	o.command, o.release = &c, verified.SignedFor(trust.ReleaseRole)
	return ""
}

func (w *Watchdog) obeyed(nonce string) bool {
	return slices.ContainsFunc(w.state.Obeyed, func(o ota.Obeyed) bool { return o.Nonce == nonce })
}

// isTarget reports whether a command is for this device. Which group it is in
// only the agent knows, which would not ask for another's commands; a device
// that cannot be told apart obeys what is for all.
func (w *Watchdog) isTarget(t wire.Target) bool {
	if t.All || len(t.Groups) > 0 {
		return true
	}
	data, err := disk.ReadFile(w.o.Home, deviceIDFile, 256)
	id := strings.TrimSpace(string(data))
	return err == nil && id != "" && t.Includes(id, "")
}

// mark writes down that an order is taken, so that it is never taken again.
func mark(s *ota.State, o *order, now time.Time) error {
	s.Obeyed = slices.DeleteFunc(s.Obeyed, func(o ota.Obeyed) bool { return now.After(o.ExpiresAt) })
	done := ota.Obeyed{Nonce: o.ID, ExpiresAt: o.At.Add(localPatience)}
	switch {
	case o.command != nil:
		done = ota.Obeyed{Nonce: o.command.Nonce, ExpiresAt: o.command.ExpiresAt}
	case o.Action == ota.Install:
		return nil // the floor and the memory of failures are enough
	}
	if slices.ContainsFunc(s.Obeyed, func(o ota.Obeyed) bool { return o.Nonce == done.Nonce }) {
		return nil
	}
	if len(s.Obeyed) >= ota.MaxNonces {
		return fmt.Errorf("%d commands that have not expired were obeyed already", len(s.Obeyed))
	}
	s.Obeyed = append(s.Obeyed, done)
	return nil
}

func (w *Watchdog) anchor() (*trust.Anchor, error) {
	data, err := disk.ReadFile(w.o.Home, anchorFile, trust.MaxAnchorBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("there is no trust anchor, so nothing can be verified; provision the device")
	}
	if err != nil {
		return nil, fmt.Errorf("read the trust anchor: %w", err)
	}
	if info, err := w.o.Home.Lstat(anchorFile); err != nil {
		return nil, fmt.Errorf("read the trust anchor: %w", err)
	} else if w.o.CheckOwners && ownerOf(info) != w.o.Owner {
		return nil, errors.New("the trust anchor belongs to another user than root; install it again")
	}
	return trust.ParseAnchor(data)
}

// rollback goes back to the retained release.
func (w *Watchdog) rollback(ctx context.Context, o *order) error {
	now := w.now()
	attempt := &ota.Attempt{ID: o.ID, Action: ota.Rollback, Now: now, Base: &w.state.Active}
	why := ""
	anchor, err := w.anchor()
	if err != nil && len(o.Command) > 0 {
		why = err.Error()
	} else {
		why = w.authorize(o, anchor, now)
	}
	if o.command != nil {
		attempt.Nonce, attempt.RolloutID = o.command.Nonce, o.command.RolloutID
	}
	to := w.state.Previous
	switch {
	case why != "":
	case o.TargetVersion == w.state.Active.Version && o.TargetVersion != "":
		return w.conclude(o, attempt, ota.Outcome{Result: ota.Installed, To: o.TargetVersion, Reason: "it runs already"})
	case to == nil:
		why = "no other release is kept on this device"
	case o.TargetVersion != "" && o.TargetVersion != to.Version:
		why = fmt.Sprintf("version %s is not on this device; kept are %s and %s", o.TargetVersion, w.state.Active.Version, to.Version)
	default:
		if found, err := w.inspect(to.Slot); err != nil {
			why = err.Error()
		} else if found.Digest != to.Digest {
			why = fmt.Sprintf("slot %s does not hold version %s any more", to.Slot, to.Version)
		}
	}
	if why != "" {
		return w.conclude(o, attempt, ota.Outcome{Result: ota.Refused, To: o.TargetVersion, Reason: why})
	}
	if err := w.setBusy(true); err != nil {
		return err
	}
	err = w.change(func(s *ota.State) error {
		candidate := *to
		attempt.Candidate = &candidate
		attempt.MinHealthySeconds, attempt.DeadlineSeconds = rollbackHealthySeconds, rollbackDeadlineSeconds
		attempt.BootID, attempt.Boots, attempt.BeganAt = w.o.BootID, 1, w.o.Uptime().Seconds()
		s.Attempt = attempt
		if err := mark(s, o, now); err != nil {
			return err
		}
		return s.To(ota.Trial)
	})
	if err != nil {
		return err
	}
	return w.judge(ctx)
}

// A release that was committed before has proved itself: going back to it is
// judged only by whether it runs.
const (
	rollbackHealthySeconds  = 5
	rollbackDeadlineSeconds = 120
)

// conclude records the outcome of an order that needed no change.
func (w *Watchdog) conclude(o *order, a *ota.Attempt, out ota.Outcome) error {
	out.ID, out.At, out.Action, out.From = a.ID, w.now(), a.Action, w.state.Active.Version
	out.Nonce, out.RolloutID = a.Nonce, a.RolloutID
	w.log.Info().Str("outcome", out.String()).Msg("request answered")
	err := w.change(func(s *ota.State) error {
		s.Last = &out
		if out.Result == ota.Refused {
			return nil
		}
		return mark(s, o, out.At)
	})
	if err != nil {
		return err
	}
	return w.settled()
}

// rescue goes back from a release that crashes again and again although it was
// committed: its trial was too short to show it.
func (w *Watchdog) rescue(ctx context.Context) error {
	s := w.state
	if !s.Phase.AtRest() || s.Previous == nil || s.RescueUsed || s.CommittedAt.IsZero() {
		return nil
	}
	// A clock that was set back says less than 24 hours: going back is safe.
	if w.now().Sub(s.CommittedAt) > rescueWindow {
		return nil
	}
	status, err := w.o.Service.Status(ctx)
	if err != nil || !status.GaveUp || status.ExitCode == exitConfig {
		return nil // a config that is refused would be by the version before, too
	}
	if found, err := w.inspect(s.Previous.Slot); err != nil || found.Digest != s.Previous.Digest {
		w.log.Error().Err(err).Msg("crash loop, but the release before is damaged")
		return nil
	}
	w.log.Error().Str("reason", status.Reason).Msg("crash loop after the commit, going back")
	if err := w.setBusy(true); err != nil {
		return err
	}
	now := w.now()
	err = w.change(func(s *ota.State) error {
		base, candidate := s.Active, *s.Previous
		s.Attempt = &ota.Attempt{
			ID: newID(), Action: ota.Rescue, Now: now, Base: &base, Candidate: &candidate,
			Why:               "it ended again and again after its commit: " + orUnknown(status.Reason),
			MinHealthySeconds: rollbackHealthySeconds, DeadlineSeconds: rollbackDeadlineSeconds,
			BootID: w.o.BootID, Boots: 1, BeganAt: w.o.Uptime().Seconds(),
		}
		return s.To(ota.Trial)
	})
	if err != nil {
		return err
	}
	return w.judge(ctx)
}
