package health

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// TestSetConfigInPlace changes all but what is listened on: a connection that
// was open before works on, and a probe that stays keeps what it found out.
func TestSetConfigInPlace(t *testing.T) {
	var asked, askedNew atomic.Int64
	kept := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer kept.Close()
	added := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { askedNew.Add(1) }))
	defer added.Close()
	probe := func(name, url string, interval float64) config.Probe {
		return config.Probe{Name: name, Type: "http", Target: url, IntervalSeconds: interval, TimeoutSeconds: 5, Failures: 1, Severity: "critical"}
	}
	o := testOptions(t)
	o.Config.Probes = []config.Probe{probe("kept", kept.URL, 3600), probe("gone", kept.URL, 3600)}
	s := start(t, o)
	addr := s.Addr().String()
	client := tcpClient(t)
	var dialled atomic.Int64
	client.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		dialled.Add(1)
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	if status, _ := get(t, client, "http://"+addr+"/livez"); status != 200 {
		t.Fatal(status)
	}
	eventually(t, "both probes are known", func() bool {
		d := s.Document()
		return d.Checks["kept"] == wire.CheckOK && d.Checks["gone"] == wire.CheckOK
	})

	c := o.Config
	c.AdminToken, c.Thresholds.MemoryCriticalPercent = "another", 0.001
	c.Probes = []config.Probe{probe("kept", kept.URL, 3600), probe("added", added.URL, 3600)}
	if err := s.SetConfig(c); err != nil {
		t.Fatal(err)
	}
	d := s.Document()
	if _, there := d.Checks["gone"]; there || d.Checks["kept"] != wire.CheckOK || d.Checks["memory"] != wire.CheckCritical {
		t.Errorf("checks %v", d.Checks)
	}
	eventually(t, "the new probe is known", func() bool { return s.Document().Checks["added"] == wire.CheckOK })
	for token, want := range map[string]bool{token: false, "another": true} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		if got := s.hasToken(r); got != want {
			t.Errorf("token %q: %v", token, got)
		}
	}
	if status, _ := get(t, client, "http://"+addr+"/livez"); status != 200 || dialled.Load() != 1 || s.Addr().String() != addr {
		t.Errorf("%d over %d connections, now at %v", status, dialled.Load(), s.Addr())
	}
	if asked.Load() != 2 || askedNew.Load() != 1 {
		t.Errorf("the old probes asked %d times, the new one %d times", asked.Load(), askedNew.Load())
	}
}

func TestSetConfigMovesTheListener(t *testing.T) {
	o := testOptions(t)
	s := start(t, o)
	before := s.Addr().String()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := o.Config
	c.Port = free.Addr().(*net.TCPAddr).Port
	free.Close()
	if err := s.SetConfig(c); err != nil {
		t.Fatal(err)
	}
	at := func() string {
		if s.Addr() == nil {
			return ""
		}
		return s.Addr().String()
	}
	eventually(t, "the new port is served", func() bool { return at() == free.Addr().String() })
	if conn, err := net.DialTimeout("tcp", before, time.Second); err == nil {
		conn.Close()
		t.Error("the old port is still served")
	}
	c.Enabled = false
	if err := s.SetConfig(c); err != nil {
		t.Fatal(err)
	}
	eventually(t, "no port is served", func() bool { return at() == "" })
	if status, _ := get(t, socketClient(t, o.SocketPath), "http://edge/health"); status != 200 {
		t.Error(status)
	}
	c.Enabled = true
	if err := s.SetConfig(c); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the port is served again", func() bool { return at() == free.Addr().String() })
}

func TestSetConfigRefusesAsAWhole(t *testing.T) {
	o := testOptions(t)
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	c := o.Config
	c.AdminToken, c.Probes = "another", []config.Probe{{Name: "queue"}}
	if s.SetConfig(c) == nil || s.settings.Load().config.AdminToken != token {
		t.Error("a config that is no good was taken")
	}
}
