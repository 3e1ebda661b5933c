package privacy

import (
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"

	"golang.org/x/crypto/nacl/box"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// tokenDomain keeps tokens apart from whatever else is ever computed with the
// key. A change of the tuple below needs a new domain and a new label than h1.
const tokenDomain = "pyvorin-edge privacy hash v1"

// hashToken returns `h1:<key id>:<32 hex digits>`, the pseudonym of v in field:
// 128 bits of HMAC-SHA256 over (domain, field, kind, canonical value), each
// preceded by its length so that no two tuples run together. Equal values of a
// field get equal tokens; nobody without the key can try values against one.
func hashToken(key []byte, keyID, field string, v wire.Value) (wire.Value, error) {
	if len(key) == 0 {
		return wire.Value{}, errors.New("there is no key to hash with")
	}
	mac := hmac.New(sha256.New, key)
	for _, part := range []string{tokenDomain, field, kindName(v), canonical(v)} {
		var size [8]byte
		binary.BigEndian.PutUint64(size[:], uint64(len(part)))
		mac.Write(size[:])
		mac.Write([]byte(part))
	}
	return wire.TextValue("h1:" + keyID + ":" + hex.EncodeToString(mac.Sum(nil)[:16])), nil
}

// kindName keeps the number 1, the text "1" and true apart in a token.
func kindName(v wire.Value) string {
	switch v.Kind() {
	case wire.Number:
		return "number"
	case wire.Text:
		return "text"
	case wire.Bool:
		return "bool"
	}
	return "none"
}

// canonical returns v as text, equal for equal values: 0 has no sign.
func canonical(v wire.Value) string {
	if f, ok := v.Float(); ok && f == 0 {
		return "0"
	}
	return v.String()
}

// sealedBlock is the multiple of bytes to which a value is padded before it is
// encrypted: a box is as long as its content, and true is shorter than false.
const sealedBlock = 32

// sealValue returns `e1:<base64>`: a NaCl sealed box (libsodium's
// crypto_box_seal) of the JSON form of v, padded with spaces, which JSON allows.
func sealValue(recipient *[32]byte, v wire.Value) (wire.Value, error) {
	plain := v.AppendJSON(nil)
	for len(plain)%sealedBlock != 0 {
		plain = append(plain, ' ')
	}
	sealed, err := box.SealAnonymous(nil, plain, recipient, rand.Reader)
	if err != nil {
		return wire.Value{}, errors.New("encryption failed")
	}
	return wire.TextValue("e1:" + base64.StdEncoding.EncodeToString(sealed)), nil
}

// parseRecipient decodes an X25519 public key and refuses the few with which
// everybody could open the box.
func parseRecipient(s string) (*[32]byte, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 32 {
		return nil, config.Problemf("recipient", "must be an X25519 public key of 64 hex digits")
	}
	public, err := ecdh.X25519().NewPublicKey(b)
	if err != nil {
		return nil, config.Problemf("recipient", "%v", err)
	}
	// Any private key will do to see whether the public one has low order.
	private, err := ecdh.X25519().NewPrivateKey(make([]byte, 32))
	if err != nil {
		return nil, config.Problemf("recipient", "%v", err)
	}
	if _, err := private.ECDH(public); err != nil {
		return nil, config.Problemf("recipient", "is not a usable X25519 public key: boxes for it would be open to everybody")
	}
	return (*[32]byte)(b), nil
}
