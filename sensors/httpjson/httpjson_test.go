package httpjson

import (
	"bufio"
	"context"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// secret stands for everything that must not show in an error.
const secret = "hunter2"

func newSensor(t *testing.T, change func(*Options)) *sensor {
	t.Helper()
	o := Type.Options().(*Options)
	o.JSONPath = "v"
	change(o)
	s, err := New(config.Sensor{Options: o}, sensors.Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.(sensors.Closer).Close() })
	return s.(*sensor)
}

func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv
}

func read(t *testing.T, s sensors.Sensor) ([]sensors.Sample, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	got, err := s.Read(ctx)
	if err != nil && strings.Contains(err.Error(), secret) {
		t.Errorf("the error carries a secret: %v", err)
	}
	return got, err
}

func wantError(t *testing.T, s sensors.Sensor, want string) {
	t.Helper()
	got, err := read(t, s)
	if err == nil || !strings.Contains(err.Error(), want) || len(got) != 0 {
		t.Errorf("got %+v, %v; want an error with %q", got, err, want)
	}
}

func TestRead(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+secret || r.Header.Get("X-Key") != secret || r.URL.Query().Get("k") != secret {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		fmt.Fprint(w, `{"room":{"temp":21.5,"open":false},"at":"2026-01-02T03:04:05Z","model":"x1"}`)
	})
	s := newSensor(t, func(o *Options) {
		o.URL = srv.URL + "/status?k=" + secret
		o.BearerToken = secret
		o.Headers = map[string]string{"X-Key": secret}
		o.JSONPath = ""
		o.Fields = map[string]string{"temp": "room.temp", "door": "room.open", "gone": "room.gone"}
		o.TimestampPath = "at"
		o.Meta = map[string]string{"model": "model"}
	})
	got, err := read(t, s)
	if err != nil || len(got) != 3 {
		t.Fatal(got, err)
	}
	door, gone, temp := got[0], got[1], got[2]
	if temp.Value != wire.NumberValue(21.5) || temp.Channel != "temp" || temp.Time.Year() != 2026 || temp.Meta["model"] != wire.TextValue("x1") {
		t.Errorf("%+v", temp)
	}
	if door.Value != wire.BoolValue(false) || gone.Quality != wire.Bad || gone.Reason == "" {
		t.Errorf("%+v %+v", door, gone)
	}
}

func TestConnectionIsKept(t *testing.T) {
	var conns atomic.Int32
	status := http.StatusOK
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		fmt.Fprint(w, `{"v":1}`, strings.Repeat(" ", 5000))
	}))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1)
		}
	}
	srv.Start()
	t.Cleanup(srv.Close)
	s := newSensor(t, func(o *Options) { o.URL = srv.URL })
	for _, status = range []int{200, 500, 200, 404, 200} {
		_, err := read(t, s)
		if (err == nil) != (status == 200) {
			t.Fatal(status, err)
		}
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections for five reads", n)
	}
}

func TestPostAndHost(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		line, _ := bufio.NewReader(r.Body).ReadString('\n')
		if r.Method != "POST" || line != `{"method":"get"}` || r.Host != "inverter" || r.Header.Get("Content-Type") != "application/json" {
			w.WriteHeader(400)
			return
		}
		w.WriteHeader(203)
		fmt.Fprint(w, `{"v":1}`)
	})
	s := newSensor(t, func(o *Options) {
		o.URL, o.Method, o.Body, o.ExpectStatus = srv.URL, "POST", `{"method":"get"}`, 203
		o.Headers = map[string]string{"host": "inverter"}
	})
	if got, err := read(t, s); err != nil || got[0].Value != wire.NumberValue(1) {
		t.Error(got, err)
	}
}

func TestTokenFileIsReadAgain(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer new" {
			w.WriteHeader(401)
		}
		fmt.Fprint(w, `{"v":1}`)
	})
	file := filepath.Join(t.TempDir(), "token")
	s := newSensor(t, func(o *Options) { o.URL, o.BearerTokenFile = srv.URL, file })
	wantError(t, s, "bearer_token_file")
	for content, want := range map[string]string{secret + "\n" + secret: "one token", "": "one token", "old\n": "status 401"} {
		os.WriteFile(file, []byte(content), 0o600)
		wantError(t, s, want)
	}
	os.WriteFile(file, []byte("new\n"), 0o600)
	if _, err := read(t, s); err != nil {
		t.Error(err)
	}
}

func TestBadAnswers(t *testing.T) {
	tests := []struct {
		name    string
		handler http.HandlerFunc
		want    string
	}{
		{"not JSON", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>"+secret) }, "not valid JSON"},
		{"empty", func(http.ResponseWriter, *http.Request) {}, "not valid JSON"},
		{"no such path", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"w":"`+secret+`"}`) }, `nothing at "v"`},
		{"wrong type", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"v":["`+secret+`"]}`) }, "not a value"},
		{"huge", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"v":1,"x":"`)
			for range 200 {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		}, "max_body_bytes (1048576)"},
		{"server error", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, secret, http.StatusServiceUnavailable) }, "status 503"},
		{"cut", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, `{"v":1}`)
		}, "closed before the answer was complete"},
	}
	for _, tt := range tests {
		srv := serve(t, tt.handler)
		wantError(t, newSensor(t, func(o *Options) { o.URL = srv.URL + "/" + secret + "?" + secret }), tt.want)
	}
}

func TestRawServers(t *testing.T) {
	answer := func(t *testing.T, text string) string {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				bufio.NewReader(c).ReadString('\n')
				c.Write([]byte(text))
				c.Close()
			}
		}()
		return "http://" + ln.Addr().String()
	}
	tests := []struct{ text, want string }{
		{"", "closed before"},
		{"SSH-2.0-" + secret + "\r\n\r\n", "not valid HTTP"},
		{"HTTP/1.1 200 OK\r\nBroken " + secret + "\r\n\r\n", "not valid HTTP"},
		{"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", 1<<20) + "\r\n\r\n", ""},
	}
	for _, tt := range tests {
		wantError(t, newSensor(t, func(o *Options) { o.URL = answer(t, tt.text) }), tt.want)
	}
	wantError(t, newSensor(t, func(o *Options) {
		o.URL = strings.Replace(answer(t, "HTTP/1.1 400 Bad Request\r\n\r\n"), "http:", "https:", 1)
	}), "use http://")
	wantError(t, newSensor(t, func(o *Options) { o.URL = "http://user:" + secret + "@127.0.0.1:1/" + secret }), "connection refused")
}

// An outage must read the same at each poll: the local port is another one.
func TestReasonOfAnOutageStaysTheSame(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.Read(make([]byte, 1))
			c.(*net.TCPConn).SetLinger(0) // close with a reset
			c.Close()
		}
	}()
	s := newSensor(t, func(o *Options) { o.URL = "http://" + ln.Addr().String() })
	_, first := read(t, s)
	_, second := read(t, s)
	if first == nil || second == nil || first.Error() != second.Error() || !strings.Contains(first.Error(), "reset") {
		t.Errorf("%v\n%v", first, second)
	}
}

func TestSlowLoris(t *testing.T) {
	stop := make(chan struct{})
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		for {
			select {
			case <-stop:
				return
			case <-r.Context().Done():
				return
			case <-time.After(5 * time.Millisecond):
				fmt.Fprint(w, " ")
				http.NewResponseController(w).Flush()
			}
		}
	})
	t.Cleanup(func() { close(stop) })
	s := newSensor(t, func(o *Options) { o.URL = srv.URL })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := s.Read(ctx)
	if err == nil || !strings.Contains(err.Error(), "in time") || time.Since(start) > 5*time.Second {
		t.Error(err, time.Since(start))
	}
}

func TestRedirects(t *testing.T) {
	var leaked atomic.Bool
	other := serve(t, func(w http.ResponseWriter, r *http.Request) {
		leaked.Store(true)
		fmt.Fprint(w, `{"v":1}`)
	})
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/here":
			http.Redirect(w, r, "/v", http.StatusFound)
		case "/away":
			http.Redirect(w, r, other.URL+"/"+secret, http.StatusFound)
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		default:
			fmt.Fprint(w, `{"v":1}`)
		}
	})
	if _, err := read(t, newSensor(t, func(o *Options) { o.URL = srv.URL + "/here" })); err != nil {
		t.Error(err)
	}
	wantError(t, newSensor(t, func(o *Options) {
		o.URL, o.Headers = srv.URL+"/away", map[string]string{"X-Key": secret}
	}), "redirect that is not followed")
	wantError(t, newSensor(t, func(o *Options) { o.URL = srv.URL + "/loop" }), "redirect that is not followed")
	if leaked.Load() {
		t.Error("a redirect was followed to another host")
	}
}

func TestTLS(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"v":1}`) }))
	srv.Config.ErrorLog = nil
	t.Cleanup(srv.Close)
	dir := t.TempDir()
	ca, notPEM := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "not.pem")
	os.WriteFile(notPEM, []byte("x"), 0o600)

	wantError(t, newSensor(t, func(o *Options) { o.URL = srv.URL }), "certificate")
	wantError(t, newSensor(t, func(o *Options) { o.URL, o.CAFile = srv.URL, notPEM }), "no PEM certificate")
	s := newSensor(t, func(o *Options) { o.URL, o.CAFile = srv.URL, ca })
	wantError(t, s, "ca_file")
	// A missing file is looked for again.
	os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600)
	if _, err := read(t, s); err != nil {
		t.Error(err)
	}
	_, port, _ := net.SplitHostPort(srv.Listener.Addr().String())
	wantError(t, newSensor(t, func(o *Options) { o.URL, o.CAFile = "https://localhost:"+port, ca }), "certificate is")
}

func TestNewRefuses(t *testing.T) {
	bad := map[string]func(*Options){
		"no scheme":     func(o *Options) { o.URL = "192.168.0.1/" + secret },
		"other scheme":  func(o *Options) { o.URL = "ftp://x/" },
		"unparsable":    func(o *Options) { o.URL = "http://u:" + secret + "@[::1/" },
		"no path":       func(o *Options) { o.JSONPath = "" },
		"two paths":     func(o *Options) { o.Fields = map[string]string{"a": "b"} },
		"body with GET": func(o *Options) { o.Body = secret },
		"ca for http":   func(o *Options) { o.CAFile = "x" },
		"token break":   func(o *Options) { o.BearerToken = secret + "\n" },
		"header break":  func(o *Options) { o.Headers = map[string]string{"A": secret + "\r\nB: c"} },
		"header name":   func(o *Options) { o.Headers = map[string]string{"A b": "c"} },
	}
	for name, change := range bad {
		o := Type.Options().(*Options)
		o.URL, o.JSONPath = "http://x/", "v"
		change(o)
		_, err := New(config.Sensor{Options: o}, sensors.Env{})
		if err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
