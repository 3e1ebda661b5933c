package health

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/wire"
)

const token = "correct horse"

// testOptions serve a healthy device on a free port of loopback.
func testOptions(t testing.TB) Options {
	c := config.Default().Health
	c.Address, c.Port, c.AdminToken = "127.0.0.1", 0, token
	c.Thresholds = config.Thresholds{} // the machine that runs the tests may be hot and full
	return Options{
		Config: c, BaseDir: t.TempDir(), SocketPath: filepath.Join(t.TempDir(), "run", "health.sock"),
		Source: exampleFacts, Log: zerolog.Nop(),
	}
}

// start runs a Server until the test ends. Fast limits make a slow client slow
// enough within a test.
func start(t testing.TB, o Options, limit ...func(*limits)) *Server {
	t.Helper()
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range limit {
		l(&s.limits)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run returned %v", err)
		}
		if _, err := os.Lstat(o.SocketPath); err == nil {
			t.Error("the socket file is still there")
		}
	})
	select {
	case <-s.Ready():
	case err := <-done:
		t.Fatalf("Run returned %v", err)
	case <-time.After(10 * time.Second):
		t.Fatal("not ready after 10 s")
	}
	return s
}

// socketClient speaks HTTP on the unix socket.
func socketClient(t testing.TB, path string) *http.Client {
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// tcpClient keeps no connection beyond the test.
func tcpClient(t testing.TB) *http.Client {
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func get(t testing.TB, c *http.Client, url string) (status int, body string) {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

func TestServes(t *testing.T) {
	var beats atomic.Int64
	o := testOptions(t)
	o.Beat = func() { beats.Add(1) }
	s := start(t, o)
	base := "http://" + s.Addr().String()
	for name, c := range map[string]struct {
		client *http.Client
		base   string
	}{"tcp": {tcpClient(t), base}, "socket": {socketClient(t, o.SocketPath), "http://edge"}} {
		status, body := get(t, c.client, c.base+"/health")
		var doc wire.Health
		if err := json.Unmarshal([]byte(body), &doc); err != nil || status != 200 || doc.Status != wire.Healthy {
			t.Errorf("%s: %d, %v, %s", name, status, err, body)
		}
		// The figures that every machine has are there from the first answer on.
		if doc.Metrics.CPUPercent == nil || doc.Metrics.DiskPercent == nil || doc.Metrics.MemoryPercent == nil || doc.Metrics.RSSBytes == 0 {
			t.Errorf("%s: metrics are missing in %s", name, body)
		}
	}
	info, err := os.Stat(o.SocketPath)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("socket: mode %v, %v", info.Mode(), err)
	}
	if info, err := os.Stat(filepath.Dir(o.SocketPath)); err != nil || info.Mode().Perm()&^0o750 != 0 {
		t.Errorf("folder of the socket: mode %v, %v", info.Mode(), err)
	}
	eventually(t, "a beat", func() bool { return beats.Load() > 0 })
	resp, err := tcpClient(t).Head(base + "/health")
	if err != nil || resp.StatusCode != 200 || resp.ContentLength <= 0 {
		t.Errorf("HEAD: %v, %v", resp, err)
	}
}

func TestStates(t *testing.T) {
	cases := []struct {
		name                string
		change              func(*Facts)
		health, live, ready int
		said                string // by the one that is not 200
	}{
		{"healthy", func(*Facts) {}, 200, 200, 200, ""},
		{"degraded", func(f *Facts) { f.ClockSet = false }, 200, 200, 200, ""},
		{"queue closed", func(f *Facts) { f.QueueFault = "disk full" }, 503, 200, 503, "not ready: the queue cannot accept readings: disk full\n"},
		{"queue opening", func(f *Facts) { f.QueueOpening = true }, 200, 200, 503, "not ready: the queue is being opened\n"},
		{"stalled", func(f *Facts) { f.Stalled = []string{"poller"} }, 503, 503, 200, "stalled: poller\n"},
		{"nothing polled", func(f *Facts) { f.Health.Sensors.OK = 0 }, 200, 200, 503, "not ready: no sensor was polled yet\n"},
		{"no sensors", func(f *Facts) { f.Health.Sensors = wire.SensorsHealth{} }, 200, 200, 200, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			o := testOptions(t)
			o.Source = func() Facts {
				f := exampleFacts()
				c.change(&f)
				return f
			}
			s, err := New(o)
			if err != nil {
				t.Fatal(err)
			}
			for path, want := range map[string]int{"/health": c.health, "/livez": c.live, "/readyz": c.ready} {
				w := httptest.NewRecorder()
				s.handler.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
				if w.Code != want {
					t.Errorf("%s: %d, want %d", path, w.Code, want)
				}
				if path != "/health" && want != 200 && w.Body.String() != c.said {
					t.Errorf("%s: %q, want %q", path, w.Body.String(), c.said)
				}
			}
		})
	}
}

func TestPortInUse(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	o := testOptions(t)
	o.Config.Port = taken.Addr().(*net.TCPAddr).Port
	s := start(t, o, func(l *limits) { l.retryMin, l.retryMax = 10*time.Millisecond, 20*time.Millisecond })
	if s.Addr() != nil {
		t.Errorf("serves %v", s.Addr())
	}
	status, body := get(t, socketClient(t, o.SocketPath), "http://edge/health")
	var doc wire.Health
	if err := json.Unmarshal([]byte(body), &doc); err != nil || status != 200 {
		t.Fatalf("%d, %v", status, err)
	}
	want := fmt.Sprintf("agent: health endpoint failed and is tried again by itself: listen tcp 127.0.0.1:%d: bind: address already in use; free the port or set health.port", o.Config.Port)
	if doc.Status != wire.Degraded || doc.Checks["agent"] != wire.CheckWarning || len(doc.Warnings) != 1 || doc.Warnings[0] != want {
		t.Errorf("status %s, warnings %q", doc.Status, doc.Warnings)
	}
	taken.Close()
	eventually(t, "the port is served once it is free", func() bool { return s.Addr() != nil })
	if doc := s.Document(); doc.Status != wire.Healthy {
		t.Errorf("afterwards %s: %q", doc.Status, doc.Warnings)
	}
}

func TestDisabledServesTheSocketOnly(t *testing.T) {
	o := testOptions(t)
	o.Config.Enabled = false
	s := start(t, o)
	if status, _ := get(t, socketClient(t, o.SocketPath), "http://edge/health"); status != 200 || s.Addr() != nil {
		t.Errorf("%d, %v", status, s.Addr())
	}
}

func TestRunAgain(t *testing.T) {
	s, err := New(testOptions(t))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		eventually(t, "served", func() bool { return s.Addr() != nil })
		cancel()
		if err := <-done; err != nil || s.Addr() != nil {
			t.Errorf("%v, still at %v", err, s.Addr())
		}
	}
}

func TestSocketFile(t *testing.T) {
	dir := t.TempDir()
	t.Run("stale", func(t *testing.T) {
		o := testOptions(t)
		o.SocketPath = filepath.Join(dir, "stale.sock")
		dead, err := net.Listen("unix", o.SocketPath)
		if err != nil {
			t.Fatal(err)
		}
		dead.(*net.UnixListener).SetUnlinkOnClose(false) // as a process that is killed leaves it
		dead.Close()
		start(t, o)
		if status, _ := get(t, socketClient(t, o.SocketPath), "http://edge/health"); status != 200 {
			t.Error(status)
		}
	})
	t.Run("live", func(t *testing.T) {
		o := testOptions(t)
		first := start(t, o)
		want := "another process serves " + o.SocketPath + "; stop the other agent first, or give this one another base dir"
		if _, err := listenUnix(o.SocketPath); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
		if status, _ := get(t, socketClient(t, o.SocketPath), "http://edge/livez"); status != 200 || first.Addr() == nil {
			t.Errorf("the first one suffered: %d", status)
		}
	})
	t.Run("unusable", func(t *testing.T) {
		o := testOptions(t)
		folder := filepath.Dir(o.SocketPath)
		if err := os.WriteFile(folder, nil, 0o600); err != nil { // a file in the place of the folder
			t.Fatal(err)
		}
		s := start(t, o, func(l *limits) { l.retryMin, l.retryMax = 10*time.Millisecond, 10*time.Millisecond })
		status, body := get(t, tcpClient(t), "http://"+s.Addr().String()+"/health")
		if status != 200 || !strings.Contains(body, "agent: health socket failed and is tried again by itself: make the folder") {
			t.Errorf("%d %s", status, body)
		}
		if err := os.Remove(folder); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the socket is served once that is possible", func() bool { return s.Document().Status == wire.Healthy })
	})
	t.Run("no socket", func(t *testing.T) {
		path := filepath.Join(dir, "file")
		if err := os.WriteFile(path, []byte("precious"), fs.FileMode(0o600)); err != nil {
			t.Fatal(err)
		}
		if _, err := listenUnix(path); err == nil || !strings.Contains(err.Error(), "is no socket; move it away") {
			t.Error(err)
		}
		if b, _ := os.ReadFile(path); string(b) != "precious" {
			t.Error("the file is gone")
		}
	})
	t.Run("no folder", func(t *testing.T) {
		if _, err := listenUnix(filepath.Join(dir, "file", "health.sock")); err == nil || !strings.Contains(err.Error(), "make the folder of the health socket") {
			t.Error(err)
		}
	})
	t.Run("path too long", func(t *testing.T) {
		o := testOptions(t)
		o.SocketPath = "/" + strings.Repeat("x", 107)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), "has 108 bytes, but a socket's may have 1 to 107") {
			t.Error(err)
		}
		o.SocketPath = o.SocketPath[:107]
		if _, err := New(o); err != nil {
			t.Error(err)
		}
	})
}

// TestSlowClients fills every connection with clients that do not send, or do
// not read, and expects an answer nevertheless, and an end of the server.
func TestSlowClients(t *testing.T) {
	o := testOptions(t)
	o.API = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for range 1024 {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	})
	s := start(t, o, func(l *limits) {
		l.header, l.read, l.write, l.idle = 300*time.Millisecond, 300*time.Millisecond, 300*time.Millisecond, 300*time.Millisecond
		l.tcpConns = 4
	})
	for i := range 8 {
		conn, err := net.Dial("tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		switch i % 4 {
		case 0: // a header that never ends
			fmt.Fprint(conn, "GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: ")
		case 1: // a body that never comes
			fmt.Fprintf(conn, "POST /config/reload HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Length: 100\r\n\r\n", token)
		case 2: // an answer that is never read
			fmt.Fprint(conn, "GET /api/big HTTP/1.1\r\nHost: localhost\r\n\r\n")
		case 3: // nothing
		}
	}
	// The socket does not notice, and the network recovers by itself.
	if status, _ := get(t, socketClient(t, o.SocketPath), "http://edge/health"); status != 200 {
		t.Error(status)
	}
	client := tcpClient(t)
	client.Timeout = 10 * time.Second
	if status, _ := get(t, client, "http://"+s.Addr().String()+"/health"); status != 200 {
		t.Error(status)
	}
}

func TestHugeHeader(t *testing.T) {
	s := start(t, testOptions(t))
	conn, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go fmt.Fprintf(conn, "GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: %s\r\n\r\n", strings.Repeat("a", 1<<20))
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || !strings.Contains(line, "431") {
		t.Errorf("%q, %v", line, err)
	}
}

func TestPanicIsAnswered(t *testing.T) {
	o := testOptions(t)
	o.API = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("secret detail") })
	s := start(t, o)
	status, body := get(t, socketClient(t, o.SocketPath), "http://edge/api/x")
	if status != 500 || strings.Contains(body, "secret") {
		t.Errorf("%d %s", status, body)
	}
	if s.Document().Status != wire.Healthy {
		t.Error("a request changed the verdict")
	}
}

func TestNewRefuses(t *testing.T) {
	for want, change := range map[string]func(*Options){
		"without a source":            func(o *Options) { o.Source = nil },
		"has 0 bytes":                 func(o *Options) { o.SocketPath = "" },
		`probe "queue": the name is`:  func(o *Options) { o.Config.Probes = []config.Probe{{Name: "queue"}} },
		`probe "x": target is missin`: func(o *Options) { o.Config.Probes = []config.Probe{{Name: "x", Type: "tcp"}} },
	} {
		o := testOptions(t)
		change(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// BenchmarkHealth is the cost of one document.
func BenchmarkHealth(b *testing.B) {
	o := testOptions(b)
	o.Window = NewWindow()
	for range 1000 {
		o.Window.Observe(time.Millisecond, nil)
	}
	s, err := New(o)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		r := httptest.NewRequest("GET", "/health", nil)
		for pb.Next() {
			w := httptest.NewRecorder()
			if s.handler.ServeHTTP(w, r); w.Code != 200 {
				b.Error(w.Code)
			}
		}
	})
}

// BenchmarkHealthUnderLoad is the promise that /health answers soon while many
// ask: what 99 of 100 requests take at most when eight clients, which share
// the processors with the server, ask without a pause.
func BenchmarkHealthUnderLoad(b *testing.B) {
	s := start(b, testOptions(b))
	url := fmt.Sprintf("http://%s/health", s.Addr())
	var mu sync.Mutex
	var took []time.Duration
	b.SetParallelism(max(8/runtime.GOMAXPROCS(0), 1))
	b.RunParallel(func(pb *testing.PB) {
		client := tcpClient(b)
		var own []time.Duration
		for pb.Next() {
			begin := time.Now()
			if status, _ := get(b, client, url); status != 200 {
				b.Error(status)
			}
			own = append(own, time.Since(begin))
		}
		mu.Lock()
		took = append(took, own...)
		mu.Unlock()
	})
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}
