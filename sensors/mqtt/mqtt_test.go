package mqtt

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	pahopackets "github.com/eclipse/paho.mqtt.golang/packets"
	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
	"go.uber.org/goleak"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const secret = "hunter2"

// patience is how long a condition may take to hold.
const patience = 15 * time.Second

// access admits everyone, or the user "edge" with the secret, and forbids what
// is below "forbidden".
type access struct {
	mochi.HookBase
	closed bool
}

func (*access) ID() string { return "access" }

func (*access) Provides(b byte) bool {
	return b == mochi.OnConnectAuthenticate || b == mochi.OnACLCheck
}

func (a *access) OnConnectAuthenticate(_ *mochi.Client, pk packets.Packet) bool {
	return !a.closed || string(pk.Connect.Username) == "edge" && string(pk.Connect.Password) == secret
}

func (*access) OnACLCheck(_ *mochi.Client, topic string, _ bool) bool {
	return !strings.HasPrefix(topic, "forbidden")
}

type broker struct {
	*mochi.Server
	addr string
	stop func() // may be called again
}

// start starts a broker at addr; 127.0.0.1:0 takes any port.
func start(t *testing.T, addr string, ws bool, tlsConfig *tls.Config, hook *access) *broker {
	t.Helper()
	s := mochi.New(&mochi.Options{InlineClient: true, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err := s.AddHook(hook, nil); err != nil {
		t.Fatal(err)
	}
	c := listeners.Config{ID: "t", Address: addr, TLSConfig: tlsConfig}
	var l listeners.Listener = listeners.NewTCP(c)
	if ws { // which cannot tell the port it took
		c.Address = freeAddr(t)
		l = listeners.NewWebsocket(c)
	}
	// The port of a broker that was just stopped may take a moment to be free.
	var err error
	eventually(t, "the broker's port", func() bool { err = s.AddListener(l); return err == nil })
	if err := s.Serve(); err != nil {
		t.Fatal(err)
	}
	b := &broker{Server: s, addr: l.Address(), stop: sync.OnceFunc(func() {
		// It waits for every connection to end, and knows only those that sent
		// a CONNECT: one that came just now, and keeps silent, it never ends.
		closed := make(chan struct{})
		go func() {
			s.Close()
			close(closed)
		}()
		within(t, "the broker to close", closed)
	})}
	t.Cleanup(b.stop)
	return b
}

// within waits for c, and when that takes too long shows what everyone does.
func within[T any](t *testing.T, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		stacks := make([]byte, 1<<20)
		t.Errorf("waited in vain for %s:\n%s", what, stacks[:runtime.Stack(stacks, true)])
	}
	return v
}

func freeAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func (b *broker) publish(t *testing.T, topic, payload string, retain bool) {
	t.Helper()
	if err := b.Publish(topic, []byte(payload), retain, 0); err != nil {
		t.Fatal(err)
	}
}

func (b *broker) subscribed(filter string) func() bool {
	return func() bool {
		for _, c := range b.Clients.GetAll() {
			if _, ok := c.State.Subscriptions.Get(filter); ok && !c.Closed() {
				return true
			}
		}
		return false
	}
}

// run runs a sensor until the test ends, and returns how to read it.
func run(t *testing.T, change func(*Options)) *running {
	t.Helper()
	o := Type.Options().(*Options)
	o.Topics = []string{"home/#"}
	change(o)
	s, err := New(config.Sensor{Name: "test", Options: o}, sensors.Env{DeviceID: "dev"})
	if err != nil {
		t.Fatal(err)
	}
	r := &running{sensor: s.(*sensor), woken: make(chan struct{}, 1), done: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		r.done <- r.sensor.Run(ctx, func() {
			select {
			case r.woken <- struct{}{}:
			default:
			}
		})
	}()
	r.stop = func() {
		cancel()
		if err := within(t, "Run to end", r.done); err != nil {
			t.Errorf("Run: %v", err)
		}
		r.done <- nil
	}
	t.Cleanup(r.stop)
	return r
}

type running struct {
	*sensor
	woken chan struct{}
	done  chan error
	stop  func()
}

// collect reads until n samples came.
func (r *running) collect(t *testing.T, n int) []sensors.Sample {
	t.Helper()
	var out []sensors.Sample
	eventually(t, fmt.Sprintf("%d samples", n), func() bool {
		got, _ := r.Read(t.Context())
		out = append(out, got...)
		return len(out) >= n
	})
	return out
}

// failing waits until Read fails with want in the error.
func (r *running) failing(t *testing.T, want string) {
	t.Helper()
	var err error
	eventually(t, "an error with "+want, func() bool {
		if _, err = r.Read(t.Context()); err != nil && strings.Contains(err.Error(), secret) {
			t.Fatalf("the error carries a secret: %v", err)
		}
		return err != nil && strings.Contains(err.Error(), want)
	})
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestMessages(t *testing.T) {
	b := start(t, "127.0.0.1:0", false, nil, &access{})
	r := run(t, func(o *Options) {
		o.Broker, o.Topics, o.ChannelFrom, o.JSONPath = "tcp://"+b.addr, []string{"home/+/state", "home/kitchen/#"}, "2", "t"
	})
	eventually(t, "the subscription", b.subscribed("home/+/state"))
	if got, err := r.Read(t.Context()); err != nil || len(got) != 0 {
		t.Fatalf("no message is no error: %+v, %v", got, err)
	}
	b.publish(t, "elsewhere/x/state", `{"t":0}`, false)
	b.publish(t, "home/kitchen/state", `{"t":21.5}`, false)
	b.publish(t, "home/cellar/state", `{"t":"cold"}`, false)
	within(t, "being woken", r.woken)
	got := r.collect(t, 2)
	if len(got) != 2 {
		t.Fatalf("%d samples; a message that two filters match counts once: %+v", len(got), got)
	}
	k, c := got[0], got[1]
	if k.Channel != "kitchen" || k.Value != wire.NumberValue(21.5) || k.Meta["topic"] != wire.TextValue("home/kitchen/state") || k.Time.IsZero() {
		t.Errorf("%+v", k)
	}
	if c.Channel != "cellar" || c.Value != wire.TextValue("cold") {
		t.Errorf("%+v", c)
	}
}

func TestResubscribesAfterTheBrokerRestarts(t *testing.T) {
	b := start(t, "127.0.0.1:0", false, nil, &access{})
	r := run(t, func(o *Options) { o.Broker, o.QoS = "tcp://"+b.addr, 1 })
	for round := range 2 {
		eventually(t, "the subscription", b.subscribed("home/#"))
		b.publish(t, "home/x", fmt.Sprint(round), false)
		if got := r.collect(t, 1); got[0].Value != wire.NumberValue(float64(round)) {
			t.Fatalf("round %d: %+v", round, got)
		}
		if _, err := r.Read(t.Context()); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		b.stop()
		r.failing(t, "broker tcp://"+b.addr+": ")
		b = start(t, b.addr, false, nil, &access{})
	}
	eventually(t, "an end of the error", func() bool { _, err := r.Read(t.Context()); return err == nil })
}

func TestRetainedMessages(t *testing.T) {
	b := start(t, "127.0.0.1:0", false, nil, &access{})
	b.publish(t, "home/x", "1", true)
	keep := run(t, func(o *Options) { o.Broker, o.ClientID = "tcp://"+b.addr, "keep" })
	ignore := run(t, func(o *Options) { o.Broker, o.ClientID, o.IgnoreRetained = "tcp://"+b.addr, "ignore", true })
	if got := keep.collect(t, 1); got[0].Quality != wire.Uncertain {
		t.Errorf("%+v", got)
	}
	eventually(t, "the subscription", func() bool { return len(b.Clients.GetAll()) >= 2 && b.subscribed("home/#")() })
	eventually(t, "a live message", func() bool {
		b.publish(t, "home/x", "2", false)
		got, _ := ignore.Read(t.Context())
		for _, s := range got {
			if s.Value != wire.NumberValue(2) {
				t.Fatalf("a retained message came through: %+v", s)
			}
		}
		return len(got) > 0
	})
}

func TestFloodIsBoundedAndCounted(t *testing.T) {
	b := start(t, "127.0.0.1:0", false, nil, &access{})
	r := run(t, func(o *Options) { o.Broker, o.BufferReadings = "tcp://"+b.addr, 10 })
	eventually(t, "the subscription", b.subscribed("home/#"))
	const n = 2000
	for i := range n {
		b.publish(t, "home/x", fmt.Sprint(i), false)
	}
	// Each message is read, in order, or counted.
	last, total := -1.0, 0
	take := func() (read int, dropped sensors.Dropped, err error) {
		got, err := r.Read(t.Context())
		for _, s := range got {
			v, _ := s.Value.Float()
			if v <= last {
				t.Fatalf("%v came after %v", v, last)
			}
			last = v
		}
		errors.As(err, &dropped)
		total += len(got) + int(dropped)
		return len(got), dropped, err
	}
	eventually(t, "the last message", func() bool {
		take()
		return total == n
	})
	if last != n-1 {
		t.Errorf("the last one is %v: the newest was dropped", last)
	}
	for i := range n {
		r.arrived.Add(sensors.Sample{Value: wire.NumberValue(float64(n + i))})
	}
	if read, dropped, err := take(); read != 10 || dropped != n-10 || !strings.Contains(err.Error(), "buffer_readings") {
		t.Fatalf("%d samples, %v, %d dropped", read, err, dropped)
	}
	if got, err := r.Read(t.Context()); len(got) != 0 || err != nil {
		t.Error(got, err)
	}
}

func TestTooLongAMessage(t *testing.T) {
	b := start(t, "127.0.0.1:0", false, nil, &access{})
	r := run(t, func(o *Options) { o.Broker, o.MaxMessageBytes = "tcp://"+b.addr, 1000 })
	eventually(t, "the subscription", b.subscribed("home/#"))
	b.publish(t, "home/x", strings.Repeat(secret, 10<<20/len(secret)), false)
	r.failing(t, "max_message_bytes (1000)")
	eventually(t, "a live message", func() bool {
		b.publish(t, "home/x", "2", false)
		got, _ := r.Read(t.Context())
		return len(got) > 0
	})
}

func TestRefusals(t *testing.T) {
	t.Run("password", func(t *testing.T) {
		b := start(t, "127.0.0.1:0", false, nil, &access{closed: true})
		file := filepath.Join(t.TempDir(), "password")
		os.WriteFile(file, []byte("wrong-"+secret+"\n"), 0o600)
		r := run(t, func(o *Options) { o.Broker, o.Username, o.PasswordFile = "tcp://"+b.addr, "edge", file })
		r.failing(t, "did not accept the connection")
		os.WriteFile(file, []byte(secret+"\n"), 0o600)
		eventually(t, "the subscription", b.subscribed("home/#"))
	})
	t.Run("topic", func(t *testing.T) {
		b := start(t, "127.0.0.1:0", false, nil, &access{})
		r := run(t, func(o *Options) { o.Broker, o.Topics = "tcp://"+b.addr, []string{"home/#", "forbidden/#"} })
		r.failing(t, "refused the subscription to forbidden/#")
	})
	t.Run("nobody there", func(t *testing.T) {
		r := run(t, func(o *Options) { o.Broker = "tcp://127.0.0.1:1" })
		r.failing(t, "connection refused")
	})
	t.Run("missing file", func(t *testing.T) {
		r := run(t, func(o *Options) { o.Broker, o.CAFile = "ssl://127.0.0.1:1", "/no/such/file" })
		r.failing(t, "ca_file")
	})
}

// A peer that accepts and then says nothing, or says something else than MQTT,
// must neither hold up the end of Run nor take the sensor down.
func TestStrangePeers(t *testing.T) {
	for name, answer := range map[string][]byte{"silent": nil, "chatty": bytes.Repeat([]byte{0xff}, 1<<16)} {
		t.Run(name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			accepted := make(chan struct{}, 100)
			go func() {
				for {
					c, err := ln.Accept()
					if err != nil {
						return
					}
					c.Write(answer)
					accepted <- struct{}{}
					go func() { io.Copy(io.Discard, c); c.Close() }()
				}
			}()
			t.Cleanup(func() { ln.Close() })
			r := run(t, func(o *Options) { o.Broker = "tcp://" + ln.Addr().String() })
			within(t, "a connection", accepted)
			if answer != nil {
				r.failing(t, "did not accept the connection")
			}
			began := time.Now()
			r.stop()
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("Run ended after %v", took)
			}
			if answer == nil {
				r.failing(t, "before it was connected")
			}
		})
	}
}

// A broker that never completes its messages, and messages that are nearly all
// white space, must not fill the memory.
func TestMemoryIsBoundedByWhatIsKept(t *testing.T) {
	const messages, size = 100, 1 << 20
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	peer := make(chan error, 1)
	go func() {
		peer <- func() error {
			c, err := ln.Accept()
			if err != nil {
				return err
			}
			defer c.Close()
			if _, err := pahopackets.ReadPacket(c); err != nil { // CONNECT
				return err
			}
			if err := pahopackets.NewControlPacket(pahopackets.Connack).Write(c); err != nil {
				return err
			}
			request, err := pahopackets.ReadPacket(c)
			if err != nil {
				return err
			}
			granted := pahopackets.NewControlPacket(pahopackets.Suback).(*pahopackets.SubackPacket)
			granted.MessageID, granted.ReturnCodes = request.Details().MessageID, []byte{2}
			if err := granted.Write(c); err != nil {
				return err
			}
			payload := append([]byte("open"), bytes.Repeat([]byte(" "), size-100)...)
			for i := range messages {
				m := pahopackets.NewControlPacket(pahopackets.Publish).(*pahopackets.PublishPacket)
				m.Qos, m.MessageID, m.TopicName, m.Payload = 2, uint16(i+1), "home/x", payload
				if err := m.Write(c); err != nil {
					return err
				}
			}
			_, err = io.Copy(io.Discard, c) // until the sensor hangs up
			return err
		}()
	}()
	t.Cleanup(func() { ln.Close() })

	before := heap()
	r := run(t, func(o *Options) { o.Broker, o.QoS = "tcp://"+ln.Addr().String(), 2 })
	kept := r.collect(t, messages)
	if grown := int64(heap()) - int64(before); grown > messages*size/4 {
		t.Errorf("%d messages hold %d bytes", messages, grown)
	}
	runtime.KeepAlive(kept)
	r.stop()
	if err := within(t, "the peer to see the end", peer); err != nil {
		t.Error(err)
	}
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestTLSAndWebsockets(t *testing.T) {
	web := httptest.NewTLSServer(nil)
	web.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw}), 0o600)
	tlsConfig := &tls.Config{Certificates: web.TLS.Certificates}
	for scheme, ws := range map[string]bool{"ssl": false, "wss": true, "ws": true} {
		t.Run(scheme, func(t *testing.T) {
			server, file := tlsConfig, ca
			if scheme == "ws" {
				server, file = nil, ""
			}
			b := start(t, "127.0.0.1:0", ws, server, &access{})
			addr := b.addr
			if server != nil {
				run(t, func(o *Options) { o.Broker = scheme + "://" + addr }).failing(t, "certificate")
			}
			r := run(t, func(o *Options) { o.Broker, o.CAFile = scheme+"://"+addr, file })
			eventually(t, "the subscription", b.subscribed("home/#"))
			b.publish(t, "home/x", "1", false)
			r.collect(t, 1)
		})
	}
}

func TestNewRefuses(t *testing.T) {
	bad := map[string]func(*Options){
		"no scheme":       func(o *Options) { o.Broker = "192.168.0.2" },
		"http":            func(o *Options) { o.Broker = "http://x" },
		"unparsable":      func(o *Options) { o.Broker = "tcp://u:" + secret + "@[::1" },
		"user in address": func(o *Options) { o.Broker = "tcp://u:" + secret + "@x" },
		"ca without tls":  func(o *Options) { o.CAFile = "x" },
		"cert alone":      func(o *Options) { o.Broker, o.CertFile = "ssl://x", "y" },
		"password alone":  func(o *Options) { o.Password = secret },
		"no topic":        func(o *Options) { o.Topics = nil },
		"empty topic":     func(o *Options) { o.Topics = []string{""} },
		"# inside":        func(o *Options) { o.Topics = []string{"a/#/b"} },
		"+ in a level":    func(o *Options) { o.Topics = []string{"a/b+"} },
		"channel 0":       func(o *Options) { o.ChannelFrom = "0" },
		"channel name":    func(o *Options) { o.ChannelFrom = "level" },
		"true and false":  func(o *Options) { o.FalseValues = []string{"on"} },
		"meta alone":      func(o *Options) { o.Meta = map[string]string{"a": "b"} },
	}
	for name, change := range bad {
		o := Type.Options().(*Options)
		o.Broker, o.Topics = "tcp://x", []string{"a"}
		change(o)
		if _, err := New(config.Sensor{Options: o}, sensors.Env{}); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
