package command

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/pyvorin/pyvorin-edge/internal/clock"
	"github.com/pyvorin/pyvorin-edge/trust"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// TestMain also is the child process of the tests that kill one.
func TestMain(m *testing.M) {
	if dir := os.Getenv("COMMAND_TEST_DIR"); dir != "" {
		os.Exit(obeyUntilKilled(dir, os.Getenv("COMMAND_TEST_BROKER")))
	}
	goleak.VerifyTestMain(m)
}

const (
	device = "FLEET-0123456789ab"
	group  = "north"
	secret = "hunter2"

	// patience is how long a condition may take to hold.
	patience = 30 * time.Second
)

var (
	topics = wire.Topics{Prefix: wire.DefaultPrefix}
	today  = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	built  = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
)

func key(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func publicKey(name string) ed25519.PublicKey { return key(name).Public().(ed25519.PublicKey) }

// newAnchor trusts the key "command", or two of two with threshold 2.
func newAnchor(t testing.TB, threshold int) *trust.Anchor {
	t.Helper()
	a, err := trust.NewAnchor(trust.AnchorSpec{
		Version: 2,
		Keys: map[trust.Role][]ed25519.PublicKey{
			trust.RootRole:    {publicKey("root")},
			trust.ReleaseRole: {publicKey("release")},
			trust.CommandRole: {publicKey("command"), publicKey("command-2")},
		},
		Threshold: map[trust.Role]int{trust.CommandRole: threshold},
		ExpiresAt: today.AddDate(5, 0, 0),
	})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func sign(t testing.TB, typ trust.PayloadType, payload any, names ...string) []byte {
	t.Helper()
	data, err := json.Marshal(payload)
	if err != nil {
		t.Fatal(err)
	}
	var keys []ed25519.PrivateKey
	for _, n := range names {
		keys = append(keys, key(n))
	}
	out, err := trust.Sign(typ, data, keys...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// command is a valid command for everyone.
func command(name, nonce string) wire.Command {
	return wire.Command{
		Command: name, Nonce: nonce, IssuedAt: today, ExpiresAt: today.AddDate(0, 0, 7), Target: wire.Target{All: true},
	}
}

func rollback(nonce string) wire.Command {
	c := command(wire.CommandRollback, nonce)
	c.TargetVersion = "2.3.0"
	return c
}

func update(nonce string, issued time.Time) wire.Command {
	c := command(wire.CommandUpdate, nonce)
	c.IssuedAt, c.URL, c.Version = issued, "https://127.0.0.1/b", "2.3.1"
	c.SHA256 = hex.EncodeToString(make([]byte, 32))
	return c
}

func signed(t testing.TB, c wire.Command) []byte {
	t.Helper()
	return sign(t, trust.CommandType, c, "command")
}

func configPush(version, content string, at time.Time) wire.ConfigPush {
	sum := sha256.Sum256([]byte(content))
	return wire.ConfigPush{
		Version: version, Timestamp: at,
		ConfigB64: base64.StdEncoding.EncodeToString([]byte(content)), ChecksumSHA256: hex.EncodeToString(sum[:]),
	}
}

func signedConfig(t testing.TB, p wire.ConfigPush) []byte {
	t.Helper()
	return sign(t, trust.ConfigType, p, "command")
}

// fakeClock is a clock that tests set.
type fakeClock struct {
	mu    sync.Mutex
	wall  time.Time
	state clock.State
}

func newClock() *fakeClock {
	return &fakeClock{wall: today, state: clock.State{BootID: "boot", Set: true, Synchronized: true}}
}

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wall
}

func (c *fakeClock) State() clock.State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

func (c *fakeClock) set(wall time.Time, synchronized bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wall, c.state.Set, c.state.Synchronized = wall, !wall.Before(built), synchronized
}

func ledgerIn(t testing.TB, dir string, c clock.Clock) *Ledger {
	t.Helper()
	l := NewLedger(LedgerOptions{
		Path: filepath.Join(dir, "state.db"), Clock: c, Floor: func() time.Time { return built }, Log: zerolog.Nop(),
	})
	t.Cleanup(func() { l.Close() })
	return l
}

// rig is a listener without a broker.
type rig struct {
	*Listener
	clock   *fakeClock
	dir     string
	actions *actions
}

// actions are what handlers did.
type actions struct {
	mu     sync.Mutex
	orders []Order
	err    error
}

func (a *actions) Handle(_ context.Context, o Order) (map[string]any, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.orders = append(a.orders, o)
	return map[string]any{"n": len(a.orders)}, a.err
}

func (a *actions) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.orders)
}

func (a *actions) last(t testing.TB) Order {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.orders) == 0 {
		t.Fatal("nothing was done")
	}
	return a.orders[len(a.orders)-1]
}

func newRig(t testing.TB, change func(*Options)) *rig {
	t.Helper()
	return newRigIn(t, t.TempDir(), newClock(), change)
}

func newRigIn(t testing.TB, dir string, c *fakeClock, change func(*Options)) *rig {
	t.Helper()
	r := &rig{clock: c, dir: dir, actions: &actions{}}
	anchor := newAnchor(t, 1)
	plain := Entry{Handler: r.actions}
	o := Options{
		URL: "tcp://127.0.0.1:1", DeviceID: device, Group: group,
		Anchor: func() *trust.Anchor { return anchor },
		Health: func() wire.Health { return wire.Health{Status: wire.Healthy, DeviceID: device} },
		Handlers: map[string]Entry{
			wire.CommandRollback: plain, ConfigName: plain, wire.CommandRestart: plain,
			wire.CommandUpdate: {Handler: r.actions, Begins: true, Idempotent: true},
		},
		Ledger: ledgerIn(t, dir, c), Log: zerolog.Nop(),
		Heartbeat: time.Hour, ReconnectWindow: 50 * time.Millisecond,
	}
	if change != nil {
		change(&o)
	}
	l, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	r.Listener = l
	l.timing.grace, l.timing.write = 200*time.Millisecond, time.Second
	return r
}

// hear has the worker handle a message now.
func (r *rig) hear(t testing.TB, topic string, payload []byte) {
	t.Helper()
	r.handle(t.Context(), message{topic: topic, payload: payload, retained: true})
}

// reports returns what waits in the outbox.
func (r *rig) reports(t testing.TB) []wire.Report {
	t.Helper()
	return reportsOf(t, r.ledger)
}

func reportsOf(t testing.TB, l *Ledger) (out []wire.Report) {
	t.Helper()
	queue, err := l.reportsAfter(0, 10*maxReports)
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range queue {
		var r wire.Report
		if err := json.Unmarshal(q.body, &r); err != nil {
			t.Fatal(err)
		}
		if r.Seq != q.seq {
			t.Errorf("report %d says it is %d", q.seq, r.Seq)
		}
		out = append(out, r)
	}
	return out
}

// outcomes is what reports say, in short.
func outcomes(reports []wire.Report) []string {
	out := []string{}
	for _, r := range reports {
		out = append(out, fmt.Sprintf("%s %s %s", r.Kind, r.Nonce, r.Outcome))
	}
	return out
}

// run runs the listener until the test ends or stop is called.
func (r *rig) run(t testing.TB) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := within(t, "Run to end", done); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func (r *rig) connected(t testing.TB) {
	t.Helper()
	eventually(t, "the connection", func() bool { return r.Stats().Connected })
}

// access lets everyone in, and forbids a topic.
type access struct {
	mochi.HookBase
	forbidden string
	onAuth    func(id string)
}

func (*access) ID() string { return "access" }

func (*access) Provides(b byte) bool {
	return b == mochi.OnConnectAuthenticate || b == mochi.OnACLCheck
}

func (a *access) OnConnectAuthenticate(_ *mochi.Client, pk packets.Packet) bool {
	if a.onAuth != nil {
		a.onAuth(pk.Connect.ClientIdentifier)
	}
	return pk.Connect.Username == nil || string(pk.Connect.Password) == secret
}

func (a *access) OnACLCheck(_ *mochi.Client, topic string, _ bool) bool {
	return a.forbidden == "" || topic != a.forbidden
}

type broker struct {
	*mochi.Server
	addr string
	stop func() // may be called again

	mu   sync.Mutex
	seen map[string][]packets.Packet // what was published, by topic
}

// startBroker starts a broker at addr; 127.0.0.1:0 takes any port.
func startBroker(t testing.TB, addr string, tlsConfig *tls.Config, hook *access) *broker {
	t.Helper()
	s := mochi.New(&mochi.Options{InlineClient: true, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err := s.AddHook(hook, nil); err != nil {
		t.Fatal(err)
	}
	l := listeners.NewTCP(listeners.Config{ID: "t", Address: addr, TLSConfig: tlsConfig})
	// The port of a broker that was just stopped may take a moment to be free.
	var err error
	eventually(t, "the broker's port", func() bool { err = s.AddListener(l); return err == nil })
	b := &broker{Server: s, addr: l.Address(), seen: map[string][]packets.Packet{}}
	err = s.Subscribe(topics.Prefix+"/#", 1, func(_ *mochi.Client, _ packets.Subscription, pk packets.Packet) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.seen[pk.TopicName] = append(b.seen[pk.TopicName], pk)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(); err != nil {
		t.Fatal(err)
	}
	b.stop = sync.OnceFunc(func() {
		// It waits for every connection to end, and knows only those that sent
		// a CONNECT: one that came just now, and keeps silent, it never ends.
		closed := make(chan struct{})
		go func() {
			s.Close()
			close(closed)
		}()
		within(t, "the broker to close", closed)
	})
	t.Cleanup(b.stop)
	return b
}

func (b *broker) publish(t testing.TB, topic string, payload []byte, retain bool) {
	t.Helper()
	if err := b.Publish(topic, payload, retain, 1); err != nil {
		t.Fatal(err)
	}
}

// published returns what was published on a topic.
func (b *broker) published(topic string) (out [][]byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, pk := range b.seen[topic] {
		out = append(out, pk.Payload)
	}
	return out
}

// reports returns the reports that arrived, without those that came again.
func (b *broker) reports(t testing.TB) (out []wire.Report) {
	t.Helper()
	seen := map[uint64]bool{}
	for _, data := range b.published(topics.Report(device)) {
		var r wire.Report
		if err := json.Unmarshal(data, &r); err != nil {
			t.Fatal(err)
		}
		if !seen[r.Seq] {
			seen[r.Seq] = true
			out = append(out, r)
		}
	}
	return out
}

func (b *broker) ack(t testing.TB, seq uint64) {
	t.Helper()
	b.publish(t, topics.ReportAck(device), fmt.Appendf(nil, `{"seq":%d}`, seq), false)
}

// presence returns what is retained.
func (b *broker) presence(t testing.TB) (p wire.Presence) {
	t.Helper()
	pk, ok := b.Topics.Retained.Get(topics.Presence(device))
	if !ok {
		return p
	}
	if err := json.Unmarshal(pk.Payload, &p); err != nil {
		t.Fatal(err)
	}
	return p
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("waited in vain for %s:\n%s", what, stacks[:runtime.Stack(stacks, true)])
		}
	}
}

// within waits for c.
func within[T any](t testing.TB, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		stacks := make([]byte, 1<<20)
		t.Errorf("waited in vain for %s:\n%s", what, stacks[:runtime.Stack(stacks, true)])
	}
	return v
}
