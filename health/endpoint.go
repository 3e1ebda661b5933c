package health

import (
	"context"
	"log"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// endpoint is one of the two places where the Server is asked.
type endpoint struct {
	name   string // for people
	advice string // what to know or do when it cannot be served
	listen func(context.Context) (net.Listener, error)

	tried     chan struct{} // closed once it is served or failed
	triedOnce sync.Once

	mu    sync.Mutex
	addr  net.Addr // nil while it is not served
	fault string   // why not
}

// set notes the outcome of an attempt to serve e.
func (e *endpoint) set(addr net.Addr, fault string) {
	e.mu.Lock()
	e.addr, e.fault = addr, fault
	e.mu.Unlock()
	e.triedOnce.Do(func() { close(e.tried) })
}

// state returns the address that is served, or why none is; neither when e is
// turned off.
func (e *endpoint) state() (addr net.Addr, fault string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.addr, e.fault
}

// offer serves e until ctx ends, and returns with its connections closed.
func (s *Server) offer(ctx context.Context, e *endpoint, connections int) {
	server := &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: s.limits.header,
		ReadTimeout:       s.limits.read,
		WriteTimeout:      s.limits.write,
		IdleTimeout:       s.limits.idle,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          log.New(debugWriter{s.o.Log}, "", 0),
	}
	var serving sync.WaitGroup
	defer serving.Wait()
	serving.Go(func() { s.serve(ctx, server, e, connections) })
	<-ctx.Done()
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.limits.drain)
	defer cancel()
	if server.Shutdown(drain) != nil {
		server.Close()
	}
}

// serve serves e, for so many connections at a time, until ctx ends, and tries
// again for as long as that fails.
func (s *Server) serve(ctx context.Context, server *http.Server, e *endpoint, connections int) {
	defer e.set(nil, "")
	logged := "" // what was logged last: a port that stays taken is one line
	for wait := s.limits.retryMin; ; wait = min(2*wait, s.limits.retryMax) {
		ln, err := e.listen(ctx)
		if err == nil {
			s.o.Log.Info().Str("address", ln.Addr().String()).Msg(e.name + " opened")
			e.set(ln.Addr(), "")
			wait, logged = s.limits.retryMin, ""
			err = server.Serve(newCapped(ln, connections))
		}
		if ctx.Err() != nil {
			return
		}
		fault := err.Error() + "; " + e.advice
		e.set(nil, fault)
		if fault != logged {
			logged = fault
			s.o.Log.Warn().Err(err).Msg(e.name + " not opened, will be retried")
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// debugWriter logs what net/http complains of: broken clients mostly, who must
// not be able to fill a log.
type debugWriter struct{ log zerolog.Logger }

func (w debugWriter) Write(p []byte) (int, error) {
	w.log.Debug().Str("error", string(p)).Msg("health connection failed")
	return len(p), nil
}
