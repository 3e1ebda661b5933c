package ingest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/rs/zerolog"

	"github.com/pyvorin/pyvorin-edge/wire"
)

// testKeys knows one key.
type testKeys struct{}

func (testKeys) Check(key string) (string, bool) { return "test", key == "right" }

func ndjson(rs ...wire.Reading) []byte {
	var body []byte
	for i := range rs {
		body = append(rs[i].AppendJSON(body), '\n')
	}
	return body
}

func zstdOf(t testing.TB, data []byte) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	return e.EncodeAll(data, nil)
}

func gzipOf(t testing.TB, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

type answer struct {
	status int // 0: the connection broke
	header http.Header
	Result
	Error string `json:"error"`
	Line  int    `json:"line"`
}

// send posts body with the right key unless header says otherwise.
func send(t testing.TB, url string, body []byte, header map[string]string) answer {
	t.Helper()
	r, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Close = true
	r.Header.Set("Authorization", "Bearer right")
	r.Header.Set("Content-Type", typeNDJSON)
	for k, v := range header {
		r.Header.Set(k, v)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return answer{}
	}
	defer res.Body.Close()
	a := answer{status: res.StatusCode, header: res.Header}
	if err := json.NewDecoder(res.Body).Decode(&a); err != nil {
		t.Fatal(err)
	}
	return a
}

// adder is a store made of a function.
type adder func(device string, rs []wire.Reading) (Result, error)

func (f adder) Add(_ context.Context, device string, rs []wire.Reading) (Result, error) {
	return f(device, rs)
}

func serve(t testing.TB, store Adder, limits Limits) (url string, h *Handler) {
	t.Helper()
	h = NewHandler(store, testKeys{}, limits, zerolog.Nop())
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server.URL, h
}

func TestRequests(t *testing.T) {
	s, _ := runStore(t, filepath.Join(t.TempDir(), "fleet.db"))
	url, h := serve(t, s, Limits{BodyBytes: 100_000, DecodedBytes: 400_000, Readings: 50})
	type headers = map[string]string
	good := func(n int) []byte { return ndjson(readings("d", 1, uint64(n))...) }
	bomb := zstdOf(t, make([]byte, 100<<20))
	window := func() []byte {
		var out bytes.Buffer
		e, err := zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(64<<20))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = e.Write(good(2))
		_ = e.Flush() // without this the encoder writes one small frame
		_, _ = e.Write(good(2))
		_ = e.Close()
		return out.Bytes()
	}()
	for _, tt := range []struct {
		name   string
		body   []byte
		header headers
		status int
		reason string
		line   int
	}{
		{"no key", good(1), headers{"Authorization": ""}, 401, "missing", 0},
		{"wrong key", good(1), headers{"Authorization": "Bearer wrong"}, 401, "not known", 0},
		{"other scheme", good(1), headers{"Authorization": "Basic right"}, 401, "missing", 0},
		{"senml", good(1), headers{"Content-Type": "application/senml+json"}, 415, "Content-Type", 0},
		{"unknown encoding", good(1), headers{"Content-Encoding": "br"}, 415, "Content-Encoding", 0},
		{"empty", nil, nil, 400, "no readings", 0},
		{"blank lines only", []byte("\n\n \n"), nil, 400, "no readings", 0},
		{"body too large", bytes.Repeat([]byte("x"), 100_001), nil, 413, "too large", 0},
		{"too large decoded", zstdOf(t, bytes.Repeat(good(50), 100)), headers{"Content-Encoding": "zstd"}, 413, "decompressed", 0},
		{"zstd bomb", bomb, headers{"Content-Encoding": "zstd"}, 413, "decompressed", 0},
		{"gzip bomb", gzipOf(t, make([]byte, 20<<20)), headers{"Content-Encoding": "gzip"}, 413, "decompressed", 0},
		{"zstd window too large", window, headers{"Content-Encoding": "zstd"}, 413, "decompressed", 0},
		{"truncated zstd", zstdOf(t, good(9))[:60], headers{"Content-Encoding": "zstd"}, 400, "decompress", 0},
		{"truncated gzip", gzipOf(t, good(9))[:60], headers{"Content-Encoding": "gzip"}, 400, "decompress", 0},
		{"garbage as zstd", []byte("garbage that is not zstd"), headers{"Content-Encoding": "zstd"}, 400, "decompress", 0},
		{"too many readings", good(51), nil, 413, "at most 50", 0},
		{"two devices", append(good(2), ndjson(reading("e", 3))...), nil, 400, "differs", 3},
		{"another's key", good(1), headers{"Idempotency-Key": "e:1-1"}, 400, "differs", 1},
		{"last line cut", good(3)[:len(good(3))-9], nil, 400, "not JSON", 3},
		{"deep nesting", []byte(strings.Repeat("[", 90_000)), headers{"Content-Type": typeJSON}, 400, "document", 0},
		{"document without device", []byte(`{"readings":[]}`), headers{"Content-Type": typeJSON}, 400, "device_id", 0},
		{"document of another device", []byte(`{"device_id":"e","readings":[` + string(bytes.TrimSpace(good(1))) + `]}`), headers{"Content-Type": typeJSON}, 400, "differs", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := send(t, url, tt.body, tt.header)
			if a.status != tt.status || !strings.Contains(a.Error, tt.reason) || a.Line != tt.line {
				t.Errorf("answered %d %q, line %d; want %d, %q, line %d", a.status, a.Error, a.Line, tt.status, tt.reason, tt.line)
			}
		})
	}
	if devices, err := s.Devices(context.Background(), 10); err != nil || len(devices) != 0 {
		t.Errorf("refused requests left %v, %v", devices, err)
	}
	if refused := h.Refused(); refused[401] != 3 || refused[415] != 2 {
		t.Errorf("refused %v; want 3 times 401, twice 415", refused)
	}

	document := []byte(`{"device_id":"d","batch_id":"b","readings":[{"seq":41,"sensor":"s","value":1,"timestamp":"2026-01-02T03:04:05Z","quality":"good"}]}`)
	for _, tt := range []struct {
		name   string
		body   []byte
		header headers
		want   Result
	}{
		{"plain", good(10), headers{"Idempotency-Key": "d:1-10", "Content-Encoding": "none"}, Result{Accepted: 10}},
		{"concatenated zstd", append(zstdOf(t, good(10)), zstdOf(t, ndjson(readings("d", 11, 20)...))...), headers{"Content-Encoding": "zstd"}, Result{10, 10, 0}},
		{"concatenated gzip", append(gzipOf(t, good(20)), gzipOf(t, ndjson(readings("d", 21, 30)...))...), headers{"Content-Encoding": "gzip"}, Result{10, 20, 0}},
		{"foreign idempotency key", good(1), headers{"Idempotency-Key": "0190c7a2-uuid", "Content-Type": typeNDJSON + "; charset=utf-8"}, Result{Duplicates: 1}},
		{"document", document, headers{"Content-Type": typeJSON}, Result{Accepted: 1}},
		{"no newline at the end, CRLF", bytes.TrimSpace(bytes.ReplaceAll(good(3), []byte("\n"), []byte("\r\n"))), nil, Result{Duplicates: 3}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if a := send(t, url, tt.body, tt.header); a.status != 200 || a.Result != tt.want {
				t.Errorf("answered %+v; want %+v", a, tt.want)
			}
		})
	}
}

func TestStoreErrorsAreRetryable(t *testing.T) {
	for err, status := range map[error]int{
		fmt.Errorf("x: %w", ErrFull):        507,
		fmt.Errorf("x: %w", ErrUnavailable): 503,
		context.DeadlineExceeded:            503,
	} {
		url, _ := serve(t, adder(func(string, []wire.Reading) (Result, error) { return Result{}, err }), Limits{})
		if a := send(t, url, ndjson(reading("d", 1)), nil); a.status != status || a.header.Get("Retry-After") == "" {
			t.Errorf("%v: answered %d, Retry-After %q; want %d and some", err, a.status, a.header.Get("Retry-After"), status)
		}
	}
}

func TestFloodOfOneDevice(t *testing.T) {
	release, inside := make(chan struct{}), make(chan struct{}, 10)
	store := adder(func(device string, rs []wire.Reading) (Result, error) {
		if device == "flood" {
			inside <- struct{}{}
			<-release
		}
		return Result{Accepted: len(rs)}, nil
	})
	url, _ := serve(t, store, Limits{Uploads: 4, DeviceUpload: 2, Decoding: 8})
	post := func(device string) answer {
		return send(t, url, ndjson(reading(device, 1)), map[string]string{"Idempotency-Key": device + ":1-1"})
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(release)
	for range 2 {
		wg.Go(func() {
			if a := post("flood"); a.status != 200 {
				t.Errorf("a request within the limit was answered %+v", a)
			}
		})
		<-inside
	}
	for range 20 {
		if a := post("flood"); a.status != 429 || a.header.Get("Retry-After") == "" {
			t.Fatalf("a request over the device's limit was answered %d", a.status)
		}
		if a := post("quiet"); a.status != 200 {
			t.Fatalf("another device was answered %d during the flood", a.status)
		}
	}
}

func TestNoTurnInTime(t *testing.T) {
	release, inside := make(chan struct{}), make(chan struct{})
	store := adder(func(device string, _ []wire.Reading) (Result, error) {
		if device == "a" {
			close(inside)
			<-release
		}
		return Result{}, nil
	})
	url, _ := serve(t, store, Limits{Decoding: 1, WaitTime: 10 * time.Millisecond})
	var wg sync.WaitGroup
	wg.Go(func() { send(t, url, ndjson(reading("a", 1)), nil) })
	<-inside
	if a := send(t, url, ndjson(reading("b", 1)), nil); a.status != 429 || a.header.Get("Retry-After") == "" {
		t.Errorf("answered %+v; want 429", a)
	}
	close(release)
	wg.Wait()
	if a := send(t, url, ndjson(reading("b", 1)), nil); a.status != 200 {
		t.Errorf("answered %+v once there is room", a)
	}
}

func TestSlowAndBrokenClients(t *testing.T) {
	url, h := serve(t, adder(func(string, []wire.Reading) (Result, error) {
		t.Error("something was stored")
		return Result{}, nil
	}), Limits{BodyTime: 100 * time.Millisecond})
	start := func() net.Conn {
		t.Helper()
		conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer right\r\nContent-Type: %s\r\nContent-Length: 1000\r\n\r\n{", typeNDJSON)
		return conn
	}
	slow := start()
	defer slow.Close()
	reply, err := io.ReadAll(slow)
	if err != nil || !strings.HasPrefix(string(reply), "HTTP/1.1 408") {
		t.Errorf("a slow client got %q, %v; want 408", reply, err)
	}
	broken := start()
	broken.Close()
	for deadline := time.Now().Add(5 * time.Second); h.Refused()[400]+h.Refused()[408] < 2; {
		if time.Now().After(deadline) {
			t.Fatalf("a broken upload was not given up: %v", h.Refused())
		}
		time.Sleep(time.Millisecond)
	}
	h.uploads.mu.Lock()
	defer h.uploads.mu.Unlock()
	if h.uploads.inside != 0 {
		t.Errorf("%d uploads still counted", h.uploads.inside)
	}
}

func TestDeviceOfKey(t *testing.T) {
	for key, want := range map[string]string{
		"FLEET-0123456789ab:1-100": "FLEET-0123456789ab",
		"d:1":                      "", "d:": "", ":1-2": "", "d:a-b": "", "d:1-2-3": "", "": "", "a/b:1-2": "", "d:1-2:3": "",
	} {
		if got := deviceOfKey(key); got != want {
			t.Errorf("deviceOfKey(%q) = %q, want %q", key, got, want)
		}
	}
}
