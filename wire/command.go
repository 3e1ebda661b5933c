package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"
)

// The commands that an update consists of.
const (
	CommandUpdate   = "update"
	CommandRollback = "rollback"
)

// Bounds of a command.
const (
	MaxCommandBytes = 64 << 10
	maxTargets      = 4096
	maxTextBytes    = 4096
)

// Command is the payload of a command envelope: a signed order. Fields that a
// command does not have are empty. An old device ignores fields that it does not
// know, so what must not be ignored is a new command.
type Command struct {
	Command   string    `json:"command"`
	IssuedAt  time.Time `json:"issued_at"`
	ExpiresAt time.Time `json:"expires_at"`
	Nonce     string    `json:"nonce"` // unique for ever; a device obeys each once
	Target    Target    `json:"target"`

	// Of update: the bundle to run.
	Component string `json:"component,omitempty"` // "" is the agent itself
	URL       string `json:"url,omitempty"`       // of the full bundle
	SHA256    string `json:"sha256,omitempty"`    // of the full bundle's file, 64 hex digits
	Version   string `json:"version,omitempty"`
	Counter   uint64 `json:"counter,omitempty"`
	RolloutID string `json:"rollout_id,omitempty"`
	// AllowDowngrade lets the release be older than the last committed one. It
	// counts only when a release key signed the command as well.
	AllowDowngrade bool `json:"allow_downgrade,omitempty"`

	// Of rollback: the version to go back to; "" is the one before.
	TargetVersion string `json:"target_version,omitempty"`
}

// Target says which devices a command is for. Exactly one field is set.
type Target struct {
	All     bool     `json:"all,omitempty"`
	Groups  []string `json:"groups,omitempty"`
	Devices []string `json:"devices,omitempty"`
}

// Includes reports whether the target covers the device.
func (t Target) Includes(deviceID, group string) bool {
	return t.All || slices.Contains(t.Devices, deviceID) || group != "" && slices.Contains(t.Groups, group)
}

var (
	noncePattern  = regexp.MustCompile(`^[A-Za-z0-9._:-]{8,128}$`)
	digestPattern = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// ParseCommand reads the payload of a command envelope whose signatures were
// verified. It checks what every command must have and the bounds of the
// rest, not whether it has expired or whom it is for.
func ParseCommand(payload []byte) (Command, error) {
	if len(payload) > MaxCommandBytes {
		return Command{}, fmt.Errorf("command has %d bytes, more than %d", len(payload), MaxCommandBytes)
	}
	var c Command
	if err := json.Unmarshal(payload, &c); err != nil {
		return Command{}, fmt.Errorf("command is not valid: %w", err)
	}
	kinds := 0
	for _, is := range []bool{c.Target.All, len(c.Target.Groups) > 0, len(c.Target.Devices) > 0} {
		if is {
			kinds++
		}
	}
	switch {
	case c.Command == "":
		return Command{}, errors.New("command has no name")
	case !noncePattern.MatchString(c.Nonce):
		return Command{}, errors.New("command has no nonce of 8 to 128 letters, digits, dots, dashes, colons or underscores")
	case c.IssuedAt.IsZero() || c.ExpiresAt.IsZero():
		return Command{}, errors.New("command lacks issued_at or expires_at")
	case !c.ExpiresAt.After(c.IssuedAt):
		return Command{}, errors.New("command expires before it was issued")
	case kinds != 1:
		return Command{}, errors.New("command must have one target: all, groups or devices")
	case len(c.Target.Groups)+len(c.Target.Devices) > maxTargets:
		return Command{}, fmt.Errorf("command has more than %d targets", maxTargets)
	case len(c.URL) > maxTextBytes || len(c.Version) > maxTextBytes || len(c.TargetVersion) > maxTextBytes || len(c.RolloutID) > maxTextBytes || len(c.Component) > maxTextBytes:
		return Command{}, fmt.Errorf("command has a text of more than %d bytes", maxTextBytes)
	case c.Command == CommandUpdate && !digestPattern.MatchString(c.SHA256):
		return Command{}, errors.New("update command has no sha256 of 64 hex digits")
	case c.Command == CommandUpdate && (c.URL == "" || c.Version == ""):
		return Command{}, errors.New("update command lacks url or version")
	}
	return c, nil
}
