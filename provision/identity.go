package provision

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/pyvorin/pyvorin-edge/wire"
)

// DefaultPrefix is that of a fleet which does not say otherwise.
const DefaultPrefix = "FLEET"

// hashDigits is how much of a serial number's hash is in an id.
const hashDigits = 12

// DeviceID returns the id of the device with this serial number: the prefix and
// the first 12 hex digits of the serial number's SHA-256.
func DeviceID(prefix, serial string) string {
	sum := sha256.Sum256([]byte(serial))
	return prefix + "-" + hex.EncodeToString(sum[:])[:hashDigits]
}

func randomDeviceID(prefix string) string {
	b := make([]byte, hashDigits/2)
	rand.Read(b) // never fails: without randomness the program ends
	return prefix + "-" + hex.EncodeToString(b)
}

// prefixOf returns the prefix of an id that DeviceID or randomDeviceID made, or
// "" of any other.
func prefixOf(id string) string {
	i := strings.LastIndexByte(id, '-')
	if i <= 0 || len(id)-i-1 != hashDigits || strings.Trim(id[i+1:], "0123456789abcdef") != "" {
		return ""
	}
	return id[:i]
}

// settleID decides what this device is called. An id that is there stays,
// unless it is clearly of another board or fleet; then force decides.
func (p *plan) settleID() error {
	data, err := p.base.read(deviceIDFile, maxIDFileBytes)
	present := strings.TrimSpace(string(data))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if p.was.Source == SourceRandom {
			present = p.was.DeviceID // the file was lost; there is no other way back to this id
		}
	case err != nil && !p.o.Force.Identity:
		return fmt.Errorf("read device id: %w", err)
	case !wire.ValidDeviceID(present) && !p.o.Force.Identity:
		return fmt.Errorf("%s holds no device id: want %s; --force=identity replaces it", deviceIDFile, wire.DeviceIDForm)
	case !wire.ValidDeviceID(present):
		present = ""
	}
	serials, notes := Serials(p.o.Root)
	prefix := p.o.Prefix
	if prefix == "" {
		prefix = prefixOf(present)
	}
	if prefix == "" {
		prefix = DefaultPrefix
	}
	fresh, source := randomDeviceID(prefix), SourceRandom
	if len(serials) > 0 {
		fresh, source = DeviceID(prefix, serials[0].Value), serials[0].Source
	}
	if !wire.ValidDeviceID(fresh) {
		return fmt.Errorf("the fleet prefix does not make a device id such as %s: want %s", fresh, wire.DeviceIDForm)
	}
	detail := "of this board's serial number, " + source

	switch i := slices.IndexFunc(serials, func(s Serial) bool { return DeviceID(prefix, s.Value) == present }); {
	case present == "":
	case i >= 0:
		fresh, source = present, serials[i].Source
		detail = "of this board's serial number, " + source
	case p.o.Force.Identity && len(serials) > 0, p.o.Force.Identity && prefixOf(present) != prefix:
		p.warn("device_id was %s: what else is in the base dir still belongs to that device; if the card was copied from another board, stop the agent and remove secrets, state.db and sync_queue.db*", present)
	case p.o.Prefix != "" && prefixOf(present) != p.o.Prefix:
		return fmt.Errorf("this device is called %s, and with the prefix %s it would be %s; nothing was changed: give the prefix that it has, or --force=identity to rename it", present, p.o.Prefix, fresh)
	case len(serials) > 0 && !p.hadNoSerial(present):
		why := "either the card was copied from another board, or the agent made up an id before it was provisioned"
		if p.was.DeviceID == present {
			why = "the card was copied from another board"
		}
		return fmt.Errorf("device_id is %s, and this board's serial number (%s) gives %s; nothing was changed: %s; --force=identity makes this device %s", present, source, fresh, why, fresh)
	default:
		fresh, source = present, p.was.Source
		if p.was.DeviceID != present || source == "" {
			source = SourceKept
		}
		detail = "as it was"
	}
	if source == SourceRandom && fresh != present {
		detail = "made up, as this board tells no serial number"
		for _, note := range notes {
			p.warn("%s", note)
		}
	}
	p.id, p.now.DeviceID, p.now.Source = fresh, fresh, source
	p.write(file{in: p.base, name: deviceIDFile, data: []byte(fresh + "\n"), perm: 0o644, owner: p.root}, fresh+" ("+detail+")")
	return nil
}

// hadNoSerial reports whether id was provisioned when no serial number could be
// read. It stays when one can be read now.
func (p *plan) hadNoSerial(id string) bool {
	return p.was.DeviceID == id && (p.was.Source == SourceRandom || p.was.Source == SourceKept)
}
