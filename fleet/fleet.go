// Package fleet is the controller: the operator's side of Pyvorin Edge.
//
// The Server ties its parts together: the endpoint that devices deliver their
// readings to (fleet/ingest), the API keys (fleet/apikey), the HTTP API under
// /api/v1 and a page for people. Everything it knows is in one SQLite database;
// nothing in memory is missed after a kill -9 or a power loss, and what it
// acknowledged to a device is on disk.
//
// Files: the database, and the API key file, which is created with a random
// key when absent.
//
// Access: devices post with an API key. People and programs read with a key
// too (as bearer token, or as the password a browser asks for), or without one
// from the same machine. /livez and /healthz are for everyone.
package fleet

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	stdlog "log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/pyvorin/pyvorin-edge/fleet/apikey"
	"github.com/pyvorin/pyvorin-edge/fleet/ingest"
)

const (
	ingestPath       = "/v1/ingest"
	headerTimeout    = 10 * time.Second
	requestTimeout   = 2 * time.Minute // for a whole request; ingest has a shorter limit for bodies
	idleTimeout      = 2 * time.Minute
	maxHeaderBytes   = 32 << 10
	shutdownDeadline = 10 * time.Second
)

// Options are what a Server is made from.
type Options struct {
	Listen    string        // host:port, of which the host may be empty for all interfaces
	Database  string        // path of the SQLite file
	KeyFile   string        // path of the API keys
	Retention time.Duration // of readings, since receipt; 0 means ingest.DefaultRetention
	TLSCert   string        // path of a PEM certificate chain; plain HTTP when it and TLSKey are ""
	TLSKey    string        // path of its PEM key
	Limits    ingest.Limits
	Log       zerolog.Logger
	Reload    <-chan os.Signal // each makes the server read its key file again; may be nil
	Ready     func(Running)    // called once requests are answered; may be nil
}

// Running tells where a running Server is to be found.
type Running struct {
	URL        string // of the page, with a / at its end
	IngestURL  string
	Database   string // absolute path
	KeyFile    string // absolute path
	KeyCreated bool   // the key file was not there before
}

// Server is one controller.
type Server struct {
	o      Options
	log    zerolog.Logger
	store  *ingest.Store
	keys   *apikey.Keys
	ingest *ingest.Handler
	now    func() time.Time
}

// New checks the options.
func New(o Options) (*Server, error) {
	if _, _, err := net.SplitHostPort(o.Listen); err != nil {
		return nil, fmt.Errorf("the address to listen on must be host:port, such as :8090: %w", err)
	}
	switch {
	case o.Database == "" || o.KeyFile == "":
		return nil, errors.New("the database and the API key file must be named")
	case o.Retention < 0:
		return nil, errors.New("the retention must not be negative")
	case (o.TLSCert == "") != (o.TLSKey == ""):
		return nil, errors.New("TLS needs both a certificate and its key")
	}
	o.Retention = cmp.Or(o.Retention, ingest.DefaultRetention)
	return &Server{o: o, log: o.Log, now: time.Now}, nil
}

// Run serves until ctx ends, then lets requests under way finish for a while
// and returns nil. Call it once.
func (s *Server) Run(ctx context.Context) (err error) {
	running, listener, err := s.open()
	if listener != nil {
		defer listener.Close()
	}
	if s.store != nil {
		defer func() { err = errors.Join(err, s.store.Close()) }()
	}
	if err != nil {
		return err
	}
	s.ingest = ingest.NewHandler(s.store, s.keys, s.o.Limits, s.log)
	server := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      requestTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          stdlog.New(s.log.With().Str("component", "http").Logger(), "", 0),
	}

	// The store outlives the requests that write to it.
	storeCtx, stopStore := context.WithCancel(context.WithoutCancel(ctx))
	defer stopStore()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.store.Run(storeCtx) })
	group.Go(func() error {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve: %w", err)
		}
		return nil
	})
	group.Go(func() error {
		defer stopStore()
		s.reloadUntil(ctx)
		deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownDeadline)
		defer cancel()
		if err := server.Shutdown(deadline); err != nil {
			s.log.Warn().Err(err).Msg("requests cut off after the shutdown deadline")
			return server.Close()
		}
		return nil
	})
	s.log.Info().Str("url", running.URL).Str("database", running.Database).Bool("tls", s.o.TLSCert != "").Msg("controller started")
	if s.o.Ready != nil {
		s.o.Ready(running)
	}
	err = group.Wait()
	s.log.Info().Msg("controller stopped")
	return err
}

// reloadUntil reads the keys again whenever asked, until ctx ends.
func (s *Server) reloadUntil(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.o.Reload:
			if err := s.keys.Reload(); err != nil {
				s.log.Error().Err(err).Msg("API keys not read again, the old ones stay in force")
			}
		}
	}
}

// open takes the port first, so that a second controller fails before it
// touches a file.
func (s *Server) open() (running Running, listener net.Listener, err error) {
	var config *tls.Config
	if s.o.TLSCert != "" {
		cert, err := tls.LoadX509KeyPair(s.o.TLSCert, s.o.TLSKey)
		if err != nil {
			return running, nil, fmt.Errorf("load the TLS certificate: %w", err)
		}
		config = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	}
	listener, err = net.Listen("tcp", s.o.Listen)
	if errors.Is(err, syscall.EADDRINUSE) {
		return running, nil, fmt.Errorf("port in use: something else listens on %s: stop it, or choose another address with --listen", s.o.Listen)
	}
	if err != nil {
		return running, nil, fmt.Errorf("listen on %s: %w: choose another address with --listen", s.o.Listen, err)
	}
	running.URL = baseURL(listener.Addr(), config != nil)
	running.IngestURL = running.URL + ingestPath[1:]
	if config != nil {
		listener = tls.NewListener(listener, config)
	}
	if running.Database, err = place(s.o.Database); err != nil {
		return running, listener, err
	}
	if running.KeyFile, err = place(s.o.KeyFile); err != nil {
		return running, listener, err
	}
	if s.keys, running.KeyCreated, err = apikey.Open(running.KeyFile, s.log.With().Str("component", "apikey").Logger()); err != nil {
		return running, listener, writable(err)
	}
	if s.store, err = ingest.OpenStore(running.Database, ingest.StoreOptions{Retention: s.o.Retention, Log: s.log}); err != nil {
		return running, listener, writable(err)
	}
	return running, listener, nil
}

// place makes path absolute and its folder exist.
func place(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	}
	if err != nil {
		return "", fmt.Errorf("prepare the data folder: %w: choose another with --data, or make this one", err)
	}
	return path, nil
}

// writable adds to an error about a file what to do about it.
func writable(err error) error {
	if errors.Is(err, os.ErrPermission) || errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("%w: choose a folder that this user can write with --data, or change its owner", err)
	}
	return err
}

// baseURL returns the URL by which this machine reaches addr.
func baseURL(addr net.Addr, secure bool) string {
	scheme, host := "http", "localhost"
	if secure {
		scheme = "https"
	}
	tcp := addr.(*net.TCPAddr)
	if !tcp.IP.IsUnspecified() && !tcp.IP.IsLoopback() {
		host = tcp.IP.String()
	} else if tcp.IP.IsLoopback() && !tcp.IP.Equal(net.IPv4(127, 0, 0, 1)) {
		host = tcp.IP.String()
	}
	return fmt.Sprintf("%s://%s/", scheme, net.JoinHostPort(host, fmt.Sprint(tcp.Port)))
}
