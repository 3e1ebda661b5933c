// Package bundle is the format in which releases travel, and everything that a
// device does with a bundle: checking it, fetching it by parts, unpacking it
// into a slot, and checking a slot later. Package pack makes bundles.
//
// The parties are the operator, who packs and signs; whatever carries the file,
// which is believed in nothing; the agent, which fetches it; and the watchdog,
// which trusts only what it verified itself.
//
// # The file
//
// A bundle is a tar of two entries: manifest.json, an envelope (package trust)
// around the Manifest, and payload. Its headers and padding have one possible
// content, so all that is parsed before the signatures are checked is one octal
// number. The manifest lists the SHA-256 of each part of the payload, and a part
// is released to the decompressor only when its hash is right: nothing unsigned
// is ever parsed. The payload is a zstd stream of a tar with the slot's files,
// or, in a delta, with what makes them out of a base (see delta.go).
//
// # Promises
//
// Unpack writes exactly the files that the manifest lists, with their modes,
// sizes and hashes, or fails. It writes through a disk.FS, which follows no
// links. It needs the memory of a part, a window of 8 MiB and little more,
// whatever the bundle says of itself. Each file and folder is synced before
// manifest.json is written, last: a slot without it was not completed, after a
// power cut too.
package bundle

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pyvorin/pyvorin-edge/trust"
)

// ManifestName is the file of a slot that holds the envelope of what is in it.
const ManifestName = "manifest.json"

// What can be wrong with a bundle, where a caller may want to know. Others are
// those of package trust and of the disk.
var (
	// ErrMalformed: what was signed, or the file around it, is not a bundle.
	ErrMalformed = errors.New("malformed bundle")
	// ErrDamaged: bytes are missing or not those that were signed. Fetching
	// them again can help.
	ErrDamaged = errors.New("damaged bundle")
	// ErrWrongTarget: it is for other machines.
	ErrWrongTarget = errors.New("bundle for another machine")
	// ErrWrongBase: it is a delta against something else. The full bundle helps.
	ErrWrongBase = errors.New("delta against another release")
)

// Verified is the manifest of a bundle that enough release keys signed. Only
// Verify and Open make one; the zero value can be used for nothing.
type Verified struct {
	manifest *Manifest
	envelope []byte
	signers  []string
}

// Verify checks the envelope of a manifest, and then what is in it. Whether it
// suits this machine and this day is asked with the manifest's CheckTarget and
// CheckExpiry.
func Verify(envelope []byte, anchor *trust.Anchor, now time.Time) (Verified, error) {
	v, err := anchor.Verify(envelope, trust.ManifestType, now)
	if err != nil {
		return Verified{}, err
	}
	m, err := ParseManifest(v.Payload())
	if err != nil {
		return Verified{}, err
	}
	return Verified{manifest: &m, envelope: slices.Clone(envelope), signers: v.Signers()}, nil
}

// IsZero reports whether nothing was verified.
func (v Verified) IsZero() bool { return v.manifest == nil }

// Manifest returns a copy of the manifest.
func (v Verified) Manifest() Manifest {
	if v.manifest == nil {
		return Manifest{}
	}
	return v.manifest.clone()
}

// Envelope returns what was verified, as a slot keeps it in manifest.json.
func (v Verified) Envelope() []byte { return slices.Clone(v.envelope) }

// Signers returns the ids of the keys that signed.
func (v Verified) Signers() []string { return slices.Clone(v.signers) }

// DeltaName returns where the delta of a bundle lies for devices that have the
// release with the content digest base: beside the bundle, so that a device can
// look for it without being told, and take the bundle when it is not there.
func DeltaName(bundle, base string) string {
	return fmt.Sprintf("%s.delta-%.16s", bundle, base)
}
