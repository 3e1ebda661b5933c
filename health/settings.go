package health

import (
	"context"
	"reflect"
	"slices"
	"sync"

	"github.com/pyvorin/pyvorin-edge/config"
)

// settings are the config that holds now and the probes made of it. They are
// replaced as a whole and never changed.
type settings struct {
	config config.Health
	probes []*probe
}

// SetConfig goes on with c: its token and thresholds hold from the next request
// on. Nobody is disconnected, unless c differs in what is listened on, and a
// probe that c leaves as it is keeps what it found out. It must not be called
// concurrently with itself.
func (s *Server) SetConfig(c config.Health) error {
	probes, err := newProbes(c.Probes, s.o.Window)
	if err != nil {
		return err
	}
	for i, p := range probes {
		for _, known := range s.settings.Load().probes {
			if reflect.DeepEqual(known.config, p.config) {
				probes[i] = known
			}
		}
	}
	s.settings.Store(&settings{c, probes})
	select {
	case s.changed <- struct{}{}:
	default:
	}
	return nil
}

// follow listens on the network and probes as the settings say, whatever they
// become, until ctx ends.
func (s *Server) follow(ctx context.Context) {
	var probing sync.WaitGroup
	defer probing.Wait()
	stops := map[*probe]context.CancelFunc{}
	network := s.listen(ctx)
	for {
		now := s.settings.Load()
		if !network.suits(now.config) {
			network.stop()
			network = s.listen(ctx)
		}
		for p, stop := range stops {
			if !slices.Contains(now.probes, p) {
				stop()
				delete(stops, p)
			}
		}
		for _, p := range now.probes {
			if stops[p] == nil {
				inner, stop := context.WithCancel(ctx)
				stops[p] = stop
				probing.Go(func() { p.run(inner) })
			}
		}
		select {
		case <-ctx.Done():
			network.stop()
			for _, stop := range stops {
				stop()
			}
			return
		case <-s.changed:
		}
	}
}

// listening is the network endpoint as one config asks for it.
type listening struct {
	config config.Health
	stop   func() // returns with everything closed
}

// listen begins to serve the network as the settings say.
func (s *Server) listen(ctx context.Context) listening {
	c := s.settings.Load().config
	if !c.Enabled {
		s.network.set(nil, "")
		return listening{c, func() {}}
	}
	ctx, cancel := context.WithCancel(ctx)
	var serving sync.WaitGroup
	serving.Go(func() { s.offer(ctx, &s.network, s.limits.tcpConns) })
	return listening{c, func() {
		cancel()
		serving.Wait()
	}}
}

// suits reports whether c asks for the same.
func (l listening) suits(c config.Health) bool {
	return l.config.Enabled == c.Enabled && (!c.Enabled || l.config.Address == c.Address && l.config.Port == c.Port)
}
