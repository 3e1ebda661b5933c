package provision

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/pyvorin/pyvorin-edge/trust"
)

// ReadAnchor returns the trust anchor that text is, 64 hex digits, or that the
// file called text holds: an anchor in either form, or the 64 digits.
func ReadAnchor(text string) (*trust.Anchor, error) {
	data, err := readFile(text, trust.MaxAnchorBytes)
	if errors.Is(err, fs.ErrNotExist) {
		key, keyErr := trust.ParsePublicKey(text)
		if keyErr == nil {
			return trust.SingleKey(key)
		}
		if strings.Trim(text, "0123456789abcdefABCDEF") == "" {
			return nil, fmt.Errorf("trust anchor: %w", keyErr)
		}
		return nil, fmt.Errorf("trust anchor: there is no file %s, and it is not the 64 hex digits of a public key either", text)
	}
	if err != nil {
		return nil, fmt.Errorf("trust anchor: %w", err)
	}
	if strings.HasPrefix(strings.TrimSpace(string(data)), "{") {
		a, err := trust.ParseAnchor(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", text, err)
		}
		return a, nil
	}
	key, err := trust.ParsePublicKey(string(data))
	if err != nil {
		return nil, fmt.Errorf("%s holds no trust anchor: %w", text, err)
	}
	return trust.SingleKey(key)
}

// settleAnchor decides which keys this device obeys. Rotations have replaced
// what was provisioned once: being given that again changes nothing.
func (p *plan) settleAnchor() error {
	data, err := p.base.read(anchorFile, trust.MaxAnchorBytes)
	absent := errors.Is(err, fs.ErrNotExist)
	var present *trust.Anchor
	if err == nil {
		present, err = trust.ParseAnchor(data)
	}
	if p.o.Anchor == nil {
		switch {
		case absent:
			p.warn("there is no trust anchor: without one (--trust-anchor) this device obeys no command and takes no update")
		case err != nil:
			p.warn("%s cannot be used, so this device obeys no command: %v", anchorFile, err)
		default:
			p.step(Step{File: anchorFile, Outcome: Kept, Detail: present.String()}, nil)
		}
		return nil
	}
	given, encodeErr := formatAnchor(p.o.Anchor)
	if encodeErr != nil {
		return encodeErr
	}
	p.now.Anchor = hashOf(given)
	if present != nil && !p.o.Force.Anchor {
		now, err := formatAnchor(present)
		switch {
		case err != nil:
			return err
		case hashOf(now) == p.now.Anchor:
			given = data // as it was written: at most its owner or mode is to change
		case p.now.Anchor == p.was.Anchor:
			p.step(Step{File: anchorFile, Outcome: Kept, Detail: "rotated since, to " + present.String()}, nil)
			return nil
		default:
			return fmt.Errorf("this device trusts other keys (%s) than those given (%s); nothing was changed: --force=anchor hands it over to them", present, p.o.Anchor)
		}
	} else if !absent && !p.o.Force.Anchor {
		return fmt.Errorf("the %s that is there cannot be used: %w; --force=anchor replaces it", anchorFile, err)
	}
	if p.o.Anchor.Expired(p.o.Now) {
		return fmt.Errorf("the trust anchor expired on %s; nothing was changed: give the present one", p.o.Anchor.ExpiresAt().Format(time.DateOnly))
	}
	p.write(file{in: p.base, name: anchorFile, data: given, perm: 0o644, owner: p.root}, p.o.Anchor.String())
	return nil
}

// formatAnchor is how trust.InstallAnchor writes it.
func formatAnchor(a *trust.Anchor) ([]byte, error) {
	data, err := json.MarshalIndent(a, "", "  ")
	return append(data, '\n'), err
}

// readFile returns the content of a file that a person named.
func readFile(name string, limit int64) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, fmt.Errorf("%s is not a file of at most %d bytes", name, limit)
	}
	return os.ReadFile(name)
}
