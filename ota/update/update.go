// Package update is the agent's side of updates: it takes a signed command, brings
// the bundle, asks the watchdog, and tells what came of it.
//
// The parties are whoever hands over commands (Want), which are believed only for
// their signatures; the Fetcher, which brings bundles; the watchdog, which is
// asked through inbox/request.json and answers in ota/state.json and
// ota/history.jsonl; and whoever wants to hear of outcomes (Options.Report). The
// watchdog verifies everything again, so what is checked here spares a download
// or a fruitless try, and nothing rests on it.
//
// # Files in the inbox
//
//	desired.json    the wants, and the outcomes of those that never reached the watchdog
//	reported.json   which of the watchdog's outcomes were told
//	*.bundle …      what the Fetcher brings
//
// They are replaced whole, before what they tell of is done. So after a restart,
// or a power cut at any instant, each want goes on where it was: what is in the
// inbox is not fetched again, what was asked is waited for, and what was not yet
// told is told, perhaps for a second time.
//
// # A want
//
// It waits for whatever stands in its way, which /health tells: another update
// under way, a window that is closed, too little space, a machine that is too
// hot. It is fetched, as a delta where there is one for the release that runs or
// the one before, and the watchdog is asked. A newer command of the same component
// takes its place until then. It ends when the watchdog has answered, when the
// command has expired, or when what is offered can never be installed; each end is
// told once. Tries that fail are repeated with waits that grow to an hour.
package update

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/pyvorin/pyvorin-edge/internal/clock"
	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/ota/fetch"
	"github.com/pyvorin/pyvorin-edge/ota/window"
	"github.com/pyvorin/pyvorin-edge/trust"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// Fetcher brings bundles into the inbox. What an earlier call left there is used;
// it returns soon after its context ends.
type Fetcher interface {
	Fetch(ctx context.Context, j fetch.Job) (bundle.Verified, error)
}

// Options are what an Updater needs.
type Options struct {
	Layout     ota.Layout            // of the agent, with the inbox and the anchor
	Components map[string]ota.Layout // of the other components, by name

	Fetch   Fetcher
	Free    func(dir string) (int64, error) // what may still be written to the disk that dir is on
	Reserve int64                           // of that, what is left alone

	DeviceID, Group string
	Target          bundle.Target
	Version         string         // that runs, for a device without slots
	Before          wire.OTAHealth // what Health says until Run has looked

	// Disabled has nothing fetched and asked; what the watchdog does of itself is
	// told all the same.
	Disabled bool
	Delta    bool // deltas are looked for

	Download, Install window.Window // when a bundle is fetched, and the watchdog asked

	// MinHealthy and Deadline may make trials longer than bundles ask for.
	MinHealthy, Deadline time.Duration

	// Hold says why this is no time for an update; "" when it is one. It must not
	// block. May be nil.
	Hold func() string

	// Report takes an outcome and returns nil once that is kept elsewhere. One
	// whose report failed is told again, and after a power cut perhaps one that
	// was told. May be nil: then they are kept, the newest ones.
	Report func(ctx context.Context, o ota.Outcome) error

	Clock clock.Clock
	Build time.Time // of this program: no true time is before it

	Beat func()        // called while Run turns; may be nil
	Poll time.Duration // how often the watchdog's files are looked at; 0 is two seconds
	Log  zerolog.Logger
}

// Why a command was not taken, where a caller may want to know. Others are those
// of package trust.
var (
	ErrDisabled   = errors.New("updates are disabled: ota.enabled is false")
	ErrNotRunning = errors.New("updates are not running now")
	ErrNotForUs   = errors.New("the command is not for this device")
	ErrSuperseded = errors.New("a newer command was taken already")
)

const (
	defaultPoll = 2 * time.Second

	// maxCommandBytes bounds an envelope: the request that holds it is bounded too.
	maxCommandBytes = 96 << 10

	// reportPatience bounds one call of Report, and reportPause is how long
	// nothing is told after one that failed.
	reportPatience = 10 * time.Second
	reportPause    = 30 * time.Second

	cleanPause = time.Hour
)

// Updater is the agent's side of updates.
type Updater struct {
	o    Options
	log  zerolog.Logger
	kick chan struct{} // capacity 1: there is something new to look at

	mu      sync.Mutex
	running bool
	desired *desired // as it is on disk, and never changed in place

	status atomic.Pointer[wire.OTAHealth]

	// Of Run alone.
	looks    map[string]*look     // what the watchdog's files say, by component
	orders   map[string]order     // the verified commands of the wants, by nonce
	retries  map[string]time.Time // when a want may be tried again, by nonce
	unasked  string               // nonce of the want whose request could not be written
	job      *job                 // nil when nothing is being fetched
	told     *told
	reportAt time.Time // nothing is told before
	cleanAt  time.Time // nothing is cleaned before
	fault    string    // of our own files, since the last turn
	logged   string    // the fault that was logged last
}

// order is a command with what its signatures allow.
type order struct {
	wire.Command
	release   bool // release keys signed it too
	component string
}

// New checks o and does no I/O.
func New(o Options) (*Updater, error) {
	if o.Fetch == nil || o.Free == nil || o.Clock == nil || o.Layout.Base == "" {
		return nil, errors.New("internal error: the updater lacks a part")
	}
	if o.Beat == nil {
		o.Beat = func() {}
	}
	if o.Hold == nil {
		o.Hold = func() string { return "" }
	}
	if o.Poll == 0 {
		o.Poll = defaultPoll
	}
	u := &Updater{
		o: o, log: o.Log.With().Str("component", "updates").Logger(),
		kick: make(chan struct{}, 1),
	}
	u.status.Store(&o.Before)
	return u, nil
}

// Run works until ctx ends. There must be only one at a time for a base dir.
func (u *Updater) Run(ctx context.Context) error {
	u.orders, u.retries, u.looks = map[string]order{}, map[string]time.Time{}, map[string]*look{}
	for component, layout := range u.components() {
		u.looks[component] = &look{layout: layout}
	}
	if err := os.MkdirAll(u.o.Layout.Inbox(), 0o700); err != nil {
		return fmt.Errorf("make the inbox: %w", err)
	}
	if err := u.load(); err != nil {
		return err
	}
	u.setRunning(true)
	defer u.setRunning(false)
	defer u.stopJob(context.Canceled)
	u.cleanAt = time.Time{}
	tick := time.NewTicker(u.o.Poll)
	defer tick.Stop()
	for {
		u.o.Beat()
		u.turn(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-u.kick:
		case <-u.finished():
			u.endJob()
		case <-tick.C:
		}
	}
}

// components are the layouts of all components by name.
func (u *Updater) components() map[string]ota.Layout {
	all := maps.Clone(u.o.Components)
	if all == nil {
		all = map[string]ota.Layout{}
	}
	all[ota.AgentComponent] = u.o.Layout
	return all
}

func (u *Updater) setRunning(yes bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.running = yes
}

// Health is what /health says of updates, from memory.
func (u *Updater) Health() wire.OTAHealth { return *u.status.Load() }

// nowAfter is the time that expiries are compared with: never before what this
// program or the agent's watchdog, whose state is s, knows to have passed.
func (u *Updater) nowAfter(s *ota.State) time.Time {
	var floor time.Time
	if s != nil {
		floor = s.TrustedTime
	}
	return trust.Now(u.o.Clock.Now(), u.o.Build, floor).UTC()
}

// now is nowAfter in a turn.
func (u *Updater) now() time.Time { return u.nowAfter(u.looks[ota.AgentComponent].state) }

// Want takes a command to update or to roll back, as it was signed. When it
// returns nil the command is kept durably, or was before: then nothing happens.
func (u *Updater) Want(ctx context.Context, envelope []byte) error {
	if u.o.Disabled {
		return ErrDisabled
	}
	state, err := ota.ReadState(u.o.Layout)
	if err != nil {
		state = nil
	}
	now := u.nowAfter(state)
	o, err := u.verify(envelope, now)
	if err != nil {
		return err
	}
	if !now.Before(o.ExpiresAt) {
		return fmt.Errorf("the command: %w on %s", trust.ErrExpired, o.ExpiresAt.UTC().Format(time.RFC3339))
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if err := u.keep(o, envelope, now); err != nil {
		return err
	}
	u.wake()
	return nil
}

func (u *Updater) wake() {
	select {
	case u.kick <- struct{}{}:
	default:
	}
}

// errNoAnchor: nothing can be verified now.
var errNoAnchor = errors.New("no trust anchor")

func (u *Updater) anchor() (*trust.Anchor, error) {
	a, err := trust.LoadAnchor(u.o.Layout.Anchor())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoAnchor, err)
	}
	return a, nil
}

// verify returns what is ordered. Whether it has expired is not asked.
func (u *Updater) verify(envelope []byte, now time.Time) (order, error) {
	if len(envelope) > maxCommandBytes {
		return order{}, fmt.Errorf("the command has more than %d bytes", maxCommandBytes)
	}
	anchor, err := u.anchor()
	if err != nil {
		return order{}, err
	}
	v, err := anchor.Verify(envelope, trust.CommandType, now)
	if err != nil {
		return order{}, fmt.Errorf("the command: %w", err)
	}
	c, err := wire.ParseCommand(v.Payload())
	if err != nil {
		return order{}, err
	}
	o := order{Command: c, release: v.SignedFor(trust.ReleaseRole), component: c.Component}
	if o.component == "" {
		o.component = ota.AgentComponent
	}
	_, known := u.o.Components[o.component]
	switch {
	case c.Command != wire.CommandUpdate && c.Command != wire.CommandRollback:
		return order{}, fmt.Errorf("the command is %q, which is neither update nor rollback", c.Command)
	case !known && o.component != ota.AgentComponent:
		return order{}, fmt.Errorf("%w: it has no component %q; see ota.components", ErrNotForUs, o.component)
	case !c.Target.Includes(u.o.DeviceID, u.o.Group):
		return order{}, ErrNotForUs
	}
	return o, nil
}

// keep adds a want to those on disk.
func (u *Updater) keep(o order, envelope []byte, now time.Time) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	d := u.desired
	switch {
	case !u.running:
		return ErrNotRunning
	case d.find(o.Nonce) != nil || slices.Contains(d.Settled, o.Nonce):
		return nil
	case !o.IssuedAt.After(d.Newest[o.component]):
		return fmt.Errorf("%w: one of %s", ErrSuperseded, d.Newest[o.component].UTC().Format(time.RFC3339))
	}
	return u.changeLocked(func(d *desired) error {
		for _, w := range slices.Clone(d.Wants) {
			// What was asked already goes its way, and the new one after it.
			if w.Component == o.component && w.Request == "" {
				d.settle(w, u.outcomeOf(w, ota.Refused, "a newer command took its place", now))
			}
		}
		d.Wants = append(d.Wants, &want{
			Envelope: envelope, Nonce: o.Nonce, Component: o.component,
			Action: o.action(), To: o.to(), RolloutID: o.RolloutID,
		})
		if d.Newest == nil {
			d.Newest = map[string]time.Time{}
		}
		// A command from the future must not shut out those of the present.
		newest := o.IssuedAt
		if latest := now.Add(futurePatience); u.o.Clock.State().Set && newest.After(latest) {
			newest = latest
		}
		d.Newest[o.component] = newest.UTC()
		return nil
	})
}

// futurePatience is how far apart the clocks of device and operator may be.
const futurePatience = 5 * time.Minute

func (o order) action() ota.Action {
	if o.Command.Command == wire.CommandRollback {
		return ota.Rollback
	}
	return ota.Install
}

// to is the version that is ordered; "" is whatever is retained.
func (o order) to() string {
	if o.action() == ota.Rollback {
		return o.TargetVersion
	}
	return o.Version
}
