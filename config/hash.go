package config

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/gowebpki/jcs"
)

// Hash returns the config hash of a file: SHA-256 (hex) of the RFC 8785 form
// of what is written in it, before substitution and without defaults. It needs
// neither the environment nor the ingest types, so a tool anywhere can compute
// it. Equal hashes mean equal declarations, whatever the syntax, the comments,
// the order of keys and the spelling of numbers. Errors are *Error.
func Hash(path string, data []byte) (string, error) {
	d := parse(path, data)
	if err := d.err(); err != nil {
		return "", err
	}
	return hashTree(d.root, nil)
}

// hashTree hashes the tree; with a key, secrets are hashed as digests.
func hashTree(root *node, digestKey []byte) (string, error) {
	h := hasher{key: digestKey}
	text, err := json.Marshal(h.plain(root, false))
	if err != nil {
		return "", fmt.Errorf("hash config: %w", err)
	}
	canonical, err := jcs.Transform(text)
	if err != nil {
		return "", fmt.Errorf("hash config: %w", err)
	}
	sum := sha256.Sum256(canonical)
	return hex.EncodeToString(sum[:]), nil
}

type hasher struct{ key []byte }

// plain returns n as encoding/json wants it.
func (h hasher) plain(n *node, secret bool) any {
	secret = secret || n.secret
	switch n.kind {
	case tableKind:
		m := make(map[string]any, len(n.table))
		for key, child := range n.table {
			m[key] = h.plain(child, secret)
		}
		return m
	case listKind:
		list := make([]any, len(n.list))
		for i, child := range n.list {
			list[i] = h.plain(child, secret)
		}
		return list
	case stringKind:
		switch {
		case h.key == nil:
			return n.text
		case secret:
			return h.digest(n.text)
		}
		return replaceURLSecrets(n.text, h.digest)
	case numberKind:
		return n.number
	case boolKind:
		return n.flag
	}
	return nil
}

// digest stands for a secret: equal secrets have equal digests, and without
// the key nobody can try out guesses.
func (h hasher) digest(secret string) string {
	mac := hmac.New(sha256.New, h.key)
	mac.Write([]byte(secret))
	return "hmac-sha256:" + hex.EncodeToString(mac.Sum(nil))
}
