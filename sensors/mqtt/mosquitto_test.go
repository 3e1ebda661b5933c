//go:build services

package mqtt

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/pyvorin/pyvorin-edge/wire"
)

// mosquitto is a broker of its own on loopback: the one that most people have.
type mosquitto struct {
	t    *testing.T
	dir  string
	addr string
	cmd  *exec.Cmd
	done chan struct{}
}

// startMosquitto starts a broker that lets in only the user edge.
func startMosquitto(t *testing.T) *mosquitto {
	t.Helper()
	m := &mosquitto{t: t, dir: t.TempDir(), addr: freeAddr(t)}
	passwords := filepath.Join(m.dir, "passwords")
	if out, err := exec.Command("mosquitto_passwd", "-b", "-c", passwords, "edge", secret).CombinedOutput(); err != nil {
		t.Fatalf("mosquitto_passwd: %v: %s; install the package mosquitto", err, out)
	}
	host, port, _ := strings.Cut(m.addr, ":")
	settings := fmt.Sprintf("listener %s %s\nallow_anonymous false\npassword_file %s\npersistence false\nuser root\n", port, host, passwords)
	if err := os.WriteFile(filepath.Join(m.dir, "conf"), []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.stop(syscall.SIGKILL)
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(m.dir, "log"))
			t.Logf("mosquitto:\n%s", log)
		}
	})
	m.start()
	return m
}

func (m *mosquitto) start() {
	m.t.Helper()
	program := "/usr/sbin/mosquitto" // not in everybody's PATH
	if path, err := exec.LookPath("mosquitto"); err == nil {
		program = path
	}
	log, err := os.OpenFile(filepath.Join(m.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		m.t.Fatal(err)
	}
	defer log.Close()
	m.cmd = exec.Command(program, "-v", "-c", filepath.Join(m.dir, "conf"))
	m.cmd.Stdout, m.cmd.Stderr = log, log
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := m.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.done = make(chan struct{})
	go func() {
		m.cmd.Wait()
		close(m.done)
	}()
}

func (m *mosquitto) stop(how syscall.Signal) {
	m.t.Helper()
	m.cmd.Process.Signal(how)
	select {
	case <-m.done:
	case <-time.After(15 * time.Second):
		m.t.Errorf("mosquitto did not end at %v", how)
	}
}

// log tells how often mosquitto has said text.
func (m *mosquitto) said(text string) int {
	log, _ := os.ReadFile(filepath.Join(m.dir, "log"))
	return bytes.Count(log, []byte(text))
}

func (m *mosquitto) publish(qos byte, topic, payload string, retain bool) {
	m.t.Helper()
	o := paho.NewClientOptions().AddBroker("tcp://" + m.addr).SetClientID("publisher").SetUsername("edge").SetPassword(secret)
	c := paho.NewClient(o)
	if token := c.Connect(); !token.WaitTimeout(15*time.Second) || token.Error() != nil {
		m.t.Fatalf("connect the publisher: %v", token.Error())
	}
	defer c.Disconnect(250)
	if token := c.Publish(topic, qos, retain, payload); !token.WaitTimeout(15*time.Second) || token.Error() != nil {
		m.t.Fatalf("publish: %v", token.Error())
	}
}

// TestMosquitto restarts the broker under a sensor: once as its owner does, and
// once by a crash.
func TestMosquitto(t *testing.T) {
	b := startMosquitto(t)
	r := run(t, func(o *Options) {
		o.Broker, o.Username, o.Password = "tcp://"+b.addr, "edge", secret
		o.QoS, o.ClientID, o.JSONPath, o.ChannelFrom = 2, "sensor", "t", "2"
	})
	for round, how := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL, 0} {
		eventually(t, "the subscription", func() bool { return b.said("Sending SUBACK to sensor") == round+1 })
		for qos := range byte(3) {
			b.publish(qos, "home/kitchen/state", fmt.Sprintf(`{"t":%d.%d}`, round, qos), false)
		}
		got := r.collect(t, 3)
		for qos, s := range got {
			want := wire.NumberValue(float64(round) + float64(qos)/10)
			if len(got) != 3 || s.Value != want || s.Channel != "kitchen" || s.Quality != "" {
				t.Fatalf("round %d: %+v, want %v", round, got, want)
			}
		}
		if how == 0 {
			break
		}
		b.stop(how)
		r.failing(t, "broker tcp://"+b.addr+": ")
		b.start()
	}
	if _, err := r.Read(t.Context()); err != nil {
		t.Errorf("an error is left: %v", err)
	}
	r.stop()
	eventually(t, "the parting", func() bool { return b.said("Received DISCONNECT from sensor") == 1 })
}

func TestMosquittoRetains(t *testing.T) {
	b := startMosquitto(t)
	eventually(t, "the broker", func() bool { return b.said("running") > 0 })
	b.publish(1, "home/x", "21.5", true)
	r := run(t, func(o *Options) { o.Broker, o.Username, o.Password = "tcp://"+b.addr, "edge", secret })
	if got := r.collect(t, 1); got[0].Value != wire.NumberValue(21.5) || got[0].Quality != wire.Uncertain {
		t.Errorf("%+v, want it uncertain", got)
	}
}

func TestMosquittoRefuses(t *testing.T) {
	b := startMosquitto(t)
	r := run(t, func(o *Options) { o.Broker, o.Username, o.Password = "tcp://"+b.addr, "edge", "wrong" })
	r.failing(t, "did not accept the connection")
	if b.said("not authorised") == 0 {
		t.Error("it was not mosquitto that refused")
	}
}
