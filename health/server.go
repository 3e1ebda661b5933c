package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// Options are what a Server needs.
type Options struct {
	Config     config.Health // to begin with, see SetConfig
	BaseDir    string        // its file system is measured
	SocketPath string        // at most 107 bytes
	Log        zerolog.Logger

	// Source returns what the agent knows now. It is called for each request,
	// from many goroutines: it must be cheap and do no I/O.
	Source func() Facts

	Live   *Live   // nil is an empty one
	Window *Window // nil is an empty one

	// API serves what is below /api/; nil is nothing. Requests arrive with
	// their whole path, already allowed to do what they ask; GET must change
	// nothing, for a foreign page can make a browser here send one.
	API http.Handler

	// Reload applies a config sent to POST /config/reload; name is its file name,
	// or "" when the sender gave none and did not call it JSON.
	// A *config.Error tells the sender what is wrong with it; nil means applied.
	// It must not wait for this Server to stop. Nil turns the path off.
	Reload func(ctx context.Context, name string, body []byte) error

	// Beat is called about every five seconds while the Server's own loop
	// turns. It may be nil.
	Beat func()
}

// limits bound what clients can hold, and for how long.
type limits struct {
	header, read, write, idle, drain time.Duration
	figures                          time.Duration // for the first figures, before anything is served
	tcpConns, socketConns            int
	retryMin, retryMax               time.Duration // between attempts to listen
}

// The socket has its own connections, so that nobody on the network can keep
// the watchdog from asking.
var defaultLimits = limits{
	header: 5 * time.Second, read: 15 * time.Second, write: 30 * time.Second, idle: 15 * time.Second, drain: 2 * time.Second,
	figures:  3 * time.Second,
	tcpConns: 64, socketConns: 16,
	retryMin: time.Second, retryMax: 30 * time.Second,
}

// Server answers for the health of the device.
type Server struct {
	o       Options
	limits  limits
	machine *machine
	handler http.Handler
	denied  atomic.Uint64 // requests refused for want of a right

	settings atomic.Pointer[settings]
	changed  chan struct{} // capacity 1: the settings are others

	socket, network endpoint

	ready     chan struct{}
	readyOnce sync.Once
}

// New checks o and returns a Server that does nothing yet.
func New(o Options) (*Server, error) {
	if o.Source == nil {
		return nil, errors.New("internal error: health without a source")
	}
	if o.SocketPath == "" || len(o.SocketPath) > maxSocketPath {
		return nil, fmt.Errorf("the path of the health socket has %d bytes, but a socket's may have 1 to %d: %q; choose a shorter base dir", len(o.SocketPath), maxSocketPath, o.SocketPath)
	}
	if o.Live == nil {
		o.Live = NewLive()
	}
	if o.Window == nil {
		o.Window = NewWindow()
	}
	if o.Beat == nil {
		o.Beat = func() {}
	}
	o.Log = o.Log.With().Str("component", "health").Logger()
	probes, err := newProbes(o.Config.Probes, o.Window)
	if err != nil {
		return nil, err
	}
	machine, err := newMachine("/", o.BaseDir)
	if err != nil {
		return nil, err
	}
	s := &Server{o: o, limits: defaultLimits, machine: machine, changed: make(chan struct{}, 1), ready: make(chan struct{})}
	s.settings.Store(&settings{o.Config, probes})
	s.socket = endpoint{
		name: "health socket", advice: "until then `pyvorin-edge status` and the watchdog cannot ask",
		tried:  make(chan struct{}),
		listen: func(context.Context) (net.Listener, error) { return listenUnix(o.SocketPath) },
	}
	s.network = endpoint{
		name: "health endpoint", advice: "free the port or set health.port",
		tried: make(chan struct{}),
		listen: func(ctx context.Context) (net.Listener, error) {
			var lc net.ListenConfig
			c := s.settings.Load().config
			return lc.Listen(ctx, "tcp", net.JoinHostPort(c.Address, strconv.Itoa(c.Port)))
		},
	}
	s.handler = s.routes()
	return s, nil
}

// Run serves until ctx ends, and returns with everything closed. A socket or
// host:port that cannot be served is retried, and a warning in /health says so
// on the other. Run may be called again.
func (s *Server) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	sampled := make(chan struct{})
	running.Go(func() {
		s.machine.first(ctx)
		close(sampled)
		s.sample(ctx)
	})
	select {
	case <-sampled:
	case <-time.After(s.limits.figures): // a disk that hangs is worth answering for
	}
	running.Go(func() { s.offer(ctx, &s.socket, s.limits.socketConns) })
	running.Go(func() { s.follow(ctx) })
	<-s.socket.tried
	<-s.network.tried
	s.readyOnce.Do(func() { close(s.ready) })
	<-ctx.Done()
	return nil
}

// sample keeps the machine's figures fresh.
func (s *Server) sample(ctx context.Context) {
	ticker := time.NewTicker(sampleInterval)
	defer ticker.Stop()
	for {
		s.o.Beat()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			s.machine.sample(ctx)
		}
	}
}

// Ready returns a channel that is closed once the first figures are known, or
// too slow to come, and the unix socket and host:port are each served or failed once.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Addr returns the address served on the network, or nil when there is none.
func (s *Server) Addr() net.Addr {
	addr, _ := s.network.state()
	return addr
}

// Document returns the verdict now. It reads memory only.
func (s *Server) Document() wire.Health { return s.evaluate(s.facts()) }

// facts returns what the agent knows and what the Server knows of itself.
func (s *Server) facts() Facts {
	f := s.o.Source()
	f.BaseDir = s.o.BaseDir
	f.Faults = slices.Clip(f.Faults) // the source's own
	for _, e := range []*endpoint{&s.socket, &s.network} {
		if _, fault := e.state(); fault != "" {
			f.Faults = append(f.Faults, Fault{Check: checkAgent, Component: e.name, Reason: fault})
		}
	}
	return f
}

func (s *Server) evaluate(f Facts) wire.Health {
	m := s.machine.metrics()
	rate, p95 := s.o.Window.Stats()
	m.ErrorRatePercent = round1(rate)
	m.LatencyP95Ms = round1(float64(p95.Microseconds()) / 1000)
	now := s.settings.Load()
	results := make([]ProbeResult, len(now.probes))
	for i, p := range now.probes {
		results[i] = p.latest()
	}
	return Evaluate(f, m, results, now.config.Thresholds, time.Now())
}
