package mqttconn

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"io"
	"net"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// conn is the broker's side of a connection, without a broker.
type conn struct {
	net.Conn
	io.Reader
	deadline time.Time
	written  bytes.Buffer
}

func (c *conn) Read(p []byte) (int, error)         { return c.Reader.Read(p) }
func (c *conn) Write(p []byte) (int, error)        { return c.written.Write(p) }
func (c *conn) SetWriteDeadline(t time.Time) error { c.deadline = t; return nil }

// packet is one of size bytes after its fixed header.
func packet(kind byte, size int) []byte {
	p := binary.AppendUvarint([]byte{kind << 4}, uint64(size))
	for i := range size {
		p = append(p, byte(i))
	}
	return p
}

// What passes is what came, without the messages that are too long.
func TestPassesWhatIsShort(t *testing.T) {
	const limit = 300
	rapid.Check(t, func(t *rapid.T) {
		var in, want []byte
		skipped := 0
		for _, size := range rapid.SliceOf(rapid.SampledFrom([]int{0, 1, 127, 128, 299, 300, 301, 5000, 20000})).Draw(t, "sizes") {
			kind := rapid.SampledFrom([]byte{packets.Publish, packets.Puback, packets.Pingresp}).Draw(t, "kind")
			if size > limit {
				kind = packets.Publish
				skipped++
			} else {
				want = append(want, packet(kind, size)...)
			}
			in = append(in, packet(kind, size)...)
		}
		var r io.Reader = bytes.NewReader(in)
		if rapid.Bool().Draw(t, "byte by byte") {
			r = iotest.OneByteReader(r)
		}
		n := 0
		got, err := io.ReadAll(Bound(&conn{Reader: r}, Limits{PacketBytes: limit, Skipped: func(int) { n++ }}))
		if err != nil || !bytes.Equal(got, want) || n != skipped {
			t.Fatalf("%d bytes instead of %d, %d skipped instead of %d, %v", len(got), len(want), n, skipped, err)
		}
	})
}

func TestEndsWhatCannotBeRight(t *testing.T) {
	l := Limits{PacketBytes: 300, Filters: 2}
	for _, tt := range []struct {
		name string
		in   []byte
		want string
	}{
		{"codes for each filter", packet(packets.Suback, 4), io.EOF.Error()},
		{"too many codes", packet(packets.Suback, 5), "more subscriptions"},
		{"a long packet that is no message", packet(packets.Connack, 301), "301 bytes that is no message"},
		{"a length of five bytes", []byte{packets.Publish << 4, 0xff, 0xff, 0xff, 0xff, 0x01}, "not MQTT"},
		{"cut in the header", []byte{packets.Publish << 4, 0x80}, io.EOF.Error()},
		{"cut in what is thrown away", packet(packets.Publish, 5000)[:4000], io.EOF.Error()},
	} {
		c := Bound(&conn{Reader: bytes.NewReader(tt.in)}, l)
		var err error
		for buf := make([]byte, 100); err == nil; {
			_, err = c.Read(buf)
		}
		if !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

func TestWritesHaveADeadline(t *testing.T) {
	c := &conn{}
	if _, err := Bound(c, Limits{Write: time.Minute}).Write([]byte("x")); err != nil || c.written.String() != "x" {
		t.Errorf("%q, %v", c.written.String(), err)
	}
	if left := time.Until(c.deadline); left < 30*time.Second || left > time.Minute {
		t.Errorf("deadline in %v", left)
	}
}

func TestDial(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	address := func(scheme, host string) *url.URL { return &url.URL{Scheme: scheme, Host: host} }
	c, err := Dial(t.Context(), address("tcp", ln.Addr().String()), nil, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()

	// A peer that accepts and then says nothing.
	if _, err := Dial(t.Context(), address("ssl", ln.Addr().String()), &tls.Config{ServerName: "x"}, 10*time.Millisecond); err == nil {
		t.Error("connected to silence")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Dial(ended, address("tcp", ln.Addr().String()), nil, time.Minute); err == nil {
		t.Error("connected after the end")
	}

	web := httptest.NewTLSServer(nil)
	defer web.Close()
	authorities := x509.NewCertPool()
	authorities.AddCert(web.Certificate())
	host := web.Listener.Addr().String()
	if c, err = Dial(t.Context(), address("ssl", host), &tls.Config{RootCAs: authorities, ServerName: "example.com"}, time.Minute); err != nil {
		t.Fatal(err)
	}
	c.Close()
	// No WebSocket is spoken there, which the dialer finds out.
	if _, err := Dial(t.Context(), address("wss", host), &tls.Config{RootCAs: authorities, ServerName: "example.com"}, time.Minute); err == nil || !strings.Contains(err.Error(), "handshake") {
		t.Errorf("wss: %v", err)
	}
}
