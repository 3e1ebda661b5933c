package uplink

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/pyvorin/pyvorin-edge/wire"
)

// The formats of a body.
const (
	formatNDJSON = "ndjson"
	formatJSON   = "json"
	formatSenML  = "senml"
)

var contentTypes = map[string]string{
	formatNDJSON: "application/x-ndjson",
	formatJSON:   "application/json",
	formatSenML:  "application/senml+json",
}

// jsonDocument wraps lines, which are JSON already, into one document.
func jsonDocument(deviceID, batchID string, lines [][]byte) []byte {
	size := 64 + len(deviceID) + len(batchID)
	for _, line := range lines {
		size += len(line) + 1
	}
	doc := make([]byte, 0, size)
	doc = append(doc, `{"device_id":`...)
	doc = append(doc, quoted(deviceID)...)
	doc = append(doc, `,"batch_id":`...)
	doc = append(doc, quoted(batchID)...)
	doc = append(doc, `,"readings":[`...)
	for i, line := range lines {
		if i > 0 {
			doc = append(doc, ',')
		}
		doc = append(doc, bytes.TrimSuffix(line, []byte("\n"))...)
	}
	return append(doc, "]}"...)
}

// quoted returns s, which is printable ASCII, as a JSON string.
func quoted(s string) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string always has a JSON form
	}
	return b
}

// senmlRecord is one record of RFC 8428.
type senmlRecord struct {
	BaseName string   `json:"bn,omitempty"`
	Name     string   `json:"n"`
	Unit     string   `json:"u,omitempty"`
	Number   *float64 `json:"v,omitempty"`
	Text     *string  `json:"vs,omitempty"`
	Bool     *bool    `json:"vb,omitempty"`
	Time     float64  `json:"t,omitempty"` // seconds since 1970
}

// senmlEpoch is 2^28 s, 4 July 1978: RFC 8428 section 4.5.3 reads anything
// below as relative to now. A reading with such a time comes from a clock that
// was not set, and is better sent without one.
const senmlEpoch = 1 << 28

// senmlPack turns lines into one SenML pack. The base name is the device id and
// a slash. A reading whose quality is not good is followed by a record named
// NAME/quality with the quality and its reason as text, which is all there is of
// a reading without a value. Seq, type, tags and metadata have no place in
// SenML and are left out, and so is a unit that SenML has no name for.
func senmlPack(deviceID string, lines [][]byte) ([]byte, error) {
	records := make([]senmlRecord, 0, len(lines))
	for _, line := range lines {
		var r wire.Reading
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, fmt.Errorf("read a stored line: %w", err)
		}
		at := float64(r.Timestamp.Round(time.Millisecond).UnixMilli()) / 1000
		if at < senmlEpoch {
			at = 0
		}
		record := senmlRecord{Name: senmlName(r.Sensor), Unit: senmlUnits[r.Unit], Time: at}
		if f, ok := r.Value.Float(); ok {
			record.Number = &f
		}
		if s, ok := r.Value.Text(); ok {
			record.Text = &s
		}
		if b, ok := r.Value.Bool(); ok {
			record.Bool = &b
		}
		if r.Value.Kind() != wire.None {
			records = append(records, record)
		}
		if r.Quality != wire.Good || r.Value.Kind() == wire.None {
			text := string(r.Quality)
			if r.Reason != "" {
				text += ": " + r.Reason
			}
			records = append(records, senmlRecord{Name: record.Name + "/quality", Text: &text, Time: at})
		}
	}
	records[0].BaseName = senmlName(deviceID) + "/"
	return json.Marshal(records)
}

// senmlName replaces what RFC 8428 section 4.5.1 does not allow in a name by _.
func senmlName(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', strings.ContainsRune("-:./_", r):
			return r
		}
		return '_'
	}, s)
	if s == "" || strings.IndexByte("-:./_", s[0]) >= 0 {
		s = "x" + s // names start with a letter or digit
	}
	return s
}

// senmlUnits maps units as sensors write them (UCUM, and what people use
// instead) to registered SenML units of the same size: RFC 8428 section 12.1
// and RFC 8798. Values are never converted.
var senmlUnits = map[string]string{
	"Cel": "Cel", "C": "Cel", "°C": "Cel", "degC": "Cel", "K": "K",
	"%": "%", "%RH": "%RH", "1": "/", "/": "/", "[ppm]": "ppm", "ppm": "ppm",
	"Pa": "Pa", "hPa": "hPa", "mbar": "hPa",
	"V": "V", "mV": "mV", "A": "A", "mA": "mA", "Ohm": "Ohm", "Ω": "Ohm", "F": "F",
	"W": "W", "kW": "kW", "VA": "VA", "kVA": "kVA", "var": "var", "kvar": "kvar",
	"J": "J", "W.h": "Wh", "Wh": "Wh", "kW.h": "kWh", "kWh": "kWh",
	"Hz": "Hz", "MHz": "MHz", "1/min": "1/min", "/min": "1/min", "rpm": "1/min",
	"m": "m", "mm": "mm", "cm": "cm", "km": "km", "m2": "m2", "m3": "m3",
	"L": "l", "l": "l", "m3/s": "m3/s", "L/s": "l/s", "l/s": "l/s",
	"m/s": "m/s", "km/h": "km/h", "m/s2": "m/s2", "rad": "rad", "deg": "deg", "°": "deg",
	"kg": "kg", "g": "g", "N": "N", "lx": "lx", "lux": "lx", "lm": "lm", "cd": "cd", "T": "T", "Wb": "Wb",
	"s": "s", "ms": "ms", "min": "min", "h": "h",
	"bit": "bit", "bit/s": "bit/s", "By": "B", "B": "B", "By/s": "B/s", "B/s": "B/s",
	"dB": "dB", "dBm": "dBm", "[pH]": "pH", "pH": "pH", "S/m": "S/m",
}
