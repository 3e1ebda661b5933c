package privacy

import (
	"errors"
	"math"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// The actions of a rule.
const (
	actDrop      = "drop"
	actDropField = "drop_field"
	actRedact    = "redact"
	actHash      = "hash"
	actMask      = "mask"
	actTruncate  = "truncate"
	actRound     = "round"
	actAggregate = "aggregate"
	actEncrypt   = "encrypt"
)

// maxKeep bounds what mask may leave readable.
const maxKeep = 64

// maxDecimals is where truncating a coordinate stops hiding anything: six
// decimals are a decimetre.
const maxDecimals = 6

// A transform makes the new form of a value; field says where it stood: "value",
// or "meta." and the name of a metadata field. Its error means that the action
// cannot be applied, and never quotes the value.
type transform func(field string, v wire.Value) (wire.Value, error)

// newTransform returns the transform of a rule, or nil for the actions that
// have none: drop, drop_field and aggregate act on more than one value.
func newTransform(c config.Rule, key []byte) (transform, error) {
	switch c.Action {
	case actDrop, actDropField:
		return nil, nil
	case actRedact:
		return redact(c.Replacement), nil
	case actHash:
		keyID := KeyID(key)
		return func(field string, v wire.Value) (wire.Value, error) { return hashToken(key, keyID, field, v) }, nil
	case actMask:
		if c.KeepLast < 0 || c.KeepLast > maxKeep {
			return nil, config.Problemf("keep_last", "must be from 0 to %d", maxKeep)
		}
		return mask(c.KeepLast, redact(c.Replacement)), nil
	case actTruncate:
		if c.Decimals != nil && (*c.Decimals < 0 || *c.Decimals > maxDecimals) {
			return nil, config.Problemf("decimals", "must be from 0 to %d", maxDecimals)
		}
		return truncate(c.Decimals), nil
	case actRound:
		if !(c.Step > 0) || math.IsInf(c.Step, 0) {
			return nil, config.Problemf("step", "must be greater than 0 for round")
		}
		return round(c.Step), nil
	case actAggregate:
		return nil, checkWindow(c)
	case actEncrypt:
		recipient, err := parseRecipient(c.Recipient)
		if err != nil {
			return nil, err
		}
		return func(_ string, v wire.Value) (wire.Value, error) { return sealValue(recipient, v) }, nil
	}
	return nil, config.Problemf("action", "%q is unknown: use drop, drop_field, redact, hash, mask, truncate, round, aggregate or encrypt", c.Action)
}

func redact(replacement string) transform {
	return func(string, wire.Value) (wire.Value, error) { return wire.TextValue(replacement), nil }
}

// maskMark stands for what was masked. Its length is fixed, or it would tell
// the length of the original.
const maskMark = "****"

// mask leaves the last keep characters of a text, and only of one more than
// twice as long: of a shorter one they would be most of it. Everything else is
// redacted.
func mask(keep int, otherwise transform) transform {
	return func(field string, v wire.Value) (wire.Value, error) {
		s, ok := v.Text()
		if !ok || utf8.RuneCountInString(s) <= 2*keep {
			return otherwise(field, v)
		}
		tail := len(s)
		for range keep {
			_, size := utf8.DecodeLastRuneInString(s[:tail])
			tail -= size
		}
		return wire.TextValue(maskMark + s[tail:]), nil
	}
}

// coordinates is a text of one to three decimal numbers, such as latitude,
// longitude and altitude.
var coordinates = regexp.MustCompile(`^\s*[+-]?\d{1,9}(\.\d*)?(\s*,\s*[+-]?\d{1,9}(\.\d*)?){0,2}\s*$`)

// truncate generalizes an address to its network (IPv4 /24, IPv6 /48), and,
// when decimals are given, a coordinate or a list of them to that many.
func truncate(decimals *int) transform {
	return func(_ string, v wire.Value) (wire.Value, error) {
		if f, ok := v.Float(); ok {
			if decimals == nil {
				return wire.Value{}, errors.New("truncate of a number needs decimals")
			}
			f, err := strconv.ParseFloat(cutDecimals(strconv.FormatFloat(f, 'f', -1, 64), *decimals), 64)
			return wire.NumberValue(f), err
		}
		s, ok := v.Text()
		if !ok {
			return wire.Value{}, errors.New("truncate applies to addresses and coordinates, not to a truth value")
		}
		if addr, err := netip.ParseAddr(strings.TrimSpace(s)); err == nil {
			return truncateAddr(addr)
		}
		if decimals == nil || !coordinates.MatchString(s) {
			return wire.Value{}, errors.New("truncate applies to addresses and, with decimals, to coordinates")
		}
		parts := strings.Split(s, ",")
		for i := range parts {
			parts[i] = cutDecimals(strings.TrimSpace(parts[i]), *decimals)
		}
		return wire.TextValue(strings.Join(parts, ",")), nil
	}
}

func truncateAddr(addr netip.Addr) (wire.Value, error) {
	addr = addr.Unmap().WithZone("")
	bits := 48
	if addr.Is4() {
		bits = 24
	}
	prefix, err := addr.Prefix(bits)
	if err != nil {
		return wire.Value{}, errors.New("the address has no such network")
	}
	return wire.TextValue(prefix.Addr().String()), nil
}

// cutDecimals cuts the digits of a decimal number rather than computing with
// it: 0.29 to two decimals is 0.29, and not the 0.28 of binary fractions.
func cutDecimals(s string, decimals int) string {
	whole, fraction, _ := strings.Cut(s, ".")
	if fraction = fraction[:min(decimals, len(fraction))]; fraction != "" {
		s = whole + "." + fraction
	} else {
		s = whole
	}
	if strings.HasPrefix(s, "-") && strings.Trim(s, "-0.") == "" {
		return s[1:] // a sign would tell the side of zero
	}
	return s
}

// round returns the multiple of step nearest to the number.
func round(step float64) transform {
	_, fraction, _ := strings.Cut(strconv.FormatFloat(step, 'f', -1, 64), ".")
	return func(_ string, v wire.Value) (wire.Value, error) {
		f, ok := v.Float()
		if !ok {
			return wire.Value{}, errors.New("round applies to numbers")
		}
		f = math.Round(f/step) * step
		if math.IsInf(f, 0) || math.IsNaN(f) {
			return wire.Value{}, errors.New("the number is too large for the step")
		}
		// 214 × 0.1 is 21.400000000000002: print what the step can express.
		f, err := strconv.ParseFloat(strconv.FormatFloat(f, 'f', len(fraction), 64), 64)
		if f == 0 {
			f = 0 // not -0, which would tell the side of zero
		}
		return wire.NumberValue(f), err
	}
}
