package command

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"sync"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/pyvorin/pyvorin-edge/internal/mqttconn"
	"github.com/pyvorin/pyvorin-edge/internal/pemfile"
	"github.com/pyvorin/pyvorin-edge/trust"
	"github.com/pyvorin/pyvorin-edge/wire"
)

const (
	connectTimeout = 15 * time.Second
	keepAlive      = 30 * time.Second

	// goodbye is how long the parting messages to the broker may take, each.
	goodbye = 500 * time.Millisecond

	// refused is set in the answer for a filter that the broker does not grant.
	refusedFilter = 0x80

	// maxPacketBytes is an envelope of full size, its topic and packet number.
	maxPacketBytes = trust.MaxEnvelopeBytes + 1024
)

// connect holds a connection to the broker until ctx ends, each made from
// scratch: after a loss nothing is left over that could be out of step with the
// broker.
func (l *Listener) connect(ctx context.Context) {
	for ctx.Err() == nil {
		err := l.session(ctx)
		if ctx.Err() != nil {
			return
		}
		if l.setLink(false, 0, err) {
			l.log.Warn().Err(err).Str("broker", l.where).Msg("broker not connected")
		}
		pause := time.NewTimer(pauseIn(l.o.ReconnectWindow))
		select {
		case <-ctx.Done():
			pause.Stop()
		case <-pause.C:
		}
	}
}

// pauseIn is a random part of the window. It never grows: a broker that was away
// for hours has its fleet back, spread over the window, once it can be reached.
func pauseIn(window time.Duration) time.Duration {
	least := window / 16
	return least + rand.N(window-least+1)
}

// session connects, subscribes, and blocks until ctx ends or the connection is
// lost.
func (l *Listener) session(ctx context.Context) error {
	epoch := l.ledger.NextEpoch()
	options, err := l.clientOptions(epoch)
	if err != nil {
		return err
	}
	lost := make(chan error, 1)
	options.SetConnectionLostHandler(func(_ paho.Client, err error) { lost <- err })
	options.SetDefaultPublishHandler(func(_ paho.Client, m paho.Message) { l.heard(m) })

	opening := &opening{listener: l}
	connecting, done := context.WithTimeout(ctx, connectTimeout)
	defer done()
	options.SetCustomOpenConnectionFn(func(*url.URL, paho.ClientOptions) (net.Conn, error) {
		return opening.open(connecting, options.TLSConfig)
	})
	client := paho.NewClient(options)
	token := client.Connect()
	<-token.Done() // the connection is closed when connecting ends
	if err := token.Error(); err != nil {
		return opening.explain(err)
	}
	opening.stop()
	defer opening.conn.Close()
	defer client.Disconnect(uint(goodbye.Milliseconds()))

	if err := l.subscribe(ctx, client, lost); err != nil {
		return err
	}
	l.publishPresence(client, epoch, true)
	l.setLink(true, epoch, nil)
	l.log.Info().Str("broker", l.where).Uint64("epoch", epoch).Msg("broker connected")

	working, stop := context.WithCancel(ctx)
	var parts sync.WaitGroup
	parts.Go(func() { l.sendReports(working, client) })
	parts.Go(func() { l.beat(working, client) })
	defer parts.Wait()
	defer stop()
	rehear := make(chan struct{})
	parts.Go(func() { l.awaitRehear(working, rehear) })
	select {
	case <-ctx.Done():
		stop()
		parts.Wait()
		// The broker keeps the last will to itself after an orderly end.
		l.publishPresence(client, epoch, false).WaitTimeout(goodbye)
		return nil
	case <-rehear:
		return errors.New("connecting anew to hear again what was missed")
	case err := <-lost:
		return fmt.Errorf("connection lost: %w", plain(err))
	}
}

// awaitRehear closes due some time after something was missed.
func (l *Listener) awaitRehear(ctx context.Context, due chan<- struct{}) {
	select {
	case <-ctx.Done():
		return
	case <-l.again:
	}
	pause := time.NewTimer(min(l.timing.again<<min(l.reheard, 10), l.timing.resendMax))
	l.reheard++
	defer pause.Stop()
	select {
	case <-ctx.Done(): // the next connection hears it
	case <-pause.C:
		close(due)
	}
}

// heard takes a message from the library, which waits for it.
func (l *Listener) heard(m paho.Message) {
	if len(m.Payload()) == 0 {
		return // how something retained is removed
	}
	if m.Topic() == l.topics.ReportAck(l.o.DeviceID) {
		l.acks.heard(m.Payload())
		return
	}
	for _, dropped := range l.inbox.put(message{topic: m.Topic(), payload: m.Payload(), retained: m.Retained()}) {
		l.refusals.add(refuse(ReasonQueueFull, fmt.Errorf("more than %d messages or %d bytes wait", maxMessages, maxInboxBytes)), dropped.topic)
		if dropped.retained {
			l.rehear()
		}
	}
}

func (l *Listener) subscribe(ctx context.Context, client paho.Client, lost <-chan error) error {
	filters := map[string]byte{}
	for _, filter := range l.topics.Subscriptions(l.o.DeviceID, l.o.Group) {
		filters[filter] = 1
	}
	// Without a handler of their own, all messages go to the default one.
	token := client.SubscribeMultiple(filters, nil)
	timeout := time.NewTimer(connectTimeout)
	defer timeout.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-lost:
		return fmt.Errorf("connection lost while subscribing: %w", plain(err))
	case <-timeout.C:
		return errors.New("the broker does not answer to the subscription")
	case <-token.Done():
	}
	if err := token.Error(); err != nil {
		select { // the library ends the token just before it tells why
		case why := <-lost:
			err = plain(why)
		case <-time.After(goodbye):
		}
		return fmt.Errorf("subscribe: %w", err)
	}
	answers := token.(*paho.SubscribeToken).Result()
	for filter := range filters {
		if answer, ok := answers[filter]; !ok || answer&refusedFilter != 0 {
			return fmt.Errorf("the broker refused the subscription to %s; check what this device may read there", filter)
		}
	}
	return nil
}

func (l *Listener) presence(epoch uint64, online bool) []byte {
	data, err := json.Marshal(wire.Presence{Online: online, Epoch: epoch, At: l.ledger.moment().now.UTC()})
	if err != nil {
		panic(err) // a struct of plain fields
	}
	return data
}

func (l *Listener) publishPresence(client paho.Client, epoch uint64, online bool) paho.Token {
	return client.Publish(l.topics.Presence(l.o.DeviceID), 1, true, l.presence(epoch, online))
}

// beat publishes the heartbeat, at once and then every interval, give or take a
// tenth. One that cannot be sent is of no use later.
func (l *Listener) beat(ctx context.Context, client paho.Client) {
	for {
		if data, err := json.Marshal(l.o.Health()); err != nil {
			l.log.Error().Err(err).Msg("heartbeat cannot be written")
		} else if client.IsConnectionOpen() {
			client.Publish(l.topics.Health(l.o.DeviceID), 0, false, data)
		}
		tenth := l.o.Heartbeat / 10
		pause := time.NewTimer(l.o.Heartbeat - tenth + rand.N(2*tenth+1))
		select {
		case <-ctx.Done():
			pause.Stop()
			return
		case <-pause.C:
		}
	}
}

// clientOptions reads the files again each time, so that a renewed password or
// certificate needs no restart.
func (l *Listener) clientOptions(epoch uint64) (*paho.ClientOptions, error) {
	o := paho.NewClientOptions().
		AddBroker(l.broker.String()).
		SetClientID(l.o.DeviceID).
		SetCleanSession(true).
		SetProtocolVersion(4). // 3.1.1; no falling back to 3.1
		SetAutoReconnect(false).
		SetConnectRetry(false).
		SetConnectTimeout(connectTimeout).
		SetKeepAlive(keepAlive).
		SetPingTimeout(connectTimeout).
		SetWriteTimeout(l.timing.write).
		SetStore(mqttconn.NoStore{}).
		SetBinaryWill(l.topics.Presence(l.o.DeviceID), l.presence(epoch, false), 1, true).
		// In order: unordered, the library starts a goroutine for each message, and
		// has no bound for them while the broker does not read its answers. The
		// handler neither blocks nor calls the client, so the deadlocks that this
		// setting is known for cannot happen.
		SetOrderMatters(true)
	if l.o.Username != "" {
		password := ""
		if l.o.Password != nil {
			var err error
			if password, err = l.o.Password(); err != nil {
				return nil, fmt.Errorf("password: %w", err)
			}
		}
		o.SetUsername(l.o.Username).SetPassword(password)
	}
	o.TLSConfig = nil
	if l.secure {
		c, err := l.tlsConfig()
		if err != nil {
			return nil, err
		}
		o.SetTLSConfig(c)
	}
	return o, nil
}

func (l *Listener) tlsConfig() (*tls.Config, error) {
	authorities, err := pemfile.Authorities(l.o.CAFile)
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	c := &tls.Config{
		MinVersion: tls.VersionTLS12, ServerName: l.broker.Hostname(), RootCAs: authorities,
		// A clock that starts in 1970 would find no certificate valid.
		Time: func() time.Time { return l.ledger.moment().now },
	}
	if l.o.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(l.o.CertFile, l.o.KeyFile)
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
	listener *Listener
	conn     net.Conn
	err      error       // why there is no conn, before the library wrapped it
	stop     func() bool // keeps the end of connecting from closing conn
}

func (p *opening) open(ctx context.Context, tlsConfig *tls.Config) (net.Conn, error) {
	l := p.listener
	conn, err := mqttconn.Dial(ctx, l.broker, tlsConfig, connectTimeout)
	if err != nil {
		p.err = err
		return nil, err
	}
	p.conn = mqttconn.Bound(conn, mqttconn.Limits{
		PacketBytes: maxPacketBytes,
		Filters:     len(l.topics.Subscriptions(l.o.DeviceID, l.o.Group)),
		Write:       l.timing.write,
		Skipped: func(bytes int) {
			l.refusals.add(refuse(ReasonTooLarge, fmt.Errorf("a message of %d bytes", bytes)), "")
		},
	})
	p.stop = context.AfterFunc(ctx, func() { conn.Close() })
	return p.conn, nil
}

// explain says in plain words why Connect failed.
func (p *opening) explain(err error) error {
	var timeout net.Error
	switch {
	case p.err != nil && errors.As(p.err, &timeout) && timeout.Timeout():
		return fmt.Errorf("cannot connect within %v", connectTimeout)
	case p.err != nil:
		return fmt.Errorf("cannot connect: %w", plain(p.err))
	}
	return fmt.Errorf("the broker did not accept the connection: %w", plain(err))
}

// plain returns err without the local port, which differs between two tries.
func plain(err error) error {
	var op *net.OpError
	if !errors.As(err, &op) {
		return err
	}
	remote := *op
	remote.Source = nil
	return &remote
}
