package command

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/pyvorin/pyvorin-edge/wire"
)

// unsignedValidity is how long the seed's JSON holds, which names no end itself.
const unsignedValidity = 7 * 24 * time.Hour

// seedJSON is what the seed's publishers send: bare JSON with Unix seconds.
type seedJSON struct {
	PayloadType json.RawMessage `json:"payloadType"` // of envelopes only

	Command       string      `json:"command"`
	TargetVersion string      `json:"target_version"`
	IssuedAt      unixSeconds `json:"issued_at"`
	Nonce         string      `json:"nonce"`

	Version        string      `json:"version"`
	Timestamp      unixSeconds `json:"timestamp"`
	ConfigB64      string      `json:"config_b64"`
	ChecksumSHA256 string      `json:"checksum_sha256"`
}

// unixSeconds is a time as Python's time.time() gives it.
type unixSeconds struct{ time.Time }

func (u *unixSeconds) UnmarshalJSON(data []byte) error {
	var f float64
	if err := json.Unmarshal(data, &f); err != nil {
		return errors.New("a time is not a number of seconds since 1970")
	}
	const year9999 = 253402300799
	if !(f > 0 && f < year9999) {
		return errors.New("a time is out of range")
	}
	whole, part := math.Modf(f)
	u.Time = time.Unix(int64(whole), int64(part*1e9)).UTC().Truncate(time.Microsecond)
	return nil
}

// looksUnsigned reports whether data is JSON of the seed's kind, and no attempt
// at an envelope.
func looksUnsigned(data []byte) bool {
	// The strings are compared first because nearly everything is an envelope,
	// and need not be parsed twice.
	if !bytes.Contains(data, []byte(`"command"`)) && !bytes.Contains(data, []byte(`"config_b64"`)) || bytes.Contains(data, []byte(`"payloadType"`)) {
		return false
	}
	var keys map[string]json.RawMessage
	return json.Unmarshal(data, &keys) == nil
}

// openUnsigned reads the seed's JSON; ok is false where only a signed message is
// obeyed.
func (r rules) openUnsigned(src source, payload []byte) (o Order, ok bool, err error) {
	if !r.allowUnsigned || src.channel != configChannel && (src.channel != commandChannel || src.name != "" && src.name != wire.CommandRollback) {
		return Order{}, false, nil
	}
	var s seedJSON
	if err := json.Unmarshal(payload, &s); err != nil {
		return Order{}, true, fmt.Errorf("message is not valid: %w", err)
	}
	if src.channel == configChannel {
		push := wire.ConfigPush{Version: s.Version, Timestamp: s.Timestamp.Time, ConfigB64: s.ConfigB64, ChecksumSHA256: s.ChecksumSHA256}
		if push.Timestamp.IsZero() {
			return Order{}, true, errors.New("config push lacks timestamp")
		}
		file, err := push.File()
		o = configOrder(push, file)
		o.Envelope = payload
		return o, true, err
	}
	if s.Command != wire.CommandRollback {
		return Order{}, false, nil
	}
	c := wire.Command{
		Command: s.Command, TargetVersion: s.TargetVersion, Nonce: s.Nonce,
		IssuedAt: s.IssuedAt.Time, ExpiresAt: s.IssuedAt.Add(unsignedValidity), Target: wire.Target{All: true},
	}
	// What a signed command must be, it must be too.
	data, err := json.Marshal(c)
	if err == nil {
		c, err = wire.ParseCommand(data)
	}
	return Order{Command: c, Envelope: payload}, true, err
}
