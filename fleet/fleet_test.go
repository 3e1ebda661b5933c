package fleet

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/pyvorin/pyvorin-edge/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// controller is a running Server and its key.
type controller struct {
	Running
	t      *testing.T
	client *http.Client
	key    string
	reload chan os.Signal
	stop   func()
}

func start(t *testing.T, o Options) *controller {
	t.Helper()
	dir := t.TempDir()
	ready := make(chan Running, 1)
	c := &controller{t: t, client: &http.Client{Transport: &http.Transport{}}, reload: make(chan os.Signal)}
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	if o.Database == "" {
		o.Database = filepath.Join(dir, "data", "fleet.db")
	}
	o.KeyFile = filepath.Join(filepath.Dir(o.Database), "api-keys")
	o.Log = zerolog.Nop()
	o.Reload = c.reload
	o.Ready = func(r Running) { ready <- r }
	server, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	select {
	case c.Running = <-ready:
	case err := <-done:
		cancel()
		t.Fatal(err)
	}
	c.stop = sync.OnceFunc(func() {
		c.client.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(c.stop)
	key, err := os.ReadFile(c.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	c.key = strings.TrimSpace(string(key))
	return c
}

// do sends a request; header is pairs, of which Host sets the host.
func (c *controller) do(method, path, body string, header ...string) (*http.Response, string) {
	c.t.Helper()
	r, err := http.NewRequest(method, strings.TrimSuffix(c.URL, "/")+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
			continue
		}
		r.Header.Set(header[i], header[i+1])
	}
	res, err := c.client.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return res, string(text)
}

func (c *controller) deliver(rs ...wire.Reading) string {
	c.t.Helper()
	var body []byte
	for i := range rs {
		body = append(rs[i].AppendJSON(body), '\n')
	}
	res, text := c.do("POST", "/v1/ingest", string(body), "Authorization", "Bearer "+c.key, "Content-Type", "application/x-ndjson")
	if res.StatusCode != http.StatusOK {
		c.t.Fatalf("answered %d %s", res.StatusCode, text)
	}
	return strings.TrimSpace(text)
}

func reading(seq uint64, sensor string) wire.Reading {
	return wire.Reading{DeviceID: "FLEET-0123456789ab", Seq: seq, Sensor: sensor, Type: "temperature", Value: wire.NumberValue(21.5),
		Unit: "C", Timestamp: time.Now(), Quality: wire.Good}
}

func TestDeliverAndRead(t *testing.T) {
	database := filepath.Join(t.TempDir(), "fleet.db")
	c := start(t, Options{Database: database})
	if !c.KeyCreated {
		t.Error("the key file is not reported as created")
	}
	if got := c.deliver(reading(1, "temp-01"), reading(2, "temp-02")); got != `{"accepted":2,"duplicates":0}` {
		t.Errorf("answered %s", got)
	}
	c.stop()

	c = start(t, Options{Database: database})
	if c.KeyCreated {
		t.Error("the key file was created again")
	}
	if got := c.deliver(reading(2, "temp-02"), reading(5, "temp-01")); got != `{"accepted":1,"duplicates":1,"conflicts":1}` {
		t.Errorf("answered %s", got)
	}
	var devices struct {
		Devices []map[string]any `json:"devices"`
	}
	_, text := c.do("GET", "/api/v1/devices", "")
	if err := json.Unmarshal([]byte(text), &devices); err != nil || len(devices.Devices) != 1 {
		t.Fatalf("devices %s, %v", text, err)
	}
	for key, want := range map[string]any{"device_id": "FLEET-0123456789ab", "received": 3.0, "duplicates": 1.0, "conflicts": 1.0, "missing": 2.0, "max_seq": 5.0} {
		if got := devices.Devices[0][key]; got != want {
			t.Errorf("%s = %v, want %v", key, got, want)
		}
	}
	for path, want := range map[string][]uint64{
		"/latest":                                {5, 2},
		"/readings":                              {5, 2, 1},
		"/readings?sensor=temp-01&limit=1":       {5},
		"/readings?since=2999-01-01T00:00:00Z":   {},
		"/readings?since=2001-01-01T00:00:00Z":   {5, 2, 1},
		"/readings?sensor=temp-02'%20OR%201=1--": {},
	} {
		var got struct {
			Readings []struct {
				Seq uint64 `json:"seq"`
			} `json:"readings"`
		}
		_, text := c.do("GET", "/api/v1/devices/FLEET-0123456789ab"+path, "")
		if err := json.Unmarshal([]byte(text), &got); err != nil {
			t.Fatalf("%s: %s, %v", path, text, err)
		}
		seqs := []uint64{}
		for _, r := range got.Readings {
			seqs = append(seqs, r.Seq)
		}
		if fmt.Sprint(seqs) != fmt.Sprint(want) {
			t.Errorf("%s: seqs %v, want %v", path, seqs, want)
		}
	}
	for path, status := range map[string]int{
		"/api/v1/devices/nobody/latest":                          404,
		"/api/v1/devices/FLEET-0123456789ab/readings?limit=0":    400,
		"/api/v1/devices/FLEET-0123456789ab/readings?limit=1001": 400,
		"/api/v1/devices/FLEET-0123456789ab/readings?since=now":  400,
		"/api/v1/nothing": 404,
		"/livez":          200,
		"/healthz":        200,
		"/v1/ingest":      405,
	} {
		if res, _ := c.do("GET", path, ""); res.StatusCode != status {
			t.Errorf("%s: %d, want %d", path, res.StatusCode, status)
		}
	}
}

func TestAccess(t *testing.T) {
	c := start(t, Options{})
	basic := func(key string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte("any:"+key)) }
	for _, tt := range []struct {
		name   string
		header []string
		status int
	}{
		{"this machine", nil, 200},
		{"by another loopback name", []string{"Host", "[::1]:8090"}, 200},
		{"rebound name", []string{"Host", "evil.example:8090"}, 401},
		{"name that begins like one", []string{"Host", "localhost.evil.example"}, 401},
		{"address of a network", []string{"Host", "192.0.2.1"}, 401},
		{"through a proxy", []string{"X-Forwarded-For", "192.0.2.1"}, 401},
		{"rebound name, wrong key", []string{"Host", "evil.example", "Authorization", "Bearer nonsense"}, 401},
		{"with the key", []string{"Host", "fleet.example", "Authorization", "Bearer " + c.key}, 200},
		{"with the key as password", []string{"Host", "fleet.example", "Authorization", basic(c.key)}, 200},
		{"with a wrong password", []string{"Host", "fleet.example", "Authorization", basic("nonsense")}, 401},
	} {
		for _, path := range []string{"/", "/api/v1/devices"} {
			if res, text := c.do("GET", path, "", tt.header...); res.StatusCode != tt.status {
				t.Errorf("%s, %s: %d %s; want %d", tt.name, path, res.StatusCode, text, tt.status)
			}
		}
		if res, _ := c.do("GET", "/healthz", "", tt.header...); res.StatusCode != 200 {
			t.Errorf("%s: /healthz is not for everyone: %d", tt.name, res.StatusCode)
		}
	}
	if res, _ := c.do("POST", "/v1/ingest", "{}"); res.StatusCode != 401 {
		t.Errorf("delivery without a key from this machine: %d, want 401", res.StatusCode)
	}
}

func TestReloadKeys(t *testing.T) {
	c := start(t, Options{})
	if err := os.WriteFile(c.KeyFile, []byte("line-1:another-key-123456\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.reload <- syscall.SIGHUP
	c.reload <- syscall.SIGHUP // taken only once the first one was done
	old := c.key
	c.key = "another-key-123456"
	c.deliver(reading(1, "s"))
	if res, _ := c.do("GET", "/", "", "Host", "fleet.example", "Authorization", "Bearer "+old); res.StatusCode != 401 {
		t.Errorf("the old key still works: %d", res.StatusCode)
	}
}

func TestPage(t *testing.T) {
	c := start(t, Options{})
	if _, text := c.do("GET", "/", ""); !strings.Contains(text, "No device") {
		t.Errorf("the empty page: %s", text)
	}
	hostile := `<script>alert(1)</script>"'><img src=x onerror=alert(1)>`
	bad := reading(1, hostile)
	bad.Value, bad.Unit = wire.TextValue(hostile), hostile
	bad.Quality, bad.Reason = wire.Bad, hostile
	old := reading(9, "old")
	old.Timestamp = time.Now().Add(-3 * time.Hour)
	c.deliver(bad, old)
	res, text := c.do("GET", "/", "")
	if strings.Contains(text, "<script") || strings.Contains(text, "<img") || !strings.Contains(text, "&lt;script&gt;") {
		t.Errorf("a hostile name is not escaped: %s", text)
	}
	for _, want := range []string{"FLEET-0123456789ab", "2 readings, each stored once", "7 readings missing", "3 h ago", "21.5 C", "bad", `name="viewport"`} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not say %q: %s", want, text)
		}
	}
	if strings.Contains(text, "none missing") {
		t.Errorf("the page says that none is missing: %s", text)
	}
	_, rest, _ := strings.Cut(text, "<style>")
	style, _, _ := strings.Cut(rest, "</style>")
	sum := sha256.Sum256([]byte(style))
	policy := res.Header.Get("Content-Security-Policy")
	if !strings.Contains(policy, "default-src 'none'") || !strings.Contains(policy, base64.StdEncoding.EncodeToString(sum[:])) {
		t.Errorf("the policy %q does not allow exactly the page's style", policy)
	}
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	c := start(t, Options{TLSCert: write("cert.pem", "CERTIFICATE", der), TLSKey: write("key.pem", "PRIVATE KEY", keyDER)})
	if !strings.HasPrefix(c.URL, "https://localhost:") {
		t.Errorf("URL %s", c.URL)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	c.client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	c.deliver(reading(1, "s"))
}

func TestStartErrors(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	notDatabase := filepath.Join(dir, "text.db")
	if err := os.WriteFile(notDatabase, bytes.Repeat([]byte("text "), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		o    Options
		want []string
	}{
		{"port in use", Options{Listen: busy.Addr().String()}, []string{"port in use", busy.Addr().String(), "--listen"}},
		{"foreign address", Options{Listen: "192.0.2.1:1"}, []string{"192.0.2.1:1", "--listen"}},
		{"data folder is a file", Options{Database: filepath.Join(file, "fleet.db")}, []string{"data folder", file, "--data"}},
		{"not a database", Options{Database: notDatabase}, []string{"open the database", notDatabase}},
		{"no certificate", Options{TLSCert: file, TLSKey: file}, []string{"TLS certificate"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := tt.o
			if o.Listen == "" {
				o.Listen = "127.0.0.1:0"
			}
			if o.Database == "" {
				o.Database = filepath.Join(dir, "untouched", "fleet.db")
			}
			o.KeyFile = filepath.Join(dir, "api-keys")
			o.Log = zerolog.Nop()
			server, err := New(o)
			if err != nil {
				t.Fatal(err)
			}
			err = server.Run(context.Background())
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v; want %q in it", err, want)
				}
			}
		})
	}
	if _, err := os.Stat(filepath.Join(dir, "untouched")); err == nil {
		t.Error("a controller that got no port made its folder")
	}
	for _, o := range []Options{
		{Listen: "8090", Database: "d", KeyFile: "k"},
		{Listen: ":0", KeyFile: "k"},
		{Listen: ":0", Database: "d", KeyFile: "k", Retention: -1},
		{Listen: ":0", Database: "d", KeyFile: "k", TLSCert: "c"},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("New(%+v) has no error", o)
		}
	}
}
