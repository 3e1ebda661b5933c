//go:build services

package command

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/pyvorin/pyvorin-edge/wire"
)

// startMosquitto starts the broker that most people have, with TLS and client
// certificates, on loopback.
func startMosquitto(t *testing.T, p *pki, port string) (stop func()) {
	t.Helper()
	cert, key := p.issue(t, "broker", time.Now().AddDate(1, 0, 0))
	conf := filepath.Join(t.TempDir(), "conf")
	settings := fmt.Sprintf("listener %s 127.0.0.1\ncafile %s\ncertfile %s\nkeyfile %s\nrequire_certificate true\nuse_identity_as_username true\npersistence false\nuser root\n", port, p.ca, cert, key)
	if err := os.WriteFile(conf, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	program := "/usr/sbin/mosquitto" // not in everybody's PATH
	if path, err := exec.LookPath("mosquitto"); err == nil {
		program = path
	}
	cmd := exec.Command(program, "-c", conf)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatalf("start mosquitto: %v; install the package mosquitto", err)
	}
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait() // it was told to end
		if t.Failed() {
			t.Logf("mosquitto:\n%s", &out)
		}
	})
	t.Cleanup(stop)
	return stop
}

// All of it, at a broker that is not ours: what is retained is obeyed once over
// a restart that loses it, and presence follows.
func TestMosquitto(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	ln.Close()
	p := newPKI(t)
	stop := startMosquitto(t, p, port)
	options := func(o *Options) {
		o.URL, o.CAFile = "ssl://127.0.0.1:"+port, p.ca
		o.CertFile, o.KeyFile = p.issue(t, o.DeviceID, time.Now().AddDate(1, 0, 0))
	}
	r := newRig(t, options)
	r.clock.set(time.Now(), true)
	r.timing.resend = 50 * time.Millisecond // the controller may come after the first try
	r.run(t)
	r.connected(t)

	once := signed(t, change(rollback("nonce-once"), func(c *wire.Command) {
		c.IssuedAt, c.ExpiresAt = time.Now().Add(-time.Minute), time.Now().AddDate(0, 0, 7)
	}))
	// The controller is a client like any other here.
	control := func() {
		t.Helper()
		c := newRig(t, func(o *Options) { o.DeviceID = "controller"; options(o) })
		c.clock.set(time.Now(), true)
		settings, err := c.tlsConfig()
		if err != nil {
			t.Fatal(err)
		}
		client := paho.NewClient(paho.NewClientOptions().AddBroker("ssl://127.0.0.1:" + port).SetClientID("controller").SetTLSConfig(settings).SetAutoReconnect(false))
		if token := client.Connect(); !token.WaitTimeout(patience) || token.Error() != nil {
			t.Fatal(token.Error())
		}
		t.Cleanup(func() { client.Disconnect(100) })
		var mu sync.Mutex
		seen := map[string][]byte{}
		token := client.Subscribe(topics.Prefix+"/device/#", 1, func(_ paho.Client, m paho.Message) {
			mu.Lock()
			defer mu.Unlock()
			seen[m.Topic()] = m.Payload()
		})
		if !token.WaitTimeout(patience) || token.Error() != nil {
			t.Fatal(token.Error())
		}
		eventually(t, "presence", func() bool {
			mu.Lock()
			defer mu.Unlock()
			var p wire.Presence
			return json.Unmarshal(seen[topics.Presence(device)], &p) == nil && p.Online && p.Epoch > 0
		})
		token = client.Publish(topics.FleetCommand("rollback"), 1, true, once)
		if !token.WaitTimeout(patience) || token.Error() != nil {
			t.Fatal(token.Error())
		}
		eventually(t, "the report's acknowledgement", func() bool {
			mu.Lock()
			defer mu.Unlock()
			var report wire.Report
			if json.Unmarshal(seen[topics.Report(device)], &report) == nil && report.Seq > 0 {
				client.Publish(topics.ReportAck(device), 1, false, fmt.Appendf(nil, `{"seq":%d}`, report.Seq))
			}
			return r.Stats().ReportsWaiting == 0 && r.actions.count() > 0
		})
	}
	control()
	stop()
	eventually(t, "the loss to be noticed", func() bool { return !r.Stats().Connected })
	startMosquitto(t, p, port)
	r.connected(t)
	control()
	eventually(t, "the duplicate", func() bool { return r.Stats().Refused[ReasonDuplicate] > 0 })
	if n := r.actions.count(); n != 1 {
		t.Errorf("obeyed %d times", n)
	}
}
