package uplink

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/pyvorin/pyvorin-edge/syncqueue"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// oneOfEach has every kind of value, quality and unit.
func oneOfEach() syncqueue.Batch {
	at := time.UnixMilli(1767323045678)
	readings := []wire.Reading{
		{Sensor: "temp-01", Type: "temperature", Value: wire.NumberValue(21.5), Unit: "C", Timestamp: at, Quality: wire.Good},
		{Sensor: "büro 1/hum", Type: "humidity", Value: wire.NumberValue(40), Unit: "%", Timestamp: at.Add(time.Second), Quality: wire.Uncertain, Reason: "cut"},
		{Sensor: "door", Type: "contact", Value: wire.BoolValue(false), Timestamp: at, Quality: wire.Good, Tags: map[string]string{"room": "3"}},
		{Sensor: "-state", Type: "state", Value: wire.TextValue("<run>"), Timestamp: at, Quality: wire.Good},
		{Sensor: "flow", Type: "flow", Unit: "gal/h", Value: wire.NumberValue(0), Timestamp: at, Quality: wire.Good},
		{Sensor: "flow", Type: "flow", Unit: "gal/h", Timestamp: at, Quality: wire.Bad, Reason: "read timed out"},
		{Sensor: "temp-01", Type: "temperature", Value: wire.NumberValue(-3), Unit: "C", Timestamp: time.UnixMilli(12_000), Quality: wire.Good, Clock: wire.ClockUnset},
	}
	b := syncqueue.Batch{First: 7, Last: 13, Count: len(readings), Encoding: syncqueue.Zstd}
	var lines [][]byte
	for i, r := range readings {
		r.DeviceID, r.Seq = device, b.First+uint64(i)
		lines = append(lines, r.AppendJSON(nil))
	}
	frame, err := syncqueue.Encode(nil, b.Encoding, lines)
	if err != nil {
		panic(err)
	}
	b.Frames = [][]byte{frame}
	return b
}

// The bodies are contracts with receivers: testdata holds them, indented.
func TestFormats(t *testing.T) {
	for format, contentType := range map[string]string{"json": "application/json", "senml": "application/senml+json"} {
		t.Run(format, func(t *testing.T) {
			q := newFakeQueue(7)
			b := oneOfEach()
			q.live, q.stored[b.First] = []uint64{7, 8, 9, 10, 11, 12, 13}, b
			type sent struct {
				header http.Header
				body   []byte
			}
			got := make(chan sent, 1)
			s := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				got <- sent{r.Header, body}
			}))
			o := options(q, s.URL)
			o.Format = format
			start(t, o)
			r := <-got
			if ct, ce := r.header.Get("Content-Type"), r.header.Get("Content-Encoding"); ct != contentType || ce != "zstd" {
				t.Errorf("Content-Type %q, Content-Encoding %q", ct, ce)
			}
			if key := r.header.Get("Idempotency-Key"); key != device+":7-13" {
				t.Errorf("Idempotency-Key %q", key)
			}
			d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			body, err := d.DecodeAll(r.body, nil)
			if err != nil {
				t.Fatal(err)
			}
			var pretty bytes.Buffer
			if err := json.Indent(&pretty, bytes.TrimSpace(body), "", "  "); err != nil {
				t.Fatal(err)
			}
			pretty.WriteByte('\n')
			want, err := os.ReadFile(filepath.Join("testdata", format+".golden.json"))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(pretty.Bytes(), want) {
				t.Errorf("body is\n%s\nwant\n%s", pretty.Bytes(), want)
			}
		})
	}
}

// Parts of a batch carry their own readings and their own key in every format.
func TestFormatOfParts(t *testing.T) {
	u, err := New(options(newFakeQueue(0), "http://localhost"))
	if err != nil {
		t.Fatal(err)
	}
	u.o.Format = "json"
	l := &loop{Uplink: u, size: 100}
	d := l.begin(makeBatch(syncqueue.Plain, 11, 4))
	body, err := l.body(d, span{1, 3})
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		BatchID  string         `json:"batch_id"`
		Readings []wire.Reading `json:"readings"`
	}
	if err := json.Unmarshal(bytes.Join(body, nil), &doc); err != nil {
		t.Fatal(err)
	}
	if doc.BatchID != device+":12-13" || len(doc.Readings) != 2 || doc.Readings[0].Seq != 12 {
		t.Errorf("part is %+v", doc)
	}
}

func TestSenMLNames(t *testing.T) {
	for name, want := range map[string]string{
		"temp-01": "temp-01", "a.b:c/d_e": "a.b:c/d_e", "büro 1": "b_ro_1", "-x": "x-x", "": "x", "日本": "x__",
	} {
		if got := senmlName(name); got != want {
			t.Errorf("%q became %q, want %q", name, got, want)
		}
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"":                                     "",
		" a\r\n\tb ":                           "a b",
		"\x1b[31mred\x00":                      "[31mred",
		"b\xffad":                              "bad",
		string(bytes.Repeat([]byte("ü"), 200)): string(bytes.Repeat([]byte("ü"), 100)),
	} {
		if got := clean(in, 200); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
	if got := clean("aü", 2); got != "a" {
		t.Errorf("cut inside a letter: %q", got)
	}
}
