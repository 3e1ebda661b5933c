package health

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/pyvorin/pyvorin-edge/config"
)

// TestAccess asks for everything from everywhere, with and without the token.
// What comes over the network from elsewhere is requests with that peer; the
// socket and loopback are real.
func TestAccess(t *testing.T) {
	o := testOptions(t)
	o.API = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.URL.Path) })
	o.Reload = func(context.Context, string, []byte) error { return nil }
	s := start(t, o)
	local := "http://" + s.Addr().String()

	// With no port in it: loopback must match any.
	over := func(c *http.Client, base string) func(*http.Request) *http.Response {
		return func(r *http.Request) *http.Response {
			req, err := http.NewRequest(r.Method, base+r.URL.Path, r.Body)
			if err != nil {
				t.Fatal(err)
			}
			req.Header, req.Host = r.Header, r.Host
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			return resp
		}
	}
	from := func(peer string) func(*http.Request) *http.Response {
		return func(r *http.Request) *http.Response {
			r.RemoteAddr = peer
			w := httptest.NewRecorder()
			s.handler.ServeHTTP(w, r)
			return w.Result()
		}
	}
	tcp, sock := over(tcpClient(t), local), over(socketClient(t, o.SocketPath), "http://edge")
	sources := []struct {
		name   string
		do     func(*http.Request) *http.Response
		host   string
		free   bool // may see the page without a token
		reload bool // may reload without a token
	}{
		{"socket", sock, "anything", true, true},
		{"loopback", tcp, "localhost:8080", true, false},
		{"loopback by address", tcp, "127.0.0.1", true, false},
		{"loopback v6", from("[::1]:5000"), "[::1]:8080", true, false},
		{"loopback v4 in v6", from("[::ffff:127.0.0.1]:5000"), "LocalHost", true, false},
		{"rebinding", tcp, "evil.example:8080", false, false},
		{"rebinding by prefix", tcp, "localhost.evil.example", false, false},
		{"rebinding by suffix", tcp, "evil-localhost", false, false},
		{"no host", from("127.0.0.1:5000"), "", false, false},
		{"remote", from("192.0.2.7:5000"), "localhost", false, false},
		{"remote v6", from("[2001:db8::7]:5000"), "[::1]:8080", false, false},
		{"nonsense", from("@"), "localhost", false, false},
	}
	tokens := map[string]string{"none": "", "right": "Bearer " + token, "right, lower": "bearer " + token, "wrong": "Bearer wrong", "empty": "Bearer ", "basic": "Basic " + token}
	for _, src := range sources {
		for name, authorization := range tokens {
			right := strings.HasPrefix(name, "right")
			for _, target := range []struct {
				method, path string
				ok           bool
			}{
				{"GET", "/health", true}, {"GET", "/livez", true}, {"GET", "/readyz", true}, {"GET", "/metrics", true},
				{"GET", "/", src.free || right}, {"GET", "/api/readings", src.free || right}, {"GET", "/api/x", src.free || right},
				{"POST", "/config/reload", src.reload || right},
			} {
				r := httptest.NewRequest(target.method, target.path, strings.NewReader("x"))
				r.Host = src.host
				r.Header.Set("X-Forwarded-For", "127.0.0.1")
				if authorization != "" {
					r.Header.Set("Authorization", authorization)
				}
				resp := src.do(r)
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				want := 200
				if !target.ok {
					want = 401
				}
				if resp.StatusCode != want {
					t.Errorf("%s, token %s, %s: %d, want %d", src.name, name, target.path, resp.StatusCode, want)
				}
				if want == 401 && !strings.HasPrefix(resp.Header.Get("WWW-Authenticate"), "Bearer") {
					t.Errorf("%s, token %s, %s: no WWW-Authenticate", src.name, name, target.path)
				}
				if resp.Header.Get("X-Content-Type-Options") != "nosniff" || resp.Header.Get("Cache-Control") != "no-store" {
					t.Errorf("%s: headers %v", target.path, resp.Header)
				}
			}
		}
	}
	if s.denied.Load() == 0 {
		t.Error("refusals are not counted")
	}
}

func TestNoTokenConfigured(t *testing.T) {
	o := testOptions(t)
	o.Config.AdminToken = ""
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, authorization := range []string{"", "Bearer ", "Bearer"} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Authorization", authorization)
		w := httptest.NewRecorder()
		s.handler.ServeHTTP(w, r)
		if w.Code != 401 || !strings.Contains(w.Body.String(), "set health.admin_token") {
			t.Errorf("%q: %d %s", authorization, w.Code, w.Body)
		}
	}
}

// TestForeignPages sends what a web page can make a browser on this machine
// send to an API that changes something.
func TestForeignPages(t *testing.T) {
	o := testOptions(t)
	called := false
	o.API = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called = true })
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		headers map[string]string
		want    int
	}{
		{"curl with JSON", map[string]string{"Content-Type": "application/json; charset=utf-8"}, 200},
		{"curl with a header", map[string]string{"X-Requested-With": "curl"}, 200},
		{"own page", map[string]string{"Origin": "http://localhost:8080", "Sec-Fetch-Site": "same-origin", "Content-Type": "application/json"}, 200},
		{"with the token", map[string]string{"Authorization": "Bearer " + token}, 200},
		{"form", map[string]string{"Content-Type": "application/x-www-form-urlencoded"}, 403},
		{"text, as sendBeacon does", map[string]string{"Content-Type": "text/plain"}, 403},
		{"nothing", nil, 403},
		{"other site", map[string]string{"Sec-Fetch-Site": "cross-site", "Content-Type": "application/json"}, 403},
		{"other port", map[string]string{"Sec-Fetch-Site": "same-site", "Content-Type": "application/json"}, 403},
		{"other origin, old browser", map[string]string{"Origin": "http://evil.example", "Content-Type": "application/json"}, 403},
		{"sandboxed frame", map[string]string{"Origin": "null", "X-Requested-With": "x"}, 403},
	} {
		called = false
		r := httptest.NewRequest("POST", "/api/x", nil)
		r.RemoteAddr, r.Host = "127.0.0.1:5000", "localhost:8080"
		for k, v := range c.headers {
			r.Header.Set(k, v)
		}
		w := httptest.NewRecorder()
		s.handler.ServeHTTP(w, r)
		if w.Code != c.want || called != (c.want == 200) {
			t.Errorf("%s: %d, want %d; reached %v", c.name, w.Code, c.want, called)
		}
	}
}

func TestMethods(t *testing.T) {
	o := testOptions(t)
	o.Reload = func(context.Context, string, []byte) error { return nil }
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	for request, want := range map[string]int{
		"POST /health": 405, "DELETE /livez": 405, "PUT /readyz": 405, "POST /metrics": 405, "POST /": 405, "POST /api/readings": 405, "GET /config/reload": 405,
		"GET /nowhere": 404, "GET /api/nowhere": 404, "GET /health/x": 404, "HEAD /": 200,
	} {
		method, path, _ := strings.Cut(request, " ")
		r := httptest.NewRequest(method, path, nil)
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		s.handler.ServeHTTP(w, r)
		if w.Code != want || want == 405 && w.Header().Get("Allow") == "" {
			t.Errorf("%s: %d, want %d; Allow %q", request, w.Code, want, w.Header().Get("Allow"))
		}
	}
}

func TestReload(t *testing.T) {
	form := func(field, file, content string) (string, string) {
		var b bytes.Buffer
		w := multipart.NewWriter(&b)
		part, err := w.CreateFormFile(field, file)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(part, content)
		w.Close()
		return w.FormDataContentType(), b.String()
	}
	cases := []struct {
		name        string
		contentType string
		body        string
		err         error // of Reload
		want        int
		said        string
		file        string // as Reload got it; "-" when it must not be called
	}{
		{name: "body", body: "x = 1", want: 200, said: `{"status":"applied"}`},
		{name: "JSON body", contentType: "application/json", body: "{}", want: 200, file: "config.json"},
		{name: "largest body", body: strings.Repeat("#", maxConfigBytes), want: 200},
		{name: "body too large", body: strings.Repeat("#", maxConfigBytes+1), want: 413, said: "at most 1 MiB", file: "-"},
		{name: "body far too large", body: strings.Repeat("#", 3*maxConfigBytes), want: 413, said: "at most 1 MiB", file: "-"},
		{name: "empty", want: 400, said: "there is no config in the request", file: "-"},
		{name: "broken form", contentType: "multipart/form-data; boundary=b", body: "nonsense", want: 400, file: "-"},
		{name: "form without a boundary", contentType: "multipart/form-data", body: "nonsense", want: 400, file: "-"},
		{name: "invalid", body: "x", err: fmt.Errorf("apply: %w", &config.Error{}), want: 422, said: "apply: "},
		{name: "failed", body: "x", err: errors.New("disk full"), want: 500, said: "disk full"},
	}
	add := func(name, field, file, content string, want int, said, got string) {
		contentType, body := form(field, file, content)
		cases = append(cases, struct {
			name        string
			contentType string
			body        string
			err         error
			want        int
			said        string
			file        string
		}{name: name, contentType: contentType, body: body, want: want, said: said, file: got})
	}
	add("form", "config", "../../edge.json", "{}", 200, "applied", "edge.json")
	add("form with another field", "other", "edge.toml", "x", 400, `the form has no field \"config\"`, "-")
	add("form too large", "config", "edge.toml", strings.Repeat("#", maxConfigBytes+1), 413, "at most 1 MiB", "-")
	add("form far too large", "config", "edge.toml", strings.Repeat("#", 3*maxConfigBytes), 413, "at most 1 MiB", "-")
	add("padded form", "padding", "edge.toml", strings.Repeat("#", 3*maxConfigBytes), 413, "at most 1 MiB", "-")

	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			file := "-"
			o := testOptions(t)
			o.Reload = func(_ context.Context, name string, _ []byte) error {
				file = name
				return c.err
			}
			s, err := New(o)
			if err != nil {
				t.Fatal(err)
			}
			r := httptest.NewRequest("POST", "/config/reload", strings.NewReader(c.body))
			r.Header.Set("Authorization", "Bearer "+token)
			if c.contentType != "" {
				r.Header.Set("Content-Type", c.contentType)
			}
			w := httptest.NewRecorder()
			s.handler.ServeHTTP(w, r)
			if w.Code != c.want || !strings.Contains(w.Body.String(), c.said) || file != c.file {
				t.Errorf("%d %s, file %q; want %d %s, file %q", w.Code, w.Body, file, c.want, c.said, c.file)
			}
		})
	}

	s, err := New(testOptions(t)) // nobody reloads
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest("POST", "/config/reload", strings.NewReader("x"))
	r.Header.Set("Authorization", "Bearer "+token)
	w := httptest.NewRecorder()
	if s.handler.ServeHTTP(w, r); w.Code != 404 {
		t.Errorf("without Reload: %d", w.Code)
	}
}

// TestReloadTooLargeIsAnswered sends more than is read: the sender must get the
// answer and not just a reset connection.
func TestReloadTooLargeIsAnswered(t *testing.T) {
	o := testOptions(t)
	o.Reload = func(context.Context, string, []byte) error { return nil }
	s := start(t, o)
	for range 5 {
		req, err := http.NewRequest("POST", fmt.Sprintf("http://%s/config/reload", s.Addr()), bytes.NewReader(make([]byte, 8<<20)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := tcpClient(t).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 413 {
			t.Errorf("%d", resp.StatusCode)
		}
	}
}
