// Package strictjson decodes JSON that has exactly one meaning. encoding/json
// takes the last of two equal keys, ignores unknown ones and does not mind
// upper case; another parser may choose otherwise, and what was signed would
// then mean different things to different readers.
package strictjson

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"strings"
	"unicode/utf8"
)

// maxDepth is deeper than anything of ours.
const maxDepth = 16

// Unmarshal decodes one JSON value of at most limit bytes into v, a pointer. It
// refuses keys that v has no field for, in exactly their spelling, keys that
// come twice in an object, text that is not UTF-8, and anything after the value.
func Unmarshal(data []byte, limit int, v any) error {
	if len(data) > limit {
		return fmt.Errorf("larger than %d bytes", limit)
	}
	if !utf8.Valid(data) {
		return errors.New("not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := check(dec, reflect.TypeOf(v), 0); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("not valid JSON: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("not valid JSON: something follows its end")
	}
	return json.Unmarshal(data, v)
}

// check reads one value that will become a t; nil is anything.
func check(dec *json.Decoder, t reflect.Type, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("nested deeper than %d levels", maxDepth)
	}
	token, err := dec.Token()
	if err != nil {
		return err
	}
	t = plain(t)
	switch token {
	case json.Delim('{'):
		return checkObject(dec, t, depth)
	case json.Delim('['):
		var elem reflect.Type
		if t != nil && (t.Kind() == reflect.Slice || t.Kind() == reflect.Array) {
			elem = t.Elem()
		}
		for dec.More() {
			if err := check(dec, elem, depth+1); err != nil {
				return err
			}
		}
		_, err = dec.Token()
	}
	return err
}

func checkObject(dec *json.Decoder, t reflect.Type, depth int) error {
	var known map[string]reflect.Type // nil allows any
	var elem reflect.Type
	if t != nil && t.Kind() == reflect.Struct {
		known = fields(t)
	} else if t != nil && t.Kind() == reflect.Map {
		elem = t.Elem()
	}
	seen := map[string]bool{}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return err
		}
		key, _ := token.(string) // the decoder lets nothing else pass
		if seen[key] {
			return fmt.Errorf("key %q is given twice", key)
		}
		seen[key] = true
		next := elem
		if known != nil {
			var ok bool
			if next, ok = known[key]; !ok {
				return fmt.Errorf("unknown key %q", key)
			}
		}
		if err := check(dec, next, depth+1); err != nil {
			return err
		}
	}
	_, err := dec.Token()
	return err
}

var (
	jsonUnmarshaler = reflect.TypeFor[json.Unmarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// plain removes pointers, and returns nil for a type that decodes itself.
func plain(t reflect.Type) reflect.Type {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil || reflect.PointerTo(t).Implements(jsonUnmarshaler) || reflect.PointerTo(t).Implements(textUnmarshaler) {
		return nil
	}
	return t
}

// fields returns the JSON keys of a struct.
func fields(t reflect.Type) map[string]reflect.Type {
	keys := map[string]reflect.Type{}
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-":
		case f.Anonymous && name == "":
			maps.Copy(keys, fields(f.Type))
		case !f.IsExported():
		case name == "":
			keys[f.Name] = f.Type
		default:
			keys[name] = f.Type
		}
	}
	return keys
}
