package wire

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"
)

// Kind tells what a Value holds.
type Kind uint8

// The kinds of a Value. None is the zero Value and travels as null: a failed
// read has no value, and never the number 0.
const (
	None Kind = iota
	Number
	Text
	Bool
)

// Value is what a sensor measured: a number, a text, a truth value, or nothing.
type Value struct {
	kind Kind
	num  float64
	text string
}

// NumberValue returns a Value holding f. NaN and the infinities have no JSON
// form and become None.
func NumberValue(f float64) Value {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return Value{}
	}
	return Value{kind: Number, num: f}
}

// TextValue returns a Value holding s.
func TextValue(s string) Value { return Value{kind: Text, text: s} }

// BoolValue returns a Value holding b.
func BoolValue(b bool) Value {
	if b {
		return Value{kind: Bool, num: 1}
	}
	return Value{kind: Bool}
}

// Kind returns what v holds.
func (v Value) Kind() Kind { return v.kind }

// Float returns the number in v; ok is false when v holds no number.
func (v Value) Float() (f float64, ok bool) { return v.num, v.kind == Number }

// Text returns the text in v; ok is false when v holds no text.
func (v Value) Text() (s string, ok bool) { return v.text, v.kind == Text }

// Bool returns the truth value in v; ok is false when v holds none.
func (v Value) Bool() (b, ok bool) { return v.num != 0, v.kind == Bool }

// String returns v for people: "21.5", "open", "true", or "-" for None.
func (v Value) String() string {
	switch v.kind {
	case Number:
		return strconv.FormatFloat(v.num, 'g', -1, 64)
	case Text:
		return v.text
	case Bool:
		return strconv.FormatBool(v.num != 0)
	}
	return "-"
}

// AppendJSON appends the JSON form of v to dst.
func (v Value) AppendJSON(dst []byte) []byte {
	switch v.kind {
	case Number:
		return appendFloat(dst, v.num)
	case Text:
		return appendString(dst, v.text)
	case Bool:
		return strconv.AppendBool(dst, v.num != 0)
	}
	return append(dst, "null"...)
}

// MarshalJSON implements json.Marshaler.
func (v Value) MarshalJSON() ([]byte, error) { return v.AppendJSON(nil), nil }

// UnmarshalJSON implements json.Unmarshaler. Arrays and objects are refused.
func (v *Value) UnmarshalJSON(b []byte) error {
	var x any
	if err := json.Unmarshal(b, &x); err != nil {
		return err
	}
	switch x := x.(type) {
	case nil:
		*v = Value{}
	case float64:
		*v = NumberValue(x)
	case string:
		*v = TextValue(x)
	case bool:
		*v = BoolValue(x)
	default:
		return fmt.Errorf("a value is a number, a text, true, false or null, not %.20s", b)
	}
	return nil
}

// appendFloat writes f as encoding/json does: plain decimals between 1e-6 and
// 1e21, otherwise with an exponent.
func appendFloat(dst []byte, f float64) []byte {
	format := byte('f')
	if abs := math.Abs(f); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	return strconv.AppendFloat(dst, f, format, -1, 64)
}

// appendString writes s as a JSON string. Invalid UTF-8 becomes U+FFFD, so a
// broken sensor can never make a line that a receiver refuses.
func appendString(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	for s != "" {
		plain := 0
		for plain < len(s) && s[plain] >= ' ' && s[plain] < 0x7f && s[plain] != '"' && s[plain] != '\\' {
			plain++
		}
		dst, s = append(dst, s[:plain]...), s[plain:]
		if s == "" {
			break
		}
		switch c := s[0]; {
		case c == '"' || c == '\\':
			dst, s = append(dst, '\\', c), s[1:]
		case c < utf8.RuneSelf:
			dst, s = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15]), s[1:]
		default:
			r, size := utf8.DecodeRuneInString(s)
			dst, s = utf8.AppendRune(dst, r), s[size:]
		}
	}
	return append(dst, '"')
}
