package uplink

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// The server took the readings and died before it could say so: the same bytes
// go again under the same key, from which the receiver knows them.
func TestAnswerLost(t *testing.T) {
	q := newFakeQueue(50)
	var once sync.Once
	rc := newReceiver(func(w http.ResponseWriter, r request) bool {
		once.Do(func() {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			conn.Close()
		})
		return true
	})
	u, _ := start(t, options(q, serve(t, rc).URL))
	eventually(t, "the first answer is lost", func() bool { return u.Stats().LastError != "" })
	q.add(20) // would fit into the same batch, and must not join it
	if err := flush(t, u); err != nil {
		t.Fatal(err)
	}
	requests := rc.seen()
	if requests[0].key != requests[1].key || !bytes.Equal(requests[0].body, requests[1].body) {
		t.Error("the retry is not the same request")
	}
	if rc.distinct() != 70 || rc.got[1] != 2 || rc.got[51] != 1 {
		t.Errorf("%d readings taken, the first %d times, the 51st %d times", rc.distinct(), rc.got[1], rc.got[51])
	}
}

// raw is a server that speaks to each connection with its own hands.
func raw(t *testing.T, talk func(net.Conn)) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var talking sync.WaitGroup
	talking.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			talking.Go(func() {
				defer conn.Close()
				talk(conn)
			})
		}
	})
	t.Cleanup(func() { l.Close(); talking.Wait() })
	return "http://" + l.Addr().String()
}

// drip writes text one byte at a time until the other side hangs up.
func drip(conn net.Conn, text string) {
	for i := 0; ; i++ {
		if _, err := io.WriteString(conn, text[i%len(text):i%len(text)+1]); err != nil {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func readRequest(conn net.Conn) {
	buf := make([]byte, 64<<10)
	_, _ = conn.Read(buf)
}

// Servers that are slow on purpose cost one request timeout.
func TestSlowServers(t *testing.T) {
	for name, talk := range map[string]func(net.Conn){
		"says nothing": func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) },
		"drips its headers": func(conn net.Conn) {
			readRequest(conn)
			drip(conn, "HTTP/1.1 200 OK\r\nX-Long: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			q := newFakeQueue(10)
			o := options(q, raw(t, talk))
			o.RequestTimeout = 200 * time.Millisecond
			u, _ := start(t, o)
			eventually(t, "the request times out", func() bool { return u.Stats().LastError != "" })
			wantText(t, "LastError", u.Stats().LastError, "no answer in time", "200ms")
			if u.Stats().Paused != "" || q.depth() != 10 {
				t.Errorf("stats %+v, %d queued", u.Stats(), q.depth())
			}
		})
	}
}

// Once a 2xx is read the readings are delivered, whatever its body does.
func TestOddAnswers(t *testing.T) {
	for name, talk := range map[string]func(net.Conn){
		"closes mid-body": func(conn net.Conn) {
			readRequest(conn)
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
		},
		"body never ends": func(conn net.Conn) {
			readRequest(conn)
			_, _ = io.WriteString(conn, "HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n")
			drip(conn, "1\r\nx\r\n")
		},
		"body is huge": func(conn net.Conn) {
			readRequest(conn)
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
			for chunk := make([]byte, 64<<10); ; {
				if _, err := conn.Write(chunk); err != nil {
					return
				}
			}
		},
		"no content": func(conn net.Conn) {
			readRequest(conn)
			_, _ = io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			q := newFakeQueue(10)
			u, _ := start(t, options(q, raw(t, talk)))
			eventually(t, "the readings are acknowledged", func() bool { return q.depth() == 0 })
			eventually(t, "that is counted", func() bool { return u.Stats().Accepted == 10 })
			if s := u.Stats(); s.Requests != 1 || s.LastError != "" {
				t.Errorf("stats %+v", s)
			}
		})
	}
}

func TestGarbageAnswerIsRetried(t *testing.T) {
	q := newFakeQueue(10)
	u, _ := start(t, options(q, raw(t, func(conn net.Conn) {
		readRequest(conn)
		_, _ = io.WriteString(conn, "SSH-2.0-OpenSSH_9.2p1\r\n")
	})))
	eventually(t, "the answer is refused", func() bool { return u.Stats().LastError != "" })
	if u.Stats().Paused != "" || q.depth() != 10 {
		t.Errorf("stats %+v, %d queued", u.Stats(), q.depth())
	}
}

// certificate returns a self-signed server certificate for host, and the path of
// its PEM file.
func certificate(t testing.TB, host string, from, to time.Time) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: to,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, file
}

func serveTLS(t testing.TB, h http.Handler, cert tls.Certificate) (url string) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL
}

// Wrong certificates are told apart in words that say what to do, and lose
// nothing: most of them heal without anyone touching the device.
func TestTLS(t *testing.T) {
	now := time.Now()
	for name, test := range map[string]struct {
		host     string
		from, to time.Time
		noCA     bool
		want     []string // in LastError; nil means delivered
	}{
		"trusted":       {host: "127.0.0.1", from: now.Add(-time.Hour), to: now.Add(time.Hour)},
		"unknown":       {host: "127.0.0.1", from: now.Add(-time.Hour), to: now.Add(time.Hour), noCA: true, want: []string{"authority", "cloud.ca_file"}},
		"not yet valid": {host: "127.0.0.1", from: now.Add(time.Hour), to: now.Add(2 * time.Hour), want: []string{"not valid before", "set the clock"}},
		"expired":       {host: "127.0.0.1", from: now.Add(-2 * time.Hour), to: now.Add(-time.Hour), want: []string{"expired at", "renew"}},
		"another name":  {host: "example.com", from: now.Add(-time.Hour), to: now.Add(time.Hour), want: []string{"another name", "cloud.endpoint"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cert, ca := certificate(t, test.host, test.from, test.to)
			q, rc := newFakeQueue(10), newReceiver(nil)
			o := options(q, serveTLS(t, rc, cert))
			if !test.noCA {
				o.CAFile = ca
			}
			u, _ := start(t, o)
			eventually(t, "delivery ends", func() bool { return q.depth() == 0 || u.Stats().LastError != "" })
			wantText(t, "LastError", u.Stats().LastError, test.want...)
			if delivered := q.depth() == 0; delivered != (test.want == nil) || u.Stats().Paused != "" {
				t.Errorf("delivered is %v, stats %+v", delivered, u.Stats())
			}
		})
	}
}

func TestPlainServerBehindHTTPS(t *testing.T) {
	q := newFakeQueue(1)
	s := serve(t, newReceiver(nil))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	u, _ := start(t, options(q, "https"+s.URL[len("http"):]))
	eventually(t, "delivery fails", func() bool { return u.Stats().LastError != "" })
	wantText(t, "LastError", u.Stats().LastError, "HTTP response to HTTPS client")
}

// A server that wants a client certificate gets the configured one.
func TestClientCertificate(t *testing.T) {
	cert, ca := certificate(t, "127.0.0.1", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	keyFile := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600); err != nil {
		t.Fatal(err)
	}
	seen := make(chan bool, 10)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		seen <- len(r.TLS.PeerCertificates) == 1
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert}
	s.StartTLS()
	t.Cleanup(s.Close)
	q := newFakeQueue(1)
	o := options(q, s.URL)
	o.CAFile, o.CertFile, o.KeyFile = ca, ca, keyFile
	start(t, o)
	eventually(t, "the reading is delivered", func() bool { return q.depth() == 0 })
	if !<-seen {
		t.Error("no client certificate was presented")
	}
}

func TestRunRefusesBadFiles(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.pem")
	if err := os.WriteFile(bad, []byte("not PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		change func(*Options)
		want   string
	}{
		"no CA file":     {func(o *Options) { o.CAFile = bad + "x" }, "ca_file"},
		"bad CA file":    {func(o *Options) { o.CAFile = bad }, "no PEM certificate"},
		"bad client key": {func(o *Options) { o.CertFile, o.KeyFile = bad, bad }, "cert_file"},
	} {
		o := options(newFakeQueue(0), "https://127.0.0.1:1")
		test.change(&o)
		u, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		if err := u.Run(t.Context()); err == nil {
			t.Errorf("%s: Run started", name)
		} else {
			wantText(t, name, err.Error(), test.want)
		}
	}
}
