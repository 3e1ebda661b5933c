package watchdog

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/trust"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// localPatience is how old a request of root's may be that no command is behind:
// older ones were left by a power cut, or are being played back.
const localPatience = 15 * time.Minute

// order is a request with what was found out about its sender.
type order struct {
	ota.Request
	fault   string        // why it can only be refused
	byRoot  bool          // the file belongs to the trusted user
	command *wire.Command // nil when no valid command is behind it
	release bool          // release keys signed the command too
	version string        // of the bundle, once that was verified
}

// authorize checks who is behind an order: a signed command, else root. It
// fills in what it finds and returns why the order is not obeyed; "" when it
// is. The attempt's own command is no repetition.
func (w *Watchdog) authorize(o *order, anchor *trust.Anchor, now time.Time) string {
	if len(o.Command) == 0 {
		return w.authorizeLocal(o, now)
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
		return fmt.Sprintf("its command is %q, which does not order to %s", clip(c.Command), o.Action)
	case component != w.o.Component:
		return "its command is for the component " + clip(component)
	case !w.isTarget(c.Target):
		return "its command is for other devices"
	case !now.Before(c.ExpiresAt):
		return fmt.Sprintf("its command expired on %s", c.ExpiresAt.UTC().Format(time.RFC3339))
	case !own && w.obeyed(c.Nonce):
		return "its command was obeyed before"
	case !own && !hasRoom(w.state, now):
		return fmt.Sprintf("%d commands that have not expired were obeyed already", ota.MaxNonces)
	case o.Action == ota.Rollback && c.TargetVersion != "" && o.TargetVersion != "" && c.TargetVersion != o.TargetVersion:
		return "its command names another version"
	}
	if o.Action == ota.Rollback {
		o.TargetVersion = c.TargetVersion
	}
	o.command, o.release = &c, verified.SignedFor(trust.ReleaseRole)
	return ""
}

// authorizeLocal is authorize for an order without a command.
func (w *Watchdog) authorizeLocal(o *order, now time.Time) string {
	switch {
	case o.Action == ota.Install && !o.Retry:
		return "" // the bundle's own signatures decide
	case !o.byRoot && o.Retry:
		return "to try a failed release again needs a signed command, or root's word"
	case !o.byRoot:
		return "a rollback needs a signed command, or root's word"
	case now.Sub(o.At).Abs() > localPatience:
		return fmt.Sprintf("the request is of %s; ask again", o.At.UTC().Format(time.RFC3339))
	case w.obeyed(o.ID):
		return "the request was obeyed before"
	case !hasRoom(w.state, now):
		return fmt.Sprintf("%d commands that have not expired were obeyed already", ota.MaxNonces)
	}
	return ""
}

func (w *Watchdog) obeyed(nonce string) bool {
	return slices.ContainsFunc(w.state.Obeyed, func(o ota.Obeyed) bool { return o.Nonce == nonce })
}

// hasRoom reports whether another order can be remembered.
func hasRoom(s *ota.State, now time.Time) bool {
	return len(s.Obeyed) < ota.MaxNonces || slices.ContainsFunc(s.Obeyed, func(o ota.Obeyed) bool { return now.After(o.ExpiresAt) })
}

// mark writes down that an order was carried out, so that it never is again. A
// refused one was not: it may be when what was in the way is gone, until it
// expires. A plain installation is not marked either, since the floor and the
// memory of failures are enough.
func mark(s *ota.State, o *order, now time.Time) {
	var done ota.Obeyed
	switch {
	case o.command != nil:
		done = ota.Obeyed{Nonce: o.command.Nonce, ExpiresAt: o.command.ExpiresAt}
	case o.Action == ota.Install && !o.Retry:
		return
	default:
		done = ota.Obeyed{Nonce: o.ID, ExpiresAt: o.At.Add(localPatience)}
	}
	if slices.ContainsFunc(s.Obeyed, func(o ota.Obeyed) bool { return o.Nonce == done.Nonce }) {
		return
	}
	// What has expired is kept as long as there is room: the clock may have
	// jumped ahead, and come back.
	if len(s.Obeyed) >= ota.MaxNonces {
		s.Obeyed = slices.DeleteFunc(s.Obeyed, func(o ota.Obeyed) bool { return now.After(o.ExpiresAt) })
	}
	s.Obeyed = append(s.Obeyed, done)
}

// isTarget reports whether a command is for this device. Which group it is in
// only the agent knows, which would not ask for another's commands; a device
// that cannot be told apart obeys what is for all.
func (w *Watchdog) isTarget(t wire.Target) bool {
	if t.All || len(t.Groups) > 0 {
		return true
	}
	data, owner, err := w.read(w.o.Home, deviceIDFile, 256)
	id := strings.TrimSpace(string(data))
	return err == nil && w.mine(owner) && id != "" && t.Includes(id, "")
}

func (w *Watchdog) anchor() (*trust.Anchor, error) {
	data, owner, err := w.read(w.o.Home, anchorFile, trust.MaxAnchorBytes)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, errors.New("there is no trust anchor, so nothing can be verified; provision the device")
	case err != nil:
		return nil, fmt.Errorf("read the trust anchor: %w", err)
	case !w.mine(owner):
		return nil, errors.New("the trust anchor belongs to another user than root; install it again")
	}
	return trust.ParseAnchor(data)
}
