// Package agent is the program on the device: it builds the parts from the
// config, keeps them running, and says how they are.
//
//	sensors.Poller ──▶ pipeline ──▶ syncqueue.Queue ──▶ uplink ──▶ cloud
//	                     │ privacy.Filter
//	                     └─▶ health.Live ──▶ status page
//
// Each part runs under a supervisor of its own. A part that fails or panics is
// started again with growing pauses, and degrades /health with the reason; the
// others go on. Parts start in the order of the data's way, the receiving end
// first, and stop in reverse, so that what was read is queued and what is
// queued is delivered before the part that takes it goes away.
//
// Every part's loop beats. The service manager's watchdog is fed only while all
// of them do, so a process that only looks alive is restarted.
//
// A reload builds new parts from a config that was checked completely, stops
// the old ones and starts the new; the /health server stays and goes on with the
// new settings, and so does what it shows unless sensors or privacy rules
// changed. A config file that is refused at a reload degrades /health, because
// the next start would fail.
//
// What a power cut leaves: the queue's committed readings, the device id, the
// config before or after a reload and never a mixture. Readings in memory that
// were not committed yet are lost, and were never acknowledged to anyone.
package agent

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/rs/zerolog"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/health"
	"github.com/pyvorin/pyvorin-edge/internal/buildinfo"
	"github.com/pyvorin/pyvorin-edge/internal/clock"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// readyPatience is how long READY=1 waits for the health listener: an address
// in use must not keep the agent from its main job.
const readyPatience = 5 * time.Second

// Options are what an agent needs.
type Options struct {
	Paths  Paths
	Config *config.Config
	// Load checks a config: content, or the file at path when that is nil.
	Load   func(path string, content []byte) (*config.Config, error)
	Types  []sensors.Type
	Clock  clock.Clock
	Log    zerolog.Logger
	Notify func(state string) // to the service manager; nil is sd_notify(3)
	// OnConfig is called when another config took effect; may be nil.
	OnConfig func(*config.Config)
}

// Agent is one running agent.
type Agent struct {
	o        Options
	log      zerolog.Logger
	begun    time.Time
	deviceID string
	slot     string // "a" or "b", or "" when not run from one
	starts   startLog
	live     *health.Live
	window   *health.Window

	server  atomic.Pointer[health.Server] // nil before Run
	reloads chan reload
	refusal atomic.Pointer[health.Refusal] // of the config file, if no config was applied since
	fatal   chan error                     // capacity 1: what no restart of a part can mend

	outer group // what outlives a reload

	mu  sync.Mutex
	gen *generation // the parts of the present config; nil before Run
}

// New prepares an agent: it makes the base dir and the device id when they are
// absent. The config has been checked; errors are of the base dir.
func New(o Options) (*Agent, error) {
	deviceID, err := o.Paths.ensureDeviceID()
	if err != nil {
		return nil, err
	}
	if o.Notify == nil {
		o.Notify = func(state string) { daemon.SdNotify(false, state) }
	}
	if o.OnConfig == nil {
		o.OnConfig = func(*config.Config) {}
	}
	log := o.Log.With().Str("component", "agent").Logger()
	return &Agent{
		o:        o,
		log:      log,
		outer:    group{log: log},
		begun:    time.Now(),
		deviceID: deviceID,
		slot:     o.Paths.slot(),
		live:     health.NewLive(),
		window:   health.NewWindow(),
		reloads:  make(chan reload),
		fatal:    make(chan error, 1),
	}, nil
}

// Run works until ctx ends, then stops everything in order. It returns early
// only for what an operator has to mend: a config that cannot be built, a base
// dir with too long a path for the health socket, or another agent on it.
func (a *Agent) Run(ctx context.Context) error {
	release, err := a.o.Paths.lock() // first: a start that is refused must leave no trace
	if err != nil {
		return err
	}
	defer release()
	gen, err := a.build(a.o.Config)
	if err != nil {
		return a.o.Paths.HintLastGood(err)
	}
	gen.first = true
	serving, err := a.newHealth()
	if err != nil {
		return err
	}
	if a.starts, err = recordStart(a.o.Paths.Runtime, a.o.Clock.State(), a.o.Clock.Now()); err != nil {
		a.log.Warn().Err(err).Msg("restarts are not counted")
	}
	a.setGeneration(gen)
	a.log.Info().Str("version", buildinfo.Version).Str("device_id", a.deviceID).
		Str("config_hash", gen.cfg.Source.Hash).Msg("agent started")

	a.outer.start(serving)
	defer a.outer.stop()
	gen.start()
	defer func() { a.generation().stop() }()
	var applying sync.WaitGroup
	defer applying.Wait()
	defer a.o.Notify(daemon.SdNotifyStopping)

	starting := time.NewTicker(20 * time.Millisecond)
	defer starting.Stop()
	reloads := (<-chan reload)(nil) // a.reloads when one may be taken: not before READY=1, and one at a time
	applied := make(chan struct{}, 1)
	watchdog := tickEvery(a.watchdogInterval())
	defer watchdog.Stop()
	status := time.NewTicker(10 * time.Second)
	defer status.Stop()
	for {
		select {
		case <-ctx.Done():
			a.log.Info().Msg("agent stopping")
			return nil
		case err := <-a.fatal:
			return err
		case <-starting.C:
			if a.healthServed() || time.Since(a.begun) > readyPatience {
				starting.Stop()
				a.o.Notify(daemon.SdNotifyReady)
				a.notifyStatus()
				reloads = a.reloads
			}
		case r := <-reloads:
			// Not here: the old parts may take long to stop, and the watchdog
			// has to be fed meanwhile.
			reloads = nil
			applying.Go(func() {
				r.done <- a.apply(ctx, r.content)
				applied <- struct{}{}
			})
		case <-applied:
			reloads = a.reloads
		case <-watchdog.C:
			a.feedWatchdog()
		case <-status.C:
			a.notifyStatus()
		}
	}
}

func (a *Agent) generation() *generation {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.gen
}

func (a *Agent) setGeneration(g *generation) {
	a.mu.Lock()
	a.gen = g
	a.mu.Unlock()
}

// fail ends the agent with err.
func (a *Agent) fail(err error) {
	select {
	case a.fatal <- err:
	default:
	}
}

// newHealth makes the server of /health and returns the part that runs it.
func (a *Agent) newHealth() (*part, error) {
	p := &part{name: "health", check: "agent"}
	srv, err := health.New(health.Options{
		Config:     a.o.Config.Health,
		BaseDir:    a.o.Paths.Base,
		SocketPath: a.o.Paths.Socket,
		Source:     a.facts,
		Live:       a.live,
		Window:     a.window,
		API:        a.api(),
		Reload:     a.ReloadContent,
		Log:        a.o.Log,
		Beat:       p.beat,
	})
	if err != nil {
		return nil, err
	}
	p.run = func(ctx context.Context, _ func()) error { return srv.Run(ctx) }
	a.server.Store(srv)
	return p, nil
}

// Document returns the /health document of now.
func (a *Agent) Document() wire.Health {
	if srv := a.server.Load(); srv != nil {
		return srv.Document()
	}
	return wire.Health{}
}

// healthServed reports whether /health can be asked.
func (a *Agent) healthServed() bool {
	srv := a.server.Load()
	if srv == nil {
		return false
	}
	select {
	case <-srv.Ready():
		return true
	default:
		return false
	}
}

// watchdogInterval is half of what the service manager tolerates, or 0.
func (a *Agent) watchdogInterval() time.Duration {
	d, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		a.log.Warn().Err(err).Msg("the service manager's watchdog is not fed")
	}
	return d / 2
}

// tickEvery returns a ticker, which never ticks when d is 0.
func tickEvery(d time.Duration) *time.Ticker {
	if d > 0 {
		return time.NewTicker(d)
	}
	t := time.NewTicker(time.Hour)
	t.Stop()
	return t
}

func (a *Agent) feedWatchdog() {
	if stalled := a.stalled(); len(stalled) > 0 {
		a.log.Error().Strs("parts", stalled).Msg("parts stand still, the watchdog is not fed")
		return
	}
	a.o.Notify(daemon.SdNotifyWatchdog)
}

func (a *Agent) notifyStatus() {
	d := a.Document()
	a.o.Notify(fmt.Sprintf("STATUS=%s; %d of %d sensors ok; %d readings queued",
		d.Status, d.Sensors.OK, d.Sensors.Configured, d.Cloud.QueueDepth))
}

// notifyReloading is what systemd wants to hear of a reload (Type=notify-reload).
func (a *Agent) notifyReloading() {
	a.o.Notify(fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, monotonicMicros()))
}
