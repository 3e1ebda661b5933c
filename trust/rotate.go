package trust

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"time"
)

// MaxChain bounds how many anchors one rotation may walk through.
const MaxChain = 64

// Rotate walks from a through a chain of anchor envelopes, oldest first, to the
// last one and returns that. Each must have the next version and be signed by
// enough root keys of its predecessor and of its own. Envelopes at the
// beginning of the chain that lead to a or to what came before it are passed
// over, so the same chain serves a whole fleet; if it leads no further, a is
// returned. Anchors on the way may have expired at now, the last one not.
func (a *Anchor) Rotate(now time.Time, chain ...[]byte) (*Anchor, error) {
	if len(chain) == 0 || len(chain) > MaxChain {
		return nil, fmt.Errorf("rotate trust anchor: %d envelopes, not 1 to %d", len(chain), MaxChain)
	}
	current := a
	var reached, older bool
	var stranger error
	for i, data := range chain {
		next, err := current.step(data)
		switch {
		case err == nil && next.version < current.version:
			older = true
		case err == nil:
			current, reached = next, true
		case !reached && errors.Is(err, ErrNotSigned), !reached && errors.Is(err, ErrThreshold):
			// Of a time before this anchor, or of another fleet.
			stranger = cmp.Or(stranger, err)
		default:
			return nil, fmt.Errorf("rotate trust anchor from version %d, envelope %d: %w", current.version, i+1, err)
		}
	}
	if !reached && !older {
		return nil, fmt.Errorf("rotate trust anchor from version %d: %w", a.version, stranger)
	}
	if current.Expired(now) {
		return nil, fmt.Errorf("rotate trust anchor to version %d: %w on %s", current.version, ErrExpired, current.expiresAt.Format(time.RFC3339))
	}
	return current, nil
}

// step returns the anchor in an envelope: the next one, a itself or an older
// one.
func (a *Anchor) step(data []byte) (*Anchor, error) {
	v, err := a.verify(data, AnchorType)
	if err != nil {
		return nil, err
	}
	next, err := ParseAnchor(v.payload)
	if err != nil {
		return nil, err
	}
	switch {
	case next.version < a.version:
		return next, nil
	case next.version == a.version:
		was, _ := a.MarshalJSON()
		is, _ := next.MarshalJSON()
		if !bytes.Equal(was, is) {
			return nil, fmt.Errorf("there is another anchor of version %d", a.version)
		}
		return a, nil
	case next.version > a.version+1:
		return nil, fmt.Errorf("version %d does not follow version %d; the anchors between are needed too", next.version, a.version)
	}
	if _, err := next.verify(data, AnchorType); err != nil {
		return nil, fmt.Errorf("version %d is not signed by its own root keys: %w", next.version, err)
	}
	return next, nil
}
