package provision

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
)

// state is what provisioning remembers of what it did: with it, what others
// changed since can be told from what it left behind itself.
type state struct {
	Format   int    `json:"format"`
	DeviceID string `json:"device_id"`
	Source   string `json:"serial_source"`
	// Anchor is the SHA-256 of the anchor that was last given, in the form in
	// which trust writes it.
	Anchor string       `json:"anchor_sha256,omitempty"`
	Config configHashes `json:"config"`
}

// configHashes are SHA-256s of files.
type configHashes struct {
	Written  string `json:"written_sha256,omitempty"`  // the config, as provisioning last wrote it
	Template string `json:"template_sha256,omitempty"` // what the template last became
	Import   string `json:"import_sha256,omitempty"`   // the last one imported from the boot partition, as it lay there
}

const (
	stateFormat   = 1
	maxStateBytes = 16 << 10
)

func hashOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// readState returns the zero state when there is none.
func readState(base *folder) (state, error) {
	var s state
	data, err := base.read(stateFile, maxStateBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err == nil && s.Format != stateFormat {
		err = fmt.Errorf("format %d, not %d", s.Format, stateFormat)
	}
	if err != nil {
		return state{}, fmt.Errorf("read %s: %w", stateFile, err)
	}
	return s, nil
}

func (s state) encode() []byte {
	s.Format = stateFormat
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic(err) // strings and a number always have a JSON form
	}
	return append(data, '\n')
}
