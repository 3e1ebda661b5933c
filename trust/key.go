package trust

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// KeyID names a key: the first 16 hex digits of the SHA-256 of its 32 bytes.
func KeyID(key ed25519.PublicKey) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:8])
}

func isKeyID(s string) bool {
	return len(s) == 16 && strings.Trim(s, "0123456789abcdef") == ""
}

// ParsePublicKey reads 64 hex digits, with white space around them as in a file.
func ParsePublicKey(text string) (ed25519.PublicKey, error) {
	text = strings.TrimSpace(text)
	if len(text) != 2*ed25519.PublicKeySize {
		return nil, fmt.Errorf("a public key is 64 hex digits, not %d characters", len(text))
	}
	key, err := hex.DecodeString(text)
	if err != nil {
		return nil, errors.New("a public key is 64 hex digits; this has other characters")
	}
	if isWeak(key) {
		return nil, errors.New("this public key is one of the few with which anyone can sign; make a proper one")
	}
	return key, nil
}

// FormatPublicKey is what ParsePublicKey reads.
func FormatPublicKey(key ed25519.PublicKey) string { return hex.EncodeToString(key) }

// smallOrder are the points whose order divides 8, without the sign bit, the
// last two in the spelling that no correct encoder uses. With such a key,
// signatures for any message are easily made.
var smallOrder = [...]string{
	"0000000000000000000000000000000000000000000000000000000000000000", // order 4
	"0100000000000000000000000000000000000000000000000000000000000000", // order 1
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05", // order 8
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a", // order 8
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // order 2
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // order 4, p instead of 0
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // order 1, p+1 instead of 1
}

func isWeak(key ed25519.PublicKey) bool {
	unsigned := append([]byte(nil), key...)
	unsigned[31] &= 0x7f
	text := hex.EncodeToString(unsigned)
	for _, weak := range smallOrder {
		if text == weak {
			return true
		}
	}
	return false
}
