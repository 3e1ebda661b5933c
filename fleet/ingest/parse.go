package ingest

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tidwall/gjson"

	"github.com/pyvorin/pyvorin-edge/wire"
)

// The content types of a batch: one reading a line, or one document
// {"device_id","batch_id","readings":[…]}.
const (
	typeNDJSON = "application/x-ndjson"
	typeJSON   = "application/json"
)

const (
	maxLineBytes = 256 << 10 // of one reading: more than 32 KiB of text with every byte escaped
	maxNameBytes = 512       // of a sensor's name, type and unit
)

// No device measured before its epoch or in the far future; a clock that is
// merely wrong is the device's to report.
var (
	minTime = time.Unix(0, 0)
	maxTime = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)
)

// batch is the content of one request, all of it of one device.
type batch struct {
	device   string
	readings []wire.Reading
}

// parse reads a whole batch. The device, when not "", is the one that every
// reading must be of. A single bad reading refuses the batch, and the refusal
// names it: its line, or its place among the document's readings.
func parse(mediaType string, body []byte, device string, maxReadings int) (batch, *refusal) {
	b := batch{device: device}
	items, no := b.split(mediaType, body, maxReadings)
	if no != nil {
		return batch{}, no
	}
	b.readings = make([]wire.Reading, 0, len(items))
	for _, item := range items {
		r, err := parseReading(item.text, b.device)
		if err != nil {
			return batch{}, &refusal{status: http.StatusBadRequest, line: item.line, reason: err.Error()}
		}
		b.device = r.DeviceID
		b.readings = append(b.readings, r)
	}
	if len(b.readings) == 0 {
		return batch{}, refuse(http.StatusBadRequest, "there are no readings in the body")
	}
	return b, nil
}

type item struct {
	text string
	line int
}

func (b *batch) split(mediaType string, body []byte, maxReadings int) ([]item, *refusal) {
	tooMany := refuse(http.StatusRequestEntityTooLarge, fmt.Sprintf("a request carries at most %d readings", maxReadings))
	var items []item
	if mediaType == typeNDJSON {
		line := 0
		for text := range strings.Lines(string(body)) {
			line++
			if text = strings.TrimSpace(text); text == "" {
				continue
			}
			if len(items) == maxReadings {
				return nil, tooMany
			}
			items = append(items, item{text, line})
		}
		return items, nil
	}
	var document struct {
		DeviceID string            `json:"device_id"`
		Readings []json.RawMessage `json:"readings"`
	}
	if err := json.Unmarshal(body, &document); err != nil {
		return nil, refuse(http.StatusBadRequest, "the body is not a document of readings: "+err.Error())
	}
	switch {
	case !wire.ValidDeviceID(document.DeviceID):
		return nil, refuse(http.StatusBadRequest, errDeviceID.Error())
	case b.device != "" && document.DeviceID != b.device:
		return nil, refuse(http.StatusBadRequest, errOtherDevice.Error())
	case len(document.Readings) > maxReadings:
		return nil, tooMany
	}
	b.device = document.DeviceID
	for i, raw := range document.Readings {
		items = append(items, item{string(raw), i + 1})
	}
	return items, nil
}

var (
	errDeviceID    = errors.New("device_id must be " + wire.DeviceIDForm)
	errOtherDevice = errors.New("device_id differs from the rest of the request")
)

// parseReading reads one reading strictly, but for keys it does not know. The
// device, when not "", is the one it must be of; in a document, whose device_id
// stands once, a reading need not repeat it.
func parseReading(text, device string) (wire.Reading, error) {
	r := wire.Reading{DeviceID: device}
	switch {
	case len(text) > maxLineBytes:
		return r, fmt.Errorf("a reading has at most %d bytes", maxLineBytes)
	case !utf8.ValidString(text):
		return r, errors.New("the line is not UTF-8")
	case !gjson.Valid(text):
		return r, errors.New("the line is not JSON")
	}
	object := gjson.Parse(text)
	if !object.IsObject() {
		return r, errors.New("a reading is a JSON object")
	}
	var err error
	hasValue := false
	object.ForEach(func(key, v gjson.Result) bool {
		switch key.Str {
		case "device_id":
			if r.DeviceID = v.Str; v.Type != gjson.String || !wire.ValidDeviceID(v.Str) {
				err = errDeviceID
			} else if device != "" && v.Str != device {
				err = errOtherDevice
			}
		case "seq":
			r.Seq, err = parseSeq(v)
		case "sensor":
			r.Sensor, err = parseName(key.Str, v)
		case "type":
			r.Type, err = parseName(key.Str, v)
		case "unit":
			r.Unit, err = parseName(key.Str, v)
		case "value":
			hasValue = true
			r.Value, err = parseValue(key.Str, v)
		case "timestamp":
			r.Timestamp, err = parseTime(v)
		case "quality":
			switch r.Quality = wire.Quality(v.Str); r.Quality {
			case wire.Good, wire.Uncertain, wire.Bad, wire.Stale:
			default:
				err = errors.New("quality must be good, uncertain, bad or stale")
			}
		case "reason":
			if r.Reason = v.Str; v.Type != gjson.String {
				err = errors.New("reason must be a text")
			}
		case "clock":
			switch r.Clock = wire.Clock(v.Str); r.Clock {
			case wire.ClockOK, wire.ClockCorrected, wire.ClockUnset:
			default:
				err = errors.New("clock must be corrected or unset")
			}
		case "tags":
			r.Tags, err = parseTags(v)
		case "meta":
			r.Meta, err = parseMeta(v)
		}
		return err == nil
	})
	if err != nil {
		return r, err
	}
	for _, required := range []struct {
		key     string
		missing bool
	}{
		{"device_id", r.DeviceID == ""},
		{"seq", r.Seq == 0},
		{"sensor", r.Sensor == ""},
		{"value", !hasValue},
		{"timestamp", r.Timestamp.IsZero()},
		{"quality", r.Quality == ""},
	} {
		if required.missing {
			return r, errors.New(required.key + " is missing")
		}
	}
	return r, nil
}

func parseSeq(v gjson.Result) (uint64, error) {
	seq, err := strconv.ParseUint(v.Raw, 10, 63)
	if v.Type != gjson.Number || err != nil || seq == 0 {
		return 0, errors.New("seq must be a whole number from 1 to 2^63-1")
	}
	return seq, nil
}

func parseName(key string, v gjson.Result) (string, error) {
	if v.Type != gjson.String || len(v.Str) > maxNameBytes {
		return "", fmt.Errorf("%s must be a text of at most %d bytes", key, maxNameBytes)
	}
	return v.Str, nil
}

func parseValue(key string, v gjson.Result) (wire.Value, error) {
	switch v.Type {
	case gjson.Null:
		return wire.Value{}, nil
	case gjson.Number:
		if math.IsInf(v.Num, 0) {
			return wire.Value{}, fmt.Errorf("%s is too large a number", key)
		}
		return wire.NumberValue(v.Num), nil
	case gjson.String:
		return wire.TextValue(v.Str), nil
	case gjson.True, gjson.False:
		return wire.BoolValue(v.Type == gjson.True), nil
	}
	return wire.Value{}, fmt.Errorf("%s must be a number, a text, true, false or null", key)
}

// parseTime keeps milliseconds, as timestamps travel.
func parseTime(v gjson.Result) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, v.Str)
	if v.Type != gjson.String || err != nil || t.Before(minTime) || !t.Before(maxTime) {
		return time.Time{}, errors.New("timestamp must be RFC 3339, from 1970 to 2199")
	}
	return t.UTC().Truncate(time.Millisecond), nil
}

func parseTags(v gjson.Result) (tags map[string]string, err error) {
	if !v.IsObject() {
		return nil, errors.New("tags must be an object of texts")
	}
	tags = map[string]string{}
	v.ForEach(func(key, tag gjson.Result) bool {
		if tag.Type != gjson.String {
			err = errors.New("tags must be an object of texts")
		}
		tags[key.Str] = tag.Str
		return err == nil
	})
	return tags, err
}

func parseMeta(v gjson.Result) (meta map[string]wire.Value, err error) {
	if !v.IsObject() {
		return nil, errors.New("meta must be an object")
	}
	meta = map[string]wire.Value{}
	v.ForEach(func(key, field gjson.Result) bool {
		meta[key.Str], err = parseValue("meta", field)
		return err == nil
	})
	return meta, err
}
