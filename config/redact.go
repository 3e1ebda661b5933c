package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

// hidden stands for a secret wherever a config is shown.
const hidden = "[hidden]"

// A password in a URL, and a query parameter that is named like a secret. Both
// err towards hiding too much.
var (
	urlPassword = regexp.MustCompile(`(://[^/?#\s:@]*:)(\S+)(@)`)
	urlSecret   = regexp.MustCompile(`(?i)([?&][^=&#\s]*(?:key|token|secret|passw|signature)[^=&#\s]*=)([^&#\s]+)()`)
)

// replaceURLSecrets replaces each secret inside the URLs of s.
func replaceURLSecrets(s string, by func(string) string) string {
	if !strings.ContainsAny(s, ":?") {
		return s
	}
	for _, re := range []*regexp.Regexp{urlPassword, urlSecret} {
		s = re.ReplaceAllStringFunc(s, func(match string) string {
			m := re.FindStringSubmatch(match)
			return m[1] + by(m[2]) + m[3]
		})
	}
	return s
}

// The types that hold secrets show themselves without them, whether they are
// printed, encoded or logged.

// String returns the values as TOML, without secrets.
func (c Config) String() string { return tomlValue(plainStruct(c)) }

// GoString is String: %#v shows no secret either.
func (c Config) GoString() string { return c.String() }

// MarshalJSON implements json.Marshaler, without secrets.
func (c Config) MarshalJSON() ([]byte, error) { return json.Marshal(plainStruct(c)) }

// String returns the values as TOML, without secrets.
func (s Sensor) String() string { return tomlValue(plainStruct(s)) }

// GoString is String: %#v shows no secret either.
func (s Sensor) GoString() string { return s.String() }

// MarshalJSON implements json.Marshaler, without secrets.
func (s Sensor) MarshalJSON() ([]byte, error) { return json.Marshal(plainStruct(s)) }

// String returns the values as TOML, without secrets.
func (c Cloud) String() string { return tomlValue(plainStruct(c)) }

// GoString is String: %#v shows no secret either.
func (c Cloud) GoString() string { return c.String() }

// MarshalJSON implements json.Marshaler, without secrets.
func (c Cloud) MarshalJSON() ([]byte, error) { return json.Marshal(plainStruct(c)) }

// String returns the values as TOML, without secrets.
func (h Health) String() string { return tomlValue(plainStruct(h)) }

// GoString is String: %#v shows no secret either.
func (h Health) GoString() string { return h.String() }

// MarshalJSON implements json.Marshaler, without secrets.
func (h Health) MarshalJSON() ([]byte, error) { return json.Marshal(plainStruct(h)) }

// String returns the values as TOML, without secrets.
func (p Probe) String() string { return tomlValue(plainStruct(p)) }

// GoString is String: %#v shows no secret either.
func (p Probe) GoString() string { return p.String() }

// MarshalJSON implements json.Marshaler, without secrets.
func (p Probe) MarshalJSON() ([]byte, error) { return json.Marshal(plainStruct(p)) }

func plainStruct(v any) any { return plain(reflect.ValueOf(v), false) }

// plain returns v as maps, lists and scalars named as in the file, with
// secrets hidden. What is nil or has no key is nil.
func plain(v reflect.Value, secret bool) any {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return plain(v.Elem(), secret)
	case reflect.Struct:
		m := make(map[string]any)
		for _, f := range fieldsOf(v) {
			if p := plain(f.value, secret || f.secret()); p != nil {
				m[f.name] = p
			}
		}
		return m
	case reflect.Map:
		m := make(map[string]any, v.Len())
		for it := v.MapRange(); it.Next(); {
			m[it.Key().String()] = plain(it.Value(), secret)
		}
		return m
	case reflect.Slice:
		list := make([]any, v.Len())
		for i := range list {
			list[i] = plain(v.Index(i), secret)
		}
		return list
	case reflect.String:
		if secret && v.String() != "" {
			return hidden
		}
		return replaceURLSecrets(v.String(), func(string) string { return hidden })
	case reflect.Bool:
		return v.Bool()
	case reflect.Float32, reflect.Float64:
		return v.Float()
	}
	if v.CanInt() {
		return float64(v.Int())
	}
	return float64(v.Uint())
}

// tomlValue writes a plain value as one inline value of TOML.
func tomlValue(v any) string {
	switch v := v.(type) {
	case map[string]any:
		parts := make([]string, 0, len(v))
		for _, key := range slices.Sorted(maps.Keys(v)) {
			parts = append(parts, join("", key)+" = "+tomlValue(v[key]))
		}
		if len(parts) == 0 {
			return "{}"
		}
		return "{ " + strings.Join(parts, ", ") + " }"
	case []any:
		parts := make([]string, 0, len(v))
		for _, item := range v {
			parts = append(parts, tomlValue(item))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case string:
		return tomlString(v)
	case float64:
		return tomlNumber(v)
	}
	return fmt.Sprint(v)
}
