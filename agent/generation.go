package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/health"
	"github.com/pyvorin/pyvorin-edge/internal/buildinfo"
	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/ota/update"
	"github.com/pyvorin/pyvorin-edge/privacy"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/syncqueue"
	"github.com/pyvorin/pyvorin-edge/syncqueue/uplink"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// openPatience is how long a queue file may ordinarily take to open and check.
const openPatience = 5 * time.Second

// generation is the set of parts built from one config.
type generation struct {
	a        *Agent
	cfg      *config.Config
	filter   *privacy.Filter
	keyFault string // why there is no privacy key
	first    bool   // the one that the agent started with
	before   totals // of the generations before
	pipeline *pipeline
	poller   atomic.Pointer[sensors.Poller]
	queue    atomic.Pointer[syncqueue.Queue]
	noQueue  atomic.Pointer[time.Time] // since when there is none; nil before the start
	uplink   atomic.Pointer[uplink.Uplink]
	updater  atomic.Pointer[update.Updater]
	group    group

	updatesBefore wire.OTAHealth // how updates stood when it was built
}

// build makes the parts of cfg and starts none.
func (a *Agent) build(cfg *config.Config) (*generation, error) {
	key, err := privacy.EnsureKey(cmp.Or(cfg.Privacy.KeyFile, a.o.Paths.PrivacyKey))
	g, buildErr := a.assemble(cfg, key)
	if buildErr != nil {
		return nil, buildErr
	}
	g.updatesBefore = ota.Health(a.layout(), buildinfo.Version)
	if err != nil {
		// Rules that need the key drop what they cover; the rest goes on.
		g.keyFault = err.Error()
	}
	return g, nil
}

// assemble is build without any I/O. Everything that only the parts themselves
// can find wrong in a config is found here, all of it at once (*config.Error).
func (a *Agent) assemble(cfg *config.Config, key []byte) (*generation, error) {
	g := &generation{a: a, cfg: cfg}
	g.group.log = a.log
	var badPrivacy, badCloud, badUpdates error
	g.filter, badPrivacy = privacy.New(cfg.Privacy, privacy.Options{Key: key, Log: a.part("privacy")})
	g.pipeline = newPipeline(g.filter, g.enqueue, a.live.Add, cfg.Sensors.BufferReadings, a.part("pipeline"))
	_, badSensors := g.newPoller(nil)
	if cfg.Cloud.Enabled {
		var unopened *syncqueue.Queue // New only checks, and calls nothing
		if _, err := g.newUplink(unopened, nil); err != nil {
			badCloud = config.Under("cloud", err)
		}
	}
	if _, err := g.updateOptions(); err != nil {
		badUpdates = config.Under("ota", err)
	}
	if err := config.Join(badSensors, badCloud, badPrivacy, badUpdates); err != nil {
		return nil, err
	}
	return g, nil
}

// CheckConfig finds what only the parts can see and a start would refuse:
// sensors, rules and endpoints whose settings do not go together
// (*config.Error). It is made for config.Options.Check and does no I/O.
func CheckConfig(cfg *config.Config, types []sensors.Type) error {
	a := &Agent{
		o:        Options{Types: types, Log: zerolog.Nop()},
		deviceID: "check",
		live:     health.NewLive(),
		window:   health.NewWindow(),
	}
	_, err := a.assemble(cfg, nil)
	return err
}

// part returns the logger of a part.
func (a *Agent) part(name string) zerolog.Logger {
	return a.o.Log.With().Str("component", name).Logger()
}

// start starts the parts, the receiving end first.
func (g *generation) start() {
	if g.keyFault != "" {
		g.a.log.Error().Str("reason", g.keyFault).Msg("no privacy key: readings that a hash rule covers are dropped")
	}
	for _, w := range g.cfg.Source.Warnings {
		g.a.log.Warn().Str("warning", w).Msg("config taken with a warning")
	}
	g.setQueue(nil)
	g.group.start(&part{name: "queue", check: "queue", run: g.runQueue})
	if g.cfg.Cloud.Enabled {
		g.group.start(&part{name: "uplink", check: "cloud", run: g.runUplink, stopTimeout: config.Seconds(g.cfg.Cloud.ShutdownTimeoutSeconds)})
	}
	g.group.start(&part{name: "pipeline", check: "queue", run: g.runPipeline, stopTimeout: flushPatience})
	g.group.start(&part{name: "poller", check: "sensors", run: g.runPoller})
	g.group.start(&part{name: "updater", check: "agent", run: g.runUpdater})
}

// stop ends the parts in reverse. What they hand on now must not wait for
// cloud.commit_interval_seconds.
func (g *generation) stop() {
	if q := g.queue.Load(); q != nil {
		ctx, cancel := context.WithTimeout(context.Background(), flushPatience)
		defer cancel()
		if err := q.Hurry(ctx); err != nil {
			g.a.log.Warn().Err(err).Msg("queue not hurried")
		}
	}
	g.group.stop()
}

func (g *generation) runPoller(ctx context.Context, beat func()) error {
	p, err := g.newPoller(beat)
	if err != nil {
		return err
	}
	g.poller.Store(p)
	return p.Run(ctx)
}

func (g *generation) newPoller(beat func()) (*sensors.Poller, error) {
	return sensors.NewPoller(sensors.Options{
		Defaults: g.cfg.Sensors,
		Types:    g.a.o.Types,
		Env:      sensors.Env{Log: g.a.part("sensors"), DeviceID: g.a.deviceID, SysRoot: "/"},
		Sink:     g.pipeline.accept,
		Observe:  g.a.window.Observe,
		Beat:     beat,
	})
}

// runQueue keeps the queue open until ctx ends.
func (g *generation) runQueue(ctx context.Context, beat func()) error {
	c := g.cfg.Cloud
	q, err := syncqueue.Open(ctx, syncqueue.Options{
		Path:           g.a.o.Paths.Queue,
		DeviceID:       g.a.deviceID,
		Encoding:       encodings[c.Compression],
		BatchSize:      c.BatchSize,
		Linger:         config.Seconds(c.CommitIntervalSeconds),
		MaxBytes:       c.MaxQueueBytes,
		MaxAge:         config.Seconds(c.MaxAgeSeconds),
		MaxDeadLetters: c.MaxDeadLetters,
		Clock:          g.a.o.Clock,
		Beat:           beat,
		Log:            g.a.o.Log,
	})
	if errors.Is(err, syncqueue.ErrLocked) && g.first { // later it is our own, slow to close
		g.a.fail(err)
		<-ctx.Done()
		return nil
	}
	if err != nil {
		return err
	}
	g.setQueue(q)
	<-ctx.Done()
	g.setQueue(nil)
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopPatience)
	defer cancel()
	return q.Close(closing)
}

func (g *generation) setQueue(q *syncqueue.Queue) {
	if q == nil {
		now := time.Now()
		g.noQueue.Store(&now)
	}
	g.queue.Store(q)
}

// encodings maps cloud.compression, which config has checked.
var encodings = map[string]syncqueue.Encoding{"none": syncqueue.Plain, "gzip": syncqueue.Gzip, "zstd": syncqueue.Zstd}

var errQueueClosed = errors.New("the queue is not open")

func (g *generation) enqueue(ctx context.Context, readings []privacy.Cleared) error {
	q := g.queue.Load()
	if q == nil {
		return errQueueClosed
	}
	return q.Enqueue(ctx, readings)
}

// awaitQueue waits until the queue is open; it returns nil when ctx or the
// limit ended first.
func (g *generation) awaitQueue(ctx context.Context, beat func(), limit time.Duration) *syncqueue.Queue {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if q := g.queue.Load(); q != nil {
			return q
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			beat()
		}
	}
}

// runPipeline gives the queue a moment to open, so that an ordinary start does
// not begin with refused readings.
func (g *generation) runPipeline(ctx context.Context, beat func()) error {
	g.awaitQueue(ctx, beat, openPatience)
	return g.pipeline.run(ctx, beat)
}

// runUplink waits for the queue and delivers from it until ctx ends.
func (g *generation) runUplink(ctx context.Context, beat func()) error {
	var q *syncqueue.Queue
	for q == nil {
		if ctx.Err() != nil {
			return nil
		}
		q = g.awaitQueue(ctx, beat, openPatience)
	}
	u, err := g.newUplink(q, beat)
	if err != nil {
		return err
	}
	g.uplink.Store(u)
	return u.Run(ctx)
}

func (g *generation) newUplink(q uplink.Queue, beat func()) (*uplink.Uplink, error) {
	c := g.cfg.Cloud
	return uplink.New(uplink.Options{
		Queue:             q,
		DeviceID:          g.a.deviceID,
		Endpoint:          c.Endpoint,
		APIKey:            g.apiKey,
		Format:            c.Format,
		BatchSize:         c.BatchSize,
		FlushInterval:     config.Seconds(c.FlushIntervalSeconds),
		RequestTimeout:    config.Seconds(c.RequestTimeoutSeconds),
		RetryMin:          config.Seconds(c.RetryMinSeconds),
		RetryMax:          config.Seconds(c.RetryMaxSeconds),
		ShutdownTimeout:   config.Seconds(c.ShutdownTimeoutSeconds),
		MaxBandwidthBytes: c.MaxBandwidthBytes,
		CAFile:            c.CAFile,
		CertFile:          c.CertFile,
		KeyFile:           c.KeyFile,
		Observe:           g.a.window.Observe,
		Beat:              beat,
		Log:               g.a.o.Log,
	})
}

// flush delivers what is queued now.
func (g *generation) flush(ctx context.Context) error {
	u := g.uplink.Load()
	if u == nil {
		return errors.New("nothing delivers: cloud.enabled is false, or the queue is not open yet")
	}
	return u.Flush(ctx)
}

// apiKey returns the key to send; a key file is read again each time, so that
// a rotated key needs no restart.
func (g *generation) apiKey() (string, error) {
	if g.cfg.Cloud.APIKeyFile == "" {
		return g.cfg.Cloud.APIKey, nil
	}
	data, err := os.ReadFile(g.cfg.Cloud.APIKeyFile)
	if err != nil {
		return "", fmt.Errorf("read cloud.api_key_file: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}
