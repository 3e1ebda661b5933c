package wire

import "time"

// Presence says whether a device is connected. The broker publishes the last
// will of a connection that it lost, perhaps after the device has come back:
// what has the lower epoch is of the past.
type Presence struct {
	Online bool      `json:"online"`
	Epoch  uint64    `json:"epoch"` // grows with each connection of the device, for ever
	At     time.Time `json:"at"`
}

// ConfigPush is the payload of a config envelope. Its fields are the seed's.
type ConfigPush struct {
	Version        string    `json:"version"`
	Timestamp      time.Time `json:"timestamp"`
	ConfigB64      string    `json:"config_b64"`       // the file
	ChecksumSHA256 string    `json:"checksum_sha256"`  // of the file, 64 hex digits
	Format         string    `json:"format,omitempty"` // "toml", which is the default, or "json"
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
