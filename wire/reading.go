package wire

import (
	"maps"
	"slices"
	"strconv"
	"time"
)

// Quality says how far a reading can be trusted.
type Quality string

// The qualities of a reading. Everything but Good comes with a reason.
const (
	Good      Quality = "good"      // measured, in range, in time
	Uncertain Quality = "uncertain" // measured, but something about it is doubtful
	Bad       Quality = "bad"       // not measured, or not believable; the value is null or the refused one
	Stale     Quality = "stale"     // the last good value, too old to be called current
)

// Clock says what is known of a reading's timestamp.
type Clock string

// The states of a timestamp. ClockOK is left out of the line.
const (
	ClockOK        Clock = ""
	ClockCorrected Clock = "corrected" // shifted afterwards, when the device's clock was set
	ClockUnset     Clock = "unset"     // taken before the clock was set, and not correctable
)

// Reading is one reading as it travels, one a line:
//
//	{"device_id":"FLEET-0123456789ab","seq":1,"sensor":"temp-01","type":"temperature","value":21.5,"unit":"C","timestamp":"2026-01-02T03:04:05.678Z","quality":"good"}
//
// Seq grows by one for each reading a device's queue accepted, across
// restarts; (DeviceID, Seq) identifies a reading for ever.
type Reading struct {
	DeviceID  string            `json:"device_id"`
	Seq       uint64            `json:"seq"`
	Sensor    string            `json:"sensor"`
	Type      string            `json:"type"`
	Value     Value             `json:"value"`
	Unit      string            `json:"unit"`
	Timestamp time.Time         `json:"timestamp"`
	Quality   Quality           `json:"quality"`
	Reason    string            `json:"reason,omitempty"`
	Clock     Clock             `json:"clock,omitempty"`
	Tags      map[string]string `json:"tags,omitempty"`
	Meta      map[string]Value  `json:"meta,omitempty"`
}

// AppendJSON appends r as one line of NDJSON without the newline. The key
// order is fixed, and tags and meta are sorted, so equal readings are equal
// bytes.
func (r *Reading) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"device_id":`...)
	dst = appendString(dst, r.DeviceID)
	dst = append(dst, `,"seq":`...)
	dst = strconv.AppendUint(dst, r.Seq, 10)
	dst = append(dst, `,"sensor":`...)
	dst = appendString(dst, r.Sensor)
	dst = append(dst, `,"type":`...)
	dst = appendString(dst, r.Type)
	dst = append(dst, `,"value":`...)
	dst = r.Value.AppendJSON(dst)
	dst = append(dst, `,"unit":`...)
	dst = appendString(dst, r.Unit)
	dst = append(dst, `,"timestamp":"`...)
	dst = r.Timestamp.UTC().AppendFormat(dst, TimeFormat)
	dst = append(dst, `","quality":`...)
	dst = appendString(dst, string(r.Quality))
	if r.Reason != "" {
		dst = append(dst, `,"reason":`...)
		dst = appendString(dst, r.Reason)
	}
	if r.Clock != ClockOK {
		dst = append(dst, `,"clock":`...)
		dst = appendString(dst, string(r.Clock))
	}
	if len(r.Tags) > 0 {
		dst = append(dst, `,"tags":{`...)
		for i, k := range slices.Sorted(maps.Keys(r.Tags)) {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(appendString(dst, k), ':')
			dst = appendString(dst, r.Tags[k])
		}
		dst = append(dst, '}')
	}
	if len(r.Meta) > 0 {
		dst = append(dst, `,"meta":{`...)
		for i, k := range slices.Sorted(maps.Keys(r.Meta)) {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(appendString(dst, k), ':')
			dst = r.Meta[k].AppendJSON(dst)
		}
		dst = append(dst, '}')
	}
	return append(dst, '}')
}

// MarshalJSON implements json.Marshaler with the same bytes as AppendJSON.
func (r Reading) MarshalJSON() ([]byte, error) { return r.AppendJSON(nil), nil }
