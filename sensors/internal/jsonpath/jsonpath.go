// Package jsonpath takes the values out of a JSON document that some device
// or program sent: the part that the http, mqtt and exec sensors share.
//
// The document is foreign. It is checked as a whole before a path is looked
// up, nesting included, so that no document can exhaust the stack; what is
// kept of it is copied and bounded. No error or reason carries any of it: they
// name paths, which come from the config.
package jsonpath

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tidwall/gjson"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// maxMetaBytes bounds one metadata text; the rest is cut off.
const maxMetaBytes = 256

// Spec says where the values are. Every path has gjson's syntax.
type Spec struct {
	Path      string            // of the only value
	Fields    map[string]string // or: channel -> path
	Timestamp string            // path of the time of measurement; "" means now
	Meta      map[string]string // metadata key -> path
}

// IsZero reports whether s names no value at all.
func (s Spec) IsZero() bool { return s.Path == "" && len(s.Fields) == 0 }

// Check returns a config.Problem when s cannot work.
func (s Spec) Check() error {
	switch {
	case s.IsZero() && (s.Timestamp != "" || len(s.Meta) > 0):
		return config.Problemf("json_path", "is needed, or fields, with timestamp_path or meta")
	case s.Path != "" && len(s.Fields) > 0:
		return config.Problemf("json_path", "does not go with fields; put it under fields with a channel name")
	}
	for channel, path := range s.Fields {
		if channel == "" || path == "" {
			return config.Problemf("fields", "must map a channel name to a path, and neither may be empty")
		}
	}
	for key, path := range s.Meta {
		if key == "" || path == "" {
			return config.Problemf("meta", "must map a name to a path, and neither may be empty")
		}
	}
	return nil
}

// Samples returns what s names in doc, sorted by channel. A field that is
// absent or no plain value is a bad sample of its channel; with a single Path,
// and when doc is not JSON, it is an error.
func (s Spec) Samples(doc []byte) ([]sensors.Sample, error) {
	// encoding/json limits the nesting, gjson's own check does not.
	if !json.Valid(doc) {
		return nil, errors.New("not valid JSON")
	}
	var out []sensors.Sample
	if s.Path != "" {
		v, err := lookup(doc, s.Path)
		if err != nil {
			return nil, err
		}
		out = append(out, sensors.Sample{Value: v})
	}
	for _, channel := range slices.Sorted(maps.Keys(s.Fields)) {
		sample := sensors.Sample{Channel: channel}
		if v, err := lookup(doc, s.Fields[channel]); err != nil {
			sample.Quality, sample.Reason = wire.Bad, err.Error()
		} else {
			sample.Value = v
		}
		out = append(out, sample)
	}
	s.stamp(doc, out)
	s.annotate(doc, out)
	return out, nil
}

// stamp gives every sample the time that doc states. When it states none that
// can be understood the samples are of now, and uncertain.
func (s Spec) stamp(doc []byte, samples []sensors.Sample) {
	if s.Timestamp == "" {
		return
	}
	t, err := parseTime(gjson.GetBytes(doc, s.Timestamp))
	for i := range samples {
		samples[i].Time = t
		if err != nil && samples[i].Quality == "" {
			samples[i].Quality = wire.Uncertain
			samples[i].Reason = fmt.Sprintf("timestamp_path %q: %v; took the time of arrival", s.Timestamp, err)
		}
	}
}

// annotate adds the metadata; what is absent is left out.
func (s Spec) annotate(doc []byte, samples []sensors.Sample) {
	for key, path := range s.Meta {
		v, err := lookup(doc, path)
		if err != nil {
			continue
		}
		if text, ok := v.Text(); ok {
			v = wire.TextValue(Clip(text, maxMetaBytes))
		}
		for i := range samples {
			if samples[i].Meta == nil {
				samples[i].Meta = make(map[string]wire.Value, len(s.Meta))
			}
			samples[i].Meta[key] = v
		}
	}
}

// lookup returns the plain value at path.
func lookup(doc []byte, path string) (wire.Value, error) {
	r := gjson.GetBytes(doc, path)
	switch {
	case !r.Exists():
		return wire.Value{}, fmt.Errorf("nothing at %q", path)
	case r.Type == gjson.Number:
		if v := wire.NumberValue(r.Num); v.Kind() == wire.Number {
			return v, nil
		}
		return wire.Value{}, fmt.Errorf("the number at %q is not finite", path)
	case r.Type == gjson.String:
		return wire.TextValue(strings.Clone(r.Str)), nil // r.Str may keep all of doc alive
	case r.IsBool():
		return wire.BoolValue(r.Bool()), nil
	case r.Type == gjson.Null:
		return wire.Value{}, fmt.Errorf("null at %q", path)
	}
	return wire.Value{}, fmt.Errorf("an object or a list at %q, not a value", path)
}

// Seconds since 1970 stay below this for 3,000 years; milliseconds passed it
// in 1973. The larger units follow by thousands.
const maxUnixSeconds = 1e11

// parseTime understands RFC 3339 and seconds, milliseconds, microseconds or
// nanoseconds since 1970, told apart by their size.
func parseTime(r gjson.Result) (time.Time, error) {
	switch r.Type {
	case gjson.String:
		t, err := time.Parse(time.RFC3339, r.Str)
		if err != nil {
			return time.Time{}, errors.New("not an RFC 3339 time with a zone")
		}
		return t, nil
	case gjson.Number:
		n := r.Num
		if !(n > 0 && n < maxUnixSeconds*1e9) {
			return time.Time{}, errors.New("not a time since 1970")
		}
		switch {
		case n < maxUnixSeconds:
			return time.UnixMilli(int64(n * 1e3)), nil
		case n < maxUnixSeconds*1e3:
			return time.UnixMilli(int64(n)), nil
		case n < maxUnixSeconds*1e6:
			return time.UnixMicro(int64(n)), nil
		}
		return time.UnixMicro(int64(n / 1e3)), nil
	}
	return time.Time{}, errors.New("no time there")
}

// Clip returns at most limit bytes of text, cut between characters.
func Clip(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return strings.Clone(text[:limit])
}
