package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/pyvorin/pyvorin-edge/internal/human"
	"github.com/pyvorin/pyvorin-edge/internal/pemfile"
	"github.com/pyvorin/pyvorin-edge/sensors/internal/neterr"
)

const (
	connectTimeout = 10 * time.Second
	keepAlive      = 30 * time.Second
	reconnectMin   = time.Second
	reconnectMax   = time.Minute

	// goodbye is how long the parting message to the broker may take.
	goodbye = 500 * time.Millisecond

	// refused is set in the answer for a filter that the broker does not grant.
	refused = 0x80
)

var errNotConnected = errors.New("stopped before it was connected")

// Run holds a connection to the broker until ctx ends. Each one is made from
// scratch, with a new client: after a loss there is nothing left over that
// could be out of step with the broker, subscriptions least of all. The wait
// before the next one is random, so that a broker that comes back is not run
// over by all of its clients at once.
func (s *sensor) Run(ctx context.Context, wake func()) error {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval, wait.Multiplier = reconnectMin, reconnectMax, 2
	for {
		began := time.Now()
		err := s.session(ctx, wake)
		if ctx.Err() != nil {
			if err != nil {
				s.setLink(errNotConnected)
			}
			return nil
		}
		s.setLink(err)
		// A connection that breaks at once, time after time, is no reason to hurry.
		if time.Since(began) > reconnectMax {
			wait.Reset()
		}
		pause := time.NewTimer(wait.NextBackOff())
		select {
		case <-ctx.Done():
			pause.Stop()
			return nil
		case <-pause.C:
		}
	}
}

// session connects, subscribes and blocks until ctx ends or the connection is
// lost.
func (s *sensor) session(ctx context.Context, wake func()) error {
	lost := make(chan error, 1)
	link := &opening{sensor: s}
	options, err := s.clientOptions()
	if err != nil {
		return err
	}
	options.SetConnectionLostHandler(func(_ paho.Client, err error) { lost <- err })
	options.SetDefaultPublishHandler(func(_ paho.Client, m paho.Message) {
		if samples := s.decoder.decode(m.Topic(), m.Payload(), m.Retained(), time.Now()); len(samples) > 0 {
			s.arrived.Add(samples...)
			wake()
		}
	})

	connecting, done := context.WithTimeout(ctx, connectTimeout)
	defer done()
	options.SetCustomOpenConnectionFn(func(*url.URL, paho.ClientOptions) (net.Conn, error) {
		return link.open(connecting, options.TLSConfig)
	})
	client := paho.NewClient(options)
	token := client.Connect()
	<-token.Done() // the connection is closed when connecting ends
	if err := token.Error(); err != nil {
		return link.explain(err)
	}
	link.stop()
	defer func() {
		client.Disconnect(uint(goodbye.Milliseconds()))
		link.conn.Close()
	}()

	if err := s.subscribe(ctx, client, lost); err != nil {
		return err
	}
	s.setLink(nil)
	s.log.Info().Str("broker", s.where).Msg("broker connected")
	select {
	case <-ctx.Done():
		return nil
	case err := <-lost:
		return fmt.Errorf("connection lost: %w", neterr.Steady(err))
	}
}

func (s *sensor) subscribe(ctx context.Context, client paho.Client, lost <-chan error) error {
	filters := make(map[string]byte, len(s.o.Topics))
	for _, filter := range s.o.Topics {
		filters[filter] = byte(s.o.QoS)
	}
	// Without a handler of their own, all messages go to the default one: one
	// that two filters match is handled once.
	token := client.SubscribeMultiple(filters, nil)
	timeout := time.NewTimer(connectTimeout)
	defer timeout.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-lost:
		return fmt.Errorf("connection lost while subscribing: %w", neterr.Steady(err))
	case <-timeout.C:
		return errors.New("no answer to the subscription")
	case <-token.Done():
	}
	if err := token.Error(); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	for filter, answer := range token.(*paho.SubscribeToken).Result() {
		if answer&refused != 0 {
			return fmt.Errorf("the broker refused the subscription to %s; check what this user may read", filter)
		}
	}
	return nil
}

// clientOptions reads the files again each time, so that a renewed password or
// certificate needs no restart.
func (s *sensor) clientOptions() (*paho.ClientOptions, error) {
	o := paho.NewClientOptions().
		AddBroker(s.broker.String()).
		SetClientID(s.clientID).
		SetCleanSession(true).
		SetProtocolVersion(4). // 3.1.1; no falling back to 3.1
		SetAutoReconnect(false).
		SetConnectRetry(false).
		SetConnectTimeout(connectTimeout).
		SetKeepAlive(keepAlive).
		SetPingTimeout(connectTimeout).
		SetWriteTimeout(connectTimeout).
		SetStore(noStore{}).
		// In order, so that readings keep the order of their messages. It also
		// bounds the work: unordered, the library starts a goroutine for each
		// message. The handler neither blocks nor calls the client, so the
		// deadlocks that this setting is known for cannot happen.
		SetOrderMatters(true)
	if s.o.Username != "" {
		password := s.o.Password
		if s.o.PasswordFile != "" {
			data, err := os.ReadFile(s.o.PasswordFile)
			if err != nil {
				return nil, fmt.Errorf("password_file: %w", err)
			}
			password = strings.TrimRight(string(data), "\r\n")
		}
		o.SetUsername(s.o.Username).SetPassword(password)
	}
	if s.secure {
		c, err := s.tlsConfig()
		if err != nil {
			return nil, err
		}
		o.SetTLSConfig(c)
	} else {
		o.TLSConfig = nil
	}
	return o, nil
}

func (s *sensor) tlsConfig() (*tls.Config, error) {
	authorities, err := pemfile.Authorities(s.o.CAFile)
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: s.broker.Hostname(), RootCAs: authorities}
	if s.o.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(s.o.CertFile, s.o.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("cert_file and key_file: %w", err)
		}
		c.Certificates = []tls.Certificate{cert}
	}
	return c, nil
}

// opening is a connection in the making. Its fields are written by the
// library's goroutine before the connect token is done, and read after.
type opening struct {
	sensor *sensor
	conn   net.Conn
	err    error       // why there is no conn, before the library wrapped it
	stop   func() bool // keeps the end of connecting from closing conn
}

func (l *opening) open(ctx context.Context, tlsConfig *tls.Config) (net.Conn, error) {
	conn, err := dial(ctx, l.sensor.broker, tlsConfig)
	if err != nil {
		l.err = err
		return nil, err
	}
	l.conn = &boundedConn{Conn: conn, limit: l.sensor.o.MaxMessageBytes}
	l.stop = context.AfterFunc(ctx, func() { conn.Close() })
	return l.conn, nil
}

// explain says in plain words why Connect failed.
func (l *opening) explain(err error) error {
	var timeout net.Error
	switch {
	case l.err != nil && errors.As(l.err, &timeout) && timeout.Timeout():
		return fmt.Errorf("cannot connect within %s", human.Exact(connectTimeout))
	case l.err != nil:
		return fmt.Errorf("cannot connect: %w", neterr.Steady(l.err))
	}
	return fmt.Errorf("the broker did not accept the connection: %w", neterr.Steady(err))
}
