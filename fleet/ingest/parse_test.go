package ingest

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/pyvorin/pyvorin-edge/wire"
)

const goodLine = `{"device_id":"FLEET-0123456789ab","seq":1,"sensor":"temp-01","type":"temperature","value":21.5,"unit":"C","timestamp":"2026-01-02T03:04:05.678Z","quality":"good"}`

func TestParseReading(t *testing.T) {
	change := func(old, new string) string {
		if !strings.Contains(goodLine, old) {
			t.Fatalf("the line has no %s", old)
		}
		return strings.Replace(goodLine, old, new, 1)
	}
	for _, tt := range []struct{ name, line, want string }{
		{"as it travels", goodLine, ""},
		{"unknown keys", change(`"seq":1`, `"seq":1,"later":{"x":[1,{"y":null}]}`), ""},
		{"text value", change(`21.5`, `"open"`), ""},
		{"null value", change(`21.5`, `null`), ""},
		{"tags and meta", change(`"seq":1`, `"seq":1,"tags":{"a":"b"},"meta":{"n":1,"t":"x","b":false,"z":null}`), ""},
		{"offset", change(`05.678Z`, `05.678+02:00`), ""},
		{"before the clock was set", change(`2026-01-02T03:04:05.678Z`, `1970-01-01T00:00:00.000Z`), ""},
		{"largest seq", change(`"seq":1`, `"seq":9223372036854775807`), ""},

		{"not JSON", `{"device_id":`, "not JSON"},
		{"not an object", `[1]`, "object"},
		{"two objects", goodLine + goodLine, "not JSON"},
		{"invalid UTF-8", change(`temp-01`, "temp\xff"), "UTF-8"},
		{"too long", change(`21.5`, `"`+strings.Repeat("x", maxLineBytes)+`"`), "at most 262144 bytes"},
		{"NaN", change(`21.5`, `NaN`), "not JSON"},
		{"infinite", change(`21.5`, `1e999`), "too large"},
		{"object value", change(`21.5`, `{"a":1}`), "value must be"},
		{"array value", change(`21.5`, `[1]`), "value must be"},
		{"no value", change(`"value":21.5,`, ``), "value is missing"},
		{"no device", change(`"device_id":"FLEET-0123456789ab",`, ``), "device_id is missing"},
		{"empty device", change(`FLEET-0123456789ab`, ``), "device_id"},
		{"device with a slash", change(`FLEET-0123456789ab`, `a/b`), "device_id"},
		{"device with markup", change(`FLEET-0123456789ab`, `<b>`), "device_id"},
		{"device like a path", change(`FLEET-0123456789ab`, `..`), "device_id"},
		{"numeric device", change(`"FLEET-0123456789ab"`, `5`), "device_id"},
		{"long device", change(`FLEET-0123456789ab`, strings.Repeat("d", wire.MaxDeviceIDBytes+1)), "device_id"},
		{"seq 0", change(`"seq":1`, `"seq":0`), "seq"},
		{"negative seq", change(`"seq":1`, `"seq":-1`), "seq"},
		{"fractional seq", change(`"seq":1`, `"seq":1.5`), "seq"},
		{"exponential seq", change(`"seq":1`, `"seq":1e3`), "seq"},
		{"text seq", change(`"seq":1`, `"seq":"1"`), "seq"},
		{"seq too large", change(`"seq":1`, `"seq":9223372036854775808`), "seq"},
		{"no seq", change(`"seq":1,`, ``), "seq is missing"},
		{"other case", change(`"seq"`, `"Seq"`), "seq is missing"},
		{"no sensor", change(`temp-01`, ``), "sensor is missing"},
		{"long sensor", change(`temp-01`, strings.Repeat("s", maxNameBytes+1)), "sensor"},
		{"no timestamp", change(`,"timestamp":"2026-01-02T03:04:05.678Z"`, ``), "timestamp is missing"},
		{"numeric timestamp", change(`"2026-01-02T03:04:05.678Z"`, `1767323045`), "timestamp"},
		{"before 1970", change(`2026-`, `1969-`), "timestamp"},
		{"far future", change(`2026-`, `2200-`), "timestamp"},
		{"unknown quality", change(`"good"`, `"great"`), "quality"},
		{"no quality", change(`,"quality":"good"`, ``), "quality is missing"},
		{"unknown clock", change(`"seq":1`, `"seq":1,"clock":"late"`), "clock"},
		{"numeric reason", change(`"seq":1`, `"seq":1,"reason":1`), "reason"},
		{"tags of numbers", change(`"seq":1`, `"seq":1,"tags":{"a":1}`), "tags"},
		{"meta of objects", change(`"seq":1`, `"seq":1,"meta":{"a":{}}`), "meta"},
		{"meta of a list", change(`"seq":1`, `"seq":1,"meta":[]`), "meta"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parseReading(tt.line, "")
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
	r, err := parseReading(goodLine, "")
	if err != nil || string(r.AppendJSON(nil)) != goodLine {
		t.Errorf("read as %s, %v", r.AppendJSON(nil), err)
	}
	if r, err = parseReading(change("678Z", "678999Z"), ""); err != nil || string(r.AppendJSON(nil)) != goodLine {
		t.Errorf("microseconds are kept: %s, %v", r.AppendJSON(nil), err)
	}
}

// FuzzParse: whatever comes, it is refused whole, or it is readings of one
// device that travel on as the same readings.
func FuzzParse(f *testing.F) {
	f.Add(true, []byte(goodLine+"\n"))
	f.Add(true, []byte(goodLine+"\n"+strings.Replace(goodLine, `"seq":1`, `"seq":2,"tags":{"a":"b"},"meta":{"n":1}`, 1)))
	f.Add(false, []byte(`{"device_id":"FLEET-0123456789ab","batch_id":"1","readings":[`+goodLine+`]}`))
	f.Add(true, []byte("{\"device_id\":\"d\\u0000\",\"seq\":1e1}\r\n\xff"))
	f.Add(false, bytes.Repeat([]byte("["), 1000))
	f.Fuzz(func(t *testing.T, lines bool, body []byte) {
		mediaType := typeJSON
		if lines {
			mediaType = typeNDJSON
		}
		b, no := parse(mediaType, body, "", 100)
		if no != nil {
			if no.status != 400 && no.status != 413 || no.reason == "" {
				t.Fatalf("refused with %+v", no)
			}
			return
		}
		if len(b.readings) == 0 || len(b.readings) > 100 || !wire.ValidDeviceID(b.device) {
			t.Fatalf("accepted %d readings of %q", len(b.readings), b.device)
		}
		for i := range b.readings {
			r := &b.readings[i]
			if r.DeviceID != b.device || r.Seq == 0 || r.Quality == wire.Quality("") {
				t.Fatalf("accepted %+v", r)
			}
			line := string(r.AppendJSON(nil))
			if len(line) > maxLineBytes {
				continue // escapes may make it longer
			}
			again, err := parseReading(line, b.device)
			if err != nil || string(again.AppendJSON(nil)) != line {
				t.Fatalf("%s is read again as %s, %v", line, again.AppendJSON(nil), err)
			}
		}
	})
}

// The bounds are above what a device keeps to: a sensor's and a channel's name of
// 128 bytes each, 32 KiB of text, 4 KiB of metadata, every byte of it escaped.
func TestTheLargestReadingOfADeviceIsTaken(t *testing.T) {
	noise := func(n int) string { return strings.Repeat("\x01", n) }
	r := wire.Reading{
		DeviceID: "FLEET-0123456789ab", Seq: 1<<53 - 1, Sensor: strings.Repeat("s", 128) + "." + strings.Repeat("c", 128),
		Type: strings.Repeat("t", 64), Unit: strings.Repeat("u", 64), Value: wire.TextValue(noise(32 << 10)),
		Timestamp: time.UnixMilli(1), Quality: wire.Uncertain, Reason: noise(512), Clock: wire.ClockUnset,
		Meta: map[string]wire.Value{"m": wire.TextValue(noise(4096))},
	}
	got, err := parseReading(string(r.AppendJSON(nil)), "")
	if err != nil || !sameContent(&got, &r) {
		t.Errorf("%v: %+v", err, got)
	}
}
