package pack

import (
	"crypto/ed25519"
	"fmt"
	"io"

	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/trust"
)

// AddSignatures writes the bundle in r with the signatures of keys added, and
// returns the ids of all keys that then claim to have signed it.
func AddSignatures(w io.Writer, r io.Reader, keys []ed25519.PrivateKey) ([]string, error) {
	u, err := bundle.Inspect(r)
	if err != nil {
		return nil, err
	}
	envelope, err := trust.AddSignatures(u.Envelope, keys...)
	if err != nil {
		return nil, err
	}
	signed, err := trust.Inspect(envelope)
	if err != nil {
		return nil, err
	}
	size := u.Manifest.Payload.Size
	// The header before the payload is made again with the envelope.
	if _, err := io.CopyN(io.Discard, r, bundle.HeaderBytes); err != nil {
		return nil, fmt.Errorf("%w: no payload", bundle.ErrDamaged)
	}
	return signed.KeyIDs, assemble(w, envelope, size, r)
}
