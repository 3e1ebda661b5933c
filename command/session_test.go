package command

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/google/go-cmp/cmp"

	"github.com/pyvorin/pyvorin-edge/wire"
)

func at(addr string) func(*Options) {
	return func(o *Options) { o.URL = "tcp://" + addr }
}

func TestFromCommandToAcknowledgement(t *testing.T) {
	b := startBroker(t, "127.0.0.1:0", nil, &access{})
	r := newRig(t, func(o *Options) {
		at(b.addr)(o)
		o.Username, o.Password = "edge", func() (string, error) { return secret, nil }
	})
	stop := r.run(t)
	r.connected(t)
	eventually(t, "presence", func() bool { return b.presence(t).Online })
	eventually(t, "the heartbeat", func() bool { return len(b.published(topics.Health(device))) == 1 })
	var h wire.Health
	if err := json.Unmarshal(b.published(topics.Health(device))[0], &h); err != nil || h.DeviceID != device {
		t.Errorf("%+v, %v", h, err)
	}
	for i, topic := range []string{topics.FleetCommand("rollback"), topics.GroupCommand(group, "rollback"), ownRollback} {
		b.publish(t, topic, signed(t, rollback(fmt.Sprintf("nonce-%d-rollback", i))), true)
	}
	b.publish(t, topics.GroupConfig(group), signedConfig(t, configPush("7", "content", today)), true)
	b.publish(t, topics.Desired(device), signed(t, update("nonce-desired", today)), true)
	b.publish(t, topics.Desired(device), nil, true) // withdrawn
	eventually(t, "five reports", func() bool { return len(b.reports(t)) == 5 })
	reports := b.reports(t)
	for i, report := range reports {
		if report.Seq != uint64(i+1) || report.Outcome == wire.OutcomeFailed || report.Outcome == wire.OutcomeRefused {
			t.Errorf("report %d: %+v", i, report)
		}
	}
	b.ack(t, 3)
	eventually(t, "three of them gone", func() bool { return r.Stats().ReportsWaiting == 2 })
	b.ack(t, 1<<60) // of what was never sent
	eventually(t, "all of them gone", func() bool { return r.Stats().ReportsWaiting == 0 })
	if err := r.ledger.Report(wire.Report{Kind: wire.ReportDrift, Outcome: wire.OutcomeDone}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another report", func() bool { return len(b.reports(t)) == 6 })
	if r.Stats().ReportsWaiting != 1 {
		t.Error("acknowledged before it was there")
	}
	s := r.Stats()
	if len(s.Refused) != 0 || !s.LastCommandAt.Equal(today) || s.Epoch == 0 || s.Epoch != b.presence(t).Epoch {
		t.Errorf("%+v, %+v", s, b.presence(t))
	}
	stop()
	eventually(t, "absence", func() bool { p := b.presence(t); return !p.Online && p.Epoch == s.Epoch })
	if r.Stats().Connected {
		t.Error("connected after the end")
	}
}

// After its broker was away, a device subscribes again, hears what is retained,
// and says that it is back; the last will of the lost connection is told from
// that by its epoch.
func TestBrokerRestarts(t *testing.T) {
	b := startBroker(t, "127.0.0.1:0", nil, &access{})
	r := newRig(t, at(b.addr))
	r.run(t)
	r.connected(t)
	eventually(t, "presence", func() bool { return b.presence(t).Online })
	first := b.presence(t).Epoch
	once := signed(t, rollback("nonce-1234"))
	b.publish(t, topics.FleetCommand("rollback"), once, true)
	eventually(t, "the report", func() bool { return len(b.reports(t)) == 1 })

	// The connection is lost, the broker is not.
	if c, ok := b.Clients.Get(device); ok {
		c.Stop(fmt.Errorf("cut"))
	}
	eventually(t, "the last will", func() bool {
		return slices.ContainsFunc(b.published(topics.Presence(device)), func(data []byte) bool {
			return bytes.Contains(data, []byte(`"online":false`)) && bytes.Contains(data, fmt.Appendf(nil, `"epoch":%d,`, first))
		})
	})
	eventually(t, "its return", func() bool { p := b.presence(t); return p.Online && p.Epoch > first })
	eventually(t, "the duplicate", func() bool { return r.Stats().Refused[ReasonDuplicate] == 1 })
	eventually(t, "the report again", func() bool { return len(b.published(topics.Report(device))) >= 2 })

	// The broker restarts and has forgotten what was retained.
	b.stop()
	eventually(t, "the loss to be noticed", func() bool { return !r.Stats().Connected })
	if r.Stats().LastError == "" {
		t.Error("no reason")
	}
	b = startBroker(t, b.addr, nil, &access{})
	r.connected(t)
	eventually(t, "the report at the new broker", func() bool { return len(b.reports(t)) == 1 })
	b.publish(t, topics.FleetCommand("rollback"), once, true) // the controller sets it again
	b.publish(t, topics.FleetCommand("rollback"), signed(t, rollback("nonce-2345")), true)
	eventually(t, "the second report", func() bool { return len(b.reports(t)) == 2 })
	if n := r.actions.count(); n != 2 {
		t.Errorf("obeyed %d times", n)
	}
}

// A broker that breaks off each connection, before or after the handshake, costs
// neither memory nor flash, and nothing that was retained is missed.
func TestFlapping(t *testing.T) {
	const flaps = 40
	var mu sync.Mutex
	n := 0
	payload := signed(t, rollback("nonce-1234"))
	b := startFake(t, func(c net.Conn, p packets.ControlPacket) bool {
		mu.Lock()
		defer mu.Unlock()
		switch p.(type) {
		case *packets.ConnectPacket:
			if n++; n <= flaps && n%3 == 0 {
				return false
			}
		case *packets.SubscribePacket:
			if n <= flaps && n%3 == 1 {
				return false
			}
			return polite(c, p) && deliver(c, topics.FleetCommand("rollback"), payload, true) && n > flaps
		}
		return polite(c, p)
	})
	r := newRig(t, func(o *Options) {
		at(b.addr)(o)
		o.ReconnectWindow = 8 * time.Millisecond
	})
	before := runtime.NumGoroutine()
	r.run(t)
	eventually(t, "the last flap", func() bool { return b.accepted() > flaps })
	r.connected(t)
	if n := r.actions.count(); n != 1 {
		t.Errorf("obeyed %d times", n)
	}
	eventually(t, "the goroutines of lost connections to end", func() bool { return runtime.NumGoroutine() < before+30 })
	if s := r.Stats(); s.Epoch < flaps || s.Epoch > flaps+20 {
		t.Errorf("epoch %d", s.Epoch)
	}
}

// A broker that takes reports and never acknowledges them gets them again, more
// and more seldom, and commands go on.
func TestNeverAcknowledged(t *testing.T) {
	for _, tt := range []struct {
		name   string
		puback bool
	}{{"not by the broker", false}, {"not by the controller", true}} {
		t.Run(tt.name, func(t *testing.T) {
			var lastConn atomic.Pointer[net.Conn]
			b := startFake(t, func(c net.Conn, p packets.ControlPacket) bool {
				if m, ok := p.(*packets.PublishPacket); ok && tt.puback && m.Qos > 0 {
					ack := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
					ack.MessageID = m.MessageID
					return ack.Write(c) == nil
				}
				if _, ok := p.(*packets.SubscribePacket); ok {
					defer lastConn.Store(&c)
				}
				return polite(c, p)
			})
			r := newRig(t, at(b.addr))
			r.timing.puback, r.timing.resend, r.timing.resendMax = 5*time.Millisecond, 10*time.Millisecond, time.Hour
			for range 3 {
				if err := r.ledger.Report(wire.Report{Kind: wire.ReportDrift, Outcome: wire.OutcomeDone}); err != nil {
					t.Fatal(err)
				}
			}
			began := time.Now()
			r.run(t)
			r.connected(t)
			per := map[bool]int{false: 1, true: 3}[tt.puback] // reports in a round
			eventually(t, "five rounds", func() bool { return b.publishes(topics.Report(device)) >= 5*per })
			// Rounds come after 10, 20, 40, 80 ms at the soonest.
			if took := time.Since(began); took < 150*time.Millisecond {
				t.Errorf("five rounds within %v", took)
			}
			if !deliver(*lastConn.Load(), ownRollback, signed(t, rollback("nonce-1234")), false) {
				t.Fatal("not delivered")
			}
			eventually(t, "the command", func() bool { return r.actions.count() == 1 })
			eventually(t, "its report", func() bool { return r.Stats().ReportsWaiting == 4 })
			if !r.Stats().Connected || b.accepted() != 1 {
				t.Errorf("%+v after %d connections", r.Stats(), b.accepted())
			}
		})
	}
}

// A message that is far too long is thrown away as it arrives.
func TestHugeMessage(t *testing.T) {
	const size = 100 << 20
	b := startFake(t, func(c net.Conn, p packets.ControlPacket) bool {
		if !polite(c, p) {
			return false
		}
		if _, ok := p.(*packets.SubscribePacket); ok {
			header := []byte{packets.Publish<<4 | 1}
			header = binary.AppendUvarint(header, size) // which is how MQTT writes it, too
			c.Write(header)
			zeros := make([]byte, 1<<20)
			for range size >> 20 {
				if _, err := c.Write(zeros); err != nil {
					return false
				}
			}
			return deliver(c, ownRollback, signed(t, rollback("nonce-1234")), true)
		}
		return true
	})
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r := newRig(t, at(b.addr))
	r.run(t)
	eventually(t, "the command after it", func() bool { return r.actions.count() == 1 })
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > size/4 {
		t.Errorf("%d bytes were allocated for a message of %d", grown, size)
	}
	if s := r.Stats(); s.Refused[ReasonTooLarge] != 1 || b.accepted() != 1 {
		t.Errorf("%+v after %d connections", s, b.accepted())
	}
}

// What would have the MQTT library panic ends the connection instead.
func TestStrangePeers(t *testing.T) {
	suback := func(codes ...byte) func(net.Conn, packets.ControlPacket) bool {
		return func(c net.Conn, p packets.ControlPacket) bool {
			if s, ok := p.(*packets.SubscribePacket); ok {
				granted := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
				granted.MessageID, granted.ReturnCodes = s.MessageID, codes
				return granted.Write(c) == nil
			}
			return polite(c, p)
		}
	}
	for _, tt := range []struct {
		name   string
		answer func(net.Conn, packets.ControlPacket) bool
		want   string
	}{
		{"too many codes", suback(make([]byte, 20)...), "more subscriptions"},
		{"too few codes", suback(0), "refused the subscription"},
		{"refused", suback(0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80), "refused the subscription"},
		{"no MQTT", func(c net.Conn, _ packets.ControlPacket) bool {
			_, err := c.Write(bytes.Repeat([]byte{0xff}, 100))
			return err == nil
		}, "not MQTT"},
		{"a packet as large as none", func(c net.Conn, p packets.ControlPacket) bool {
			_, err := c.Write([]byte{packets.Connack << 4, 0xff, 0xff, 0xff, 0x7f})
			return err == nil
		}, "no message"},
		{"not let in", func(c net.Conn, p packets.ControlPacket) bool {
			no := packets.NewControlPacket(packets.Connack).(*packets.ConnackPacket)
			no.ReturnCode = packets.ErrRefusedNotAuthorised
			return no.Write(c) == nil
		}, "did not accept"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := startFake(t, tt.answer)
			r := newRig(t, at(b.addr))
			r.run(t)
			eventually(t, "an error with "+tt.want, func() bool { return strings.Contains(r.Stats().LastError, tt.want) })
			if r.Stats().Connected {
				t.Error("connected")
			}
		})
	}
	t.Run("silent", func(t *testing.T) {
		b := startFake(t, func(net.Conn, packets.ControlPacket) bool { return true })
		r := newRig(t, at(b.addr))
		stop := r.run(t)
		eventually(t, "a connection", func() bool { return b.accepted() == 1 })
		stop() // must not wait for the timeout
	})
	t.Run("nobody there", func(t *testing.T) {
		r := newRig(t, nil)
		r.run(t)
		eventually(t, "an error", func() bool { return strings.Contains(r.Stats().LastError, "connection refused") })
	})
}

// One filter that the broker does not grant is found, and named.
func TestRefusedSubscription(t *testing.T) {
	b := startBroker(t, "127.0.0.1:0", nil, &access{forbidden: topics.Desired(device)})
	r := newRig(t, at(b.addr))
	r.run(t)
	eventually(t, "an error", func() bool { return strings.Contains(r.Stats().LastError, topics.Desired(device)) })
	if b.presence(t).Online {
		t.Error("it says that it is online")
	}
}

// What was retained and could not be recorded is heard again.
func TestRehear(t *testing.T) {
	b := startBroker(t, "127.0.0.1:0", nil, &access{})
	b.publish(t, topics.FleetCommand("rollback"), signed(t, rollback("nonce-1234")), true)
	r := newRig(t, at(b.addr))
	r.timing.again = time.Millisecond
	fill(t, r.ledger, "CREATE TRIGGER full BEFORE INSERT ON commands BEGIN SELECT RAISE(ABORT, 'full'); END")
	r.run(t)
	eventually(t, "the refusal", func() bool { return r.Stats().Refused[ReasonLedger] > 0 })
	fill2(t, r.ledger, "DROP TRIGGER full")
	eventually(t, "the command", func() bool { return r.actions.count() == 1 })
}

// fill2 is fill while the listener runs.
func fill2(t testing.TB, l *Ledger, statement string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	fill(t, l, statement)
}

// pki makes certificates.
type pki struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	ca   string // file
	dir  string
}

func newPKI(t testing.TB) *pki {
	t.Helper()
	p := &pki{dir: t.TempDir()}
	var err error
	if p.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: built, NotAfter: today.AddDate(10, 0, 0), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, p.key.Public(), p.key)
	if err != nil {
		t.Fatal(err)
	}
	if p.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	p.ca = filepath.Join(p.dir, "ca.pem")
	writePEM(t, p.ca, "CERTIFICATE", der)
	return p
}

func writePEM(t testing.TB, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// issue makes a certificate and its files, which replace those of an earlier one.
func (p *pki) issue(t testing.TB, name string, until time.Time) (certFile, keyFile string) {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: built, NotAfter: until,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, p.cert, p.key.Public(), p.key)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(p.key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(p.dir, name+".pem"), filepath.Join(p.dir, name+".key")
	writePEM(t, certFile, "CERTIFICATE", der)
	writePEM(t, keyFile, "PRIVATE KEY", key)
	return certFile, keyFile
}

// server returns the broker's side, which wants client certificates.
func (p *pki) server(t testing.TB, until time.Time) *tls.Config {
	t.Helper()
	cert, err := tls.LoadX509KeyPair(p.issue(t, "broker", until))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(p.cert)
	return &tls.Config{
		Certificates: []tls.Certificate{cert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
		Time: func() time.Time { return today },
	}
}

func TestTLS(t *testing.T) {
	year := today.AddDate(1, 0, 0)
	over := today.AddDate(0, 0, -1)
	t.Run("client certificate", func(t *testing.T) {
		p := newPKI(t)
		b := startBroker(t, "127.0.0.1:0", p.server(t, year), &access{})
		r := newRig(t, func(o *Options) {
			o.URL, o.CAFile = "ssl://"+b.addr, p.ca
			o.CertFile, o.KeyFile = p.issue(t, device, over)
		})
		r.run(t)
		eventually(t, "the broker to refuse the expired one", func() bool { return strings.Contains(r.Stats().LastError, "expired certificate") })
		p.issue(t, device, year) // renewed, under the same names
		r.connected(t)
		b.publish(t, ownRollback, signed(t, rollback("nonce-1234")), false)
		eventually(t, "the command", func() bool { return r.actions.count() == 1 })
	})
	t.Run("expired broker", func(t *testing.T) {
		p := newPKI(t)
		b := startBroker(t, "127.0.0.1:0", p.server(t, over), &access{})
		r := newRig(t, func(o *Options) {
			o.URL, o.CAFile = "ssl://"+b.addr, p.ca
			o.CertFile, o.KeyFile = p.issue(t, device, year)
		})
		r.run(t)
		eventually(t, "its refusal", func() bool { return strings.Contains(r.Stats().LastError, "certificate has expired") })
	})
	t.Run("unknown authority", func(t *testing.T) {
		p := newPKI(t)
		b := startBroker(t, "127.0.0.1:0", p.server(t, year), &access{})
		r := newRig(t, func(o *Options) {
			o.URL, o.CAFile = "ssl://"+b.addr, newPKI(t).ca
			o.CertFile, o.KeyFile = p.issue(t, device, year)
		})
		r.run(t)
		eventually(t, "its refusal", func() bool { return strings.Contains(r.Stats().LastError, "certificate signed by unknown authority") })
	})
	t.Run("clock in 1970", func(t *testing.T) {
		p := newPKI(t)
		b := startBroker(t, "127.0.0.1:0", p.server(t, year), &access{})
		r := newRig(t, func(o *Options) {
			o.URL, o.CAFile = "ssl://"+b.addr, p.ca
			o.CertFile, o.KeyFile = p.issue(t, device, year)
		})
		r.clock.set(time.Unix(12, 0), false)
		r.run(t)
		r.connected(t)
	})
	t.Run("missing file", func(t *testing.T) {
		r := newRig(t, func(o *Options) { o.URL, o.CAFile = "ssl://127.0.0.1:1", "/no/such/file" })
		r.run(t)
		eventually(t, "an error", func() bool { return strings.Contains(r.Stats().LastError, "ca_file") })
	})
}

func TestHeartbeatIsRepeatedAndNotQueued(t *testing.T) {
	b := startBroker(t, "127.0.0.1:0", nil, &access{})
	r := newRig(t, func(o *Options) { at(b.addr)(o); o.Heartbeat = 20 * time.Millisecond })
	r.run(t)
	beats := func() int { return len(b.published(topics.Health(device))) }
	eventually(t, "heartbeats", func() bool { return beats() >= 5 })
	b.stop()
	eventually(t, "the loss to be noticed", func() bool { return !r.Stats().Connected })
	b = startBroker(t, b.addr, nil, &access{})
	r.connected(t)
	eventually(t, "heartbeats again", func() bool { return beats() >= 2 })
}

// A fleet that lost its broker comes back spread over the window.
func TestFleetComesBackSpread(t *testing.T) {
	const devices, window = 300, 1500 * time.Millisecond
	var mu sync.Mutex
	arrivals := map[string][]time.Time{}
	hook := func() *access {
		return &access{onAuth: func(id string) {
			mu.Lock()
			defer mu.Unlock()
			arrivals[id] = append(arrivals[id], time.Now())
		}}
	}
	b := startBroker(t, "127.0.0.1:0", nil, hook())
	ledger := ledgerIn(t, t.TempDir(), newClock()) // of all of them: a file each would measure the disk
	var rigs []*rig
	for i := range devices {
		r := newRig(t, func(o *Options) {
			at(b.addr)(o)
			o.Ledger, o.DeviceID, o.ReconnectWindow = ledger, fmt.Sprintf("D-%d", i), window
		})
		rigs = append(rigs, r)
		r.run(t)
	}
	all := func() bool {
		return !slices.ContainsFunc(rigs, func(r *rig) bool { return !r.Stats().Connected })
	}
	eventually(t, "the fleet", all)
	b.stop()
	eventually(t, "the loss to be noticed", func() bool {
		return !slices.ContainsFunc(rigs, func(r *rig) bool { return r.Stats().Connected })
	})
	mu.Lock()
	clear(arrivals)
	mu.Unlock()
	b = startBroker(t, b.addr, nil, hook())
	eventually(t, "the fleet to come back", all)

	mu.Lock()
	defer mu.Unlock()
	var first []time.Time
	for _, times := range arrivals {
		first = append(first, times[0])
	}
	slices.SortFunc(first, time.Time.Compare)
	spread := first[len(first)-1].Sub(first[0])
	most := 0 // within a tenth of the window
	for i, from := range first {
		n := 0
		for _, other := range first[i:] {
			if other.Sub(from) < window/10 {
				n++
			}
		}
		most = max(most, n)
	}
	t.Logf("%d devices came back within %v, at most %d within %v", len(first), spread, most, window/10)
	// At random a tenth of the window sees 32 of 300, and hardly ever 60. A busy
	// machine can only bunch them up a little.
	if len(first) != devices || spread < window/2 || most > devices/2 {
		t.Errorf("%d devices came back within %v, at most %d within %v", len(first), spread, most, window/10)
	}
}

func TestPauses(t *testing.T) {
	const window = 16 * time.Second
	low, high := window, time.Duration(0)
	for range 10000 {
		p := pauseIn(window)
		low, high = min(low, p), max(high, p)
	}
	if low < time.Second || low > 2*time.Second || high > window || high < window-time.Second {
		t.Errorf("pauses from %v to %v", low, high)
	}
}

func TestTopics(t *testing.T) {
	r := newRig(t, nil).rules
	got := map[string]source{}
	for _, topic := range []string{
		"pyvorin/fleet/config/update", "pyvorin/group/north/config/update", "pyvorin/device/" + device + "/config/update",
		"pyvorin/fleet/command/x", "pyvorin/group/north/command/x", "pyvorin/device/" + device + "/command/x",
		"pyvorin/device/" + device + "/desired", "pyvorin/device/" + device + "/report/ack",
		"pyvorin/group/south/command/x", "pyvorin/device/other/desired", "pyvorin/fleet/command/", "pyvorin/fleet/command/x/y", "", "else",
	} {
		if src, ok := r.source(topic); ok {
			got[strings.TrimPrefix(topic, "pyvorin/")] = src
		}
	}
	want := map[string]source{
		"fleet/config/update": {configChannel, "", false}, "group/north/config/update": {configChannel, "", false}, "device/" + device + "/config/update": {configChannel, "", true},
		"fleet/command/x": {commandChannel, "x", false}, "group/north/command/x": {commandChannel, "x", false}, "device/" + device + "/command/x": {commandChannel, "x", true},
		"device/" + device + "/desired": {desiredChannel, "", true}, "device/" + device + "/report/ack": {ackChannel, "", true},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(source{})); diff != "" {
		t.Error(diff)
	}
}
