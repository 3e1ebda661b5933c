package wire

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Presence says whether a device is connected. The broker publishes the last
// will of a connection that it lost, perhaps after the device has come back:
// what has the lower epoch is of the past.
type Presence struct {
	Online bool      `json:"online"`
	Epoch  uint64    `json:"epoch"` // grows with each connection of the device, for ever
	At     time.Time `json:"at"`
}

// What is pushed is a config.toml or a config.json.
const (
	FormatTOML = "toml"
	FormatJSON = "json"
)

// Bounds of a config push.
const (
	MaxConfigBytes     = 256 << 10 // of the file
	maxConfigPushBytes = 512 << 10
)

// ConfigPush is the payload of a config envelope. Its fields are the seed's,
// but for the last two. Of several that a device has heard, the one with the
// newest timestamp counts, whatever topic it came by.
type ConfigPush struct {
	Version        string    `json:"version"`
	Timestamp      time.Time `json:"timestamp"`
	ConfigB64      string    `json:"config_b64"`       // the file
	ChecksumSHA256 string    `json:"checksum_sha256"`  // of the file, 64 hex digits
	Format         string    `json:"format,omitempty"` // "toml", which is the default, or "json"

	// Target says whom it is for. Without one it is for whoever hears it, and then
	// whoever runs the broker chooses who that is.
	Target *Target `json:"target,omitempty"`
}

// ParseConfigPush reads the payload of a config envelope whose signatures were
// verified, and returns the file in it too. It checks the bounds and that the
// checksum fits, not whom it is for. With an error comes what could be read.
func ParseConfigPush(payload []byte) (p ConfigPush, file []byte, err error) {
	if len(payload) > maxConfigPushBytes {
		return p, nil, fmt.Errorf("config push has %d bytes, more than %d", len(payload), maxConfigPushBytes)
	}
	if err := json.Unmarshal(payload, &p); err != nil {
		return p, nil, fmt.Errorf("config push is not valid: %w", err)
	}
	if p.Timestamp.IsZero() {
		return p, nil, errors.New("config push lacks timestamp")
	}
	file, err = p.File()
	return p, file, err
}

// File returns what was pushed.
func (p ConfigPush) File() ([]byte, error) {
	switch {
	case p.Version == "" || len(p.Version) > maxTextBytes:
		return nil, fmt.Errorf("config push has no version of 1 to %d bytes", maxTextBytes)
	case p.Format != "" && p.Format != FormatTOML && p.Format != FormatJSON:
		return nil, errors.New("config push has a format that is neither toml nor json")
	case p.Target != nil && !p.Target.valid():
		return nil, fmt.Errorf("config push must have one target, which is all, groups or devices, of at most %d names, or none", maxTargets)
	}
	file, err := base64.StdEncoding.DecodeString(p.ConfigB64)
	switch {
	case err != nil:
		return nil, errors.New("config push has a config_b64 that is not base64")
	case len(file) == 0 || len(file) > MaxConfigBytes:
		return nil, fmt.Errorf("config push has a file of %d bytes, not 1 to %d", len(file), MaxConfigBytes)
	}
	if sum := sha256.Sum256(file); hex.EncodeToString(sum[:]) != p.ChecksumSHA256 {
		return nil, errors.New("config push has a checksum_sha256 that is not that of its file")
	}
	return file, nil
}

// What a report tells of.
const (
	ReportCommand = "command" // what became of a command
	ReportUpdate  = "update"  // how an update, or a repair, ended
	ReportConfig  = "config"  // a config was taken, refused, or has come back
	ReportDrift   = "drift"   // the config is not what it should be, or is again
	ReportHealth  = "health"  // the /health document, asked for
)

// How what is reported came out.
const (
	OutcomeDone     = "done"
	OutcomeAccepted = "accepted" // begun; another report follows
	OutcomeRefused  = "refused"  // not obeyed; the reason says why
	OutcomeFailed   = "failed"   // tried, without success
)

// Report is what a device tells its controller. It is kept on disk and sent
// again until its ack arrives.
type Report struct {
	Seq     uint64         `json:"seq"` // grows with each report of the device, for ever
	Kind    string         `json:"kind"`
	Nonce   string         `json:"nonce,omitempty"` // of the command that it answers
	Outcome string         `json:"outcome"`
	Reason  string         `json:"reason,omitempty"`
	Detail  map[string]any `json:"detail,omitempty"`
	At      time.Time      `json:"at"`
}

// ReportAck says that the controller has every report up to Seq durably.
type ReportAck struct {
	Seq uint64 `json:"seq"`
}
