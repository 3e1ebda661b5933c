package wire

import (
	"bytes"
	"encoding/json"
	"flag"
	"math"
	"os"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write the golden files anew")

func at(s string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		panic(err)
	}
	return t
}

// golden are the readings of testdata/readings.ndjson: the record of the
// format. A change there is a change of the protocol.
var golden = []Reading{
	{DeviceID: "FLEET-0123456789ab", Seq: 1, Sensor: "temp-01", Type: "temperature", Value: NumberValue(21.5), Unit: "C",
		Timestamp: at("2026-01-02T03:04:05.678Z"), Quality: Good},
	{DeviceID: "FLEET-0123456789ab", Seq: 2, Sensor: "temp-01", Type: "temperature", Unit: "C",
		Timestamp: at("2026-01-02T03:04:06.678Z"), Quality: Bad, Reason: "timed out after 5s"},
	{DeviceID: "FLEET-0123456789ab", Seq: 3, Sensor: "door", Type: "contact", Value: BoolValue(true),
		Timestamp: at("2026-01-02T04:04:07.0009+01:00"), Quality: Good, Clock: ClockCorrected},
	{DeviceID: "FLEET-0123456789ab", Seq: 9007199254740991, Sensor: "gps.position", Type: "position", Value: TextValue("48.1,11.5 \"near\" <home>"),
		Timestamp: at("2026-01-02T03:04:08Z"), Quality: Uncertain, Reason: "2 satellites", Clock: ClockUnset,
		Tags: map[string]string{"site": "a", "room": "1"}, Meta: map[string]Value{"sats": NumberValue(2), "fix": TextValue("2d")}},
	{DeviceID: "FLEET-0123456789ab", Seq: 5, Sensor: "boiler", Type: "temperature", Value: NumberValue(97.5), Unit: "C",
		Timestamp: at("2026-01-02T03:04:09Z"), Quality: Good,
		Meta: map[string]Value{MetaAlert: TextValue(string(AlertCritical)), MetaAlertLimit: TextValue("crit_above")}},
}

func TestReadingGolden(t *testing.T) {
	const path = "testdata/readings.ndjson"
	var got []byte
	for _, r := range golden {
		got = append(r.AppendJSON(got), '\n')
	}
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("the lines differ from %s (-want +got):\n%s", path, diff)
	}
	for i, line := range bytes.Split(bytes.TrimSpace(want), []byte("\n")) {
		var r Reading
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatal(err)
		}
		if again := r.AppendJSON(nil); !bytes.Equal(again, line) {
			t.Errorf("line %d changes when read and written again: %s", i+1, again)
		}
	}
}

func TestValueHasNoJSONForWhatIsNoNumber(t *testing.T) {
	for _, f := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		if v := NumberValue(f); v.Kind() != None || string(v.AppendJSON(nil)) != "null" {
			t.Errorf("NumberValue(%v) = %v, want no value", f, v)
		}
	}
	for _, bad := range []string{`[1]`, `{"a":1}`, `tru`} {
		var v Value
		if err := json.Unmarshal([]byte(bad), &v); err == nil {
			t.Errorf("a value was made of %s: %v", bad, v)
		}
	}
}

// TestEncodersAgreeWithJSON holds the hand-written encoders to encoding/json.
func TestEncodersAgreeWithJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := rapid.Float64().Draw(t, "f")
		var back float64
		if b := appendFloat(nil, f); json.Unmarshal(b, &back) != nil || back != f {
			t.Fatalf("%v was written as %s", f, b)
		}
		raw := rapid.SliceOf(rapid.Byte()).Draw(t, "s")
		var s string
		b := appendString(nil, string(raw))
		if err := json.Unmarshal(b, &s); err != nil {
			t.Fatalf("%q was written as %s: %v", raw, b, err)
		}
		if want := string([]rune(string(raw))); s != want || !utf8.Valid(b) {
			t.Fatalf("%q was read back as %q, want %q", raw, s, want)
		}
	})
}

func BenchmarkReadingAppendJSON(b *testing.B) {
	b.ReportAllocs()
	buf := make([]byte, 0, 1024)
	for b.Loop() {
		buf = golden[0].AppendJSON(buf[:0])
	}
	b.SetBytes(int64(len(buf)))
}
