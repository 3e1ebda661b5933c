// Package watchdog decides what a device runs, from outside of it.
//
// The parties are the agent, whose requests are hostile input; the two slots,
// of which the symbolic link active names one; the service manager (Service),
// which runs what active names; and the component itself, which is asked how it
// is (Probe) and believed only where lying would not help it. The watchdog runs
// as root from a copy of the program that no update touches, and only while
// there is something to do. It shares no queue, broker, sensor or config code
// with what it judges.
//
// An update goes committed -> staging -> staged -> trial -> committed or
// rolled_back. Each step is written to state.json, durably, before it is done,
// and start-up has a rule for each state it may find:
//
//	committed, rolled_back   active must name the committed release; if it does
//	                         not, or the release is broken, the other slot takes
//	                         over, and if that is broken or has failed, the seed
//	staging                  the half-filled slot is removed, and the request tried again
//	staged                   the slot is complete: the trial begins
//	trial, no verdict        it goes on, in at most three boots
//	trial, a verdict         going back is finished
//
// So at whatever instant the power is cut, active names a complete, verified
// release, and a second cut during the recovery changes nothing about that.
// Attempts, boots and transitions are counted and bounded, so that nothing is
// tried for ever.
//
// The agent may write to the base dir, but in a sticky folder it cannot touch
// what is root's. So whatever lies under a name of ours and is not root's is
// moved aside and never entered, and no temporary name that the agent could
// occupy keeps active from being switched. A full disk may keep an update from
// beginning; to undo one there is a ballast that makes room.
package watchdog

import (
	"context"
	"errors"
	"time"

	"github.com/rs/zerolog"

	"github.com/pyvorin/pyvorin-edge/internal/clock"
	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/ota/disk"
)

// Options are what a Watchdog needs.
type Options struct {
	Component string // ota.AgentComponent, or that of an application
	// Others are the components with watchdogs of their own, whose requests are
	// left to them. The agent's watchdog refuses those for any other.
	Others []string
	Layout ota.Layout
	Disk   disk.FS // of Layout.Base

	// Home is the agent's base dir, with the inbox, the trust anchor and the
	// device id. For the agent itself it is Disk.
	Home disk.FS

	Service Service
	Probe   Probe

	// Selftest runs the release in the folder before it is trusted with the
	// device, as the user that will run it. Nil where there is no such test.
	Selftest func(ctx context.Context, dir string) error

	Target bundle.Target // what bundles must be made for
	Seed   *Seed         // nil where there is none
	Free   func() (int64, error)

	Clock  clock.Clock
	Uptime func() time.Duration // since boot
	BootID string
	Build  time.Time // of this program: no true time is before it

	// CheckOwners is off where all files are one user's. Else slots, active and
	// state must belong to Owner, and requests to Agent or Owner.
	CheckOwners  bool
	Owner, Agent uint32

	Poll time.Duration // how often a trial is looked at
	Log  zerolog.Logger
}

// Seed is the program that the package brought, for a device whose slots are
// both broken, and for one that has none yet.
type Seed struct {
	Path    string // of the file
	Version string
}

const (
	maxTransitions = 12 // of one attempt
	maxTries       = 3  // of staging one request
	maxBoots       = 3  // of one trial
	maxResumed     = 8  // watchdogs that went on with one trial

	// rescueWindow is how long after its commit a release that crashes again
	// and again is still taken back.
	rescueWindow = 24 * time.Hour

	defaultPoll = 500 * time.Millisecond
)

// Watchdog is the judge of one component.
type Watchdog struct {
	o     Options
	log   zerolog.Logger
	state *ota.State // as it is on disk; nil before load

	crashLoop bool // a component that ends again and again has been looked into
}

// New checks o and does no I/O.
func New(o Options) (*Watchdog, error) {
	if o.Disk == nil || o.Home == nil || o.Service == nil || o.Probe == nil || o.Clock == nil || o.Uptime == nil || o.Free == nil {
		return nil, errors.New("internal error: the watchdog lacks a part")
	}
	if o.Poll == 0 {
		o.Poll = defaultPoll
	}
	return &Watchdog{o: o, log: o.Log.With().Str("component", "watchdog").Str("of", o.Component).Logger()}, nil
}

// Boot brings active in order before the component is started: it finishes or
// undoes what a power cut interrupted, as far as that needs no service. An
// interrupted trial goes on with the next Run.
func (w *Watchdog) Boot() error {
	if err := w.load(); err != nil {
		return err
	}
	_, err := w.recover()
	return err
}

// Run does what there is to do and returns when nothing is left: it recovers,
// goes on with an interrupted attempt, obeys a request, or rescues a component
// that crashes again and again since its last update. Only one Run or Boot may
// be at work; the caller holds the lock.
func (w *Watchdog) Run(ctx context.Context) error {
	if err := w.load(); err != nil {
		return err
	}
	if w.isSound(ctx) {
		return w.obey(ctx)
	}
	moved, err := w.recover()
	if err != nil {
		return err
	}
	if moved {
		if err := w.restart(ctx); err != nil {
			w.log.Error().Err(err).Msg("service not restarted after a repair")
		}
	}
	if err := w.resume(ctx); err != nil {
		return err
	}
	if err := w.obey(ctx); err != nil {
		return err
	}
	return w.rescue(ctx)
}

// isSound reports whether there is nothing to recover. It reads no release:
// that takes a small board seconds, and is done at each boot.
func (w *Watchdog) isSound(ctx context.Context) bool {
	if !w.state.Phase.AtRest() || !w.activated(w.state.Active.Slot) {
		return false
	}
	if missing, err := w.missing(busyFile); !missing || err != nil {
		return false
	}
	status, err := w.status(ctx)
	return err != nil || !status.GaveUp
}

// State returns a copy of the state; nil before the first Boot or Run.
func (w *Watchdog) State() *ota.State {
	if w.state == nil {
		return nil
	}
	s, err := clone(w.state)
	if err != nil {
		return nil
	}
	return s
}

// resume goes on with an attempt that was interrupted.
func (w *Watchdog) resume(ctx context.Context) error {
	if w.state.Phase.AtRest() {
		return nil
	}
	if w.state.Phase != ota.Trial && w.state.Attempt.Transitions >= maxTransitions {
		return w.refuse(errors.New("the update went through too many states"), "")
	}
	switch w.state.Phase {
	case ota.Staging:
		return w.restage(ctx)
	case ota.Staged:
		return w.beginTrial(ctx, true)
	}
	return w.resumeTrial(ctx)
}

// The names of what is in Options.Disk.
const (
	activeLink  = "active"
	otaDir      = "ota"
	stateFile   = "ota/state.json"
	historyFile = "ota/history.jsonl"
	busyFile    = "ota/busy"
	workDir     = "ota/work"
	ballastFile = "ota/ballast"
)
