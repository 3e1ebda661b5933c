package config

import (
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// decoder fills structs from a tree, strictly, and records every problem it
// meets on the way. It marks the nodes that hold secrets.
type decoder struct {
	d        *document
	dir      string // of the config file
	types    map[string]func() any
	warnings []string
}

// table decodes the table n into fields. When lenient, keys that no field
// takes are passed over.
func (d *decoder) table(n *node, path string, fields []field, lenient bool) {
	byName := make(map[string]field, len(fields))
	for _, f := range fields {
		byName[f.name] = f
	}
	for _, key := range n.keys() {
		f, ok := byName[key]
		if ok {
			d.value(n.table[key], join(path, key), f.value, f)
		} else if !lenient {
			d.d.fail(n.table[key].at, join(path, key), "unknown key; %s", adviseKey(path, key, slices.Collect(maps.Keys(byName))))
		}
	}
	for _, f := range fields {
		if f.secret() {
			d.secretFile(n, path, f, byName[f.name+"_file"])
		}
	}
	d.pemFiles(n, path, fields)
	for _, f := range fields {
		if f.required() && n.table[f.name] == nil {
			d.d.fail(n.at, join(path, f.name), "is missing; it is required here")
		}
	}
}

// value decodes n into v, which belongs to the field f or is an element of it.
func (d *decoder) value(n *node, path string, v reflect.Value, f field) {
	n.secret = n.secret || f.secret()
	switch v.Kind() {
	case reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		d.value(n, path, p.Elem(), f)
		v.Set(p)
	case reflect.String:
		d.text(n, path, v, f)
	case reflect.Bool:
		if b, ok := truth(n); ok {
			v.SetBool(b)
		} else {
			d.wrongType(n, path, boolKind.String())
		}
	case reflect.Float64, reflect.Float32:
		if x, ok := d.number(n, path, f, "a number"); ok {
			v.SetFloat(x)
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		d.integer(n, path, v, f)
	case reflect.Slice:
		d.slice(n, path, v, f)
	case reflect.Map:
		if n.kind != tableKind {
			d.wrongType(n, path, tableKind.String())
			return
		}
		m := reflect.MakeMapWithSize(v.Type(), len(n.table))
		for _, key := range n.keys() {
			item := newElement(v.Type().Elem())
			d.value(n.table[key], join(path, key), item, f)
			m.SetMapIndex(reflect.ValueOf(key).Convert(v.Type().Key()), item)
		}
		v.Set(m)
	case reflect.Struct:
		switch s, isSensor := v.Addr().Interface().(*Sensor); {
		case n.kind != tableKind:
			d.wrongType(n, path, tableKind.String())
		case isSensor:
			d.sensor(n, path, s)
		default:
			d.table(n, path, fieldsOf(v), false)
		}
	default:
		panic("config: " + path + " has a type that no file can hold: " + v.Type().String())
	}
}

// sensor decodes the keys that all sensors have, and with them those of the
// ingest type.
func (d *decoder) sensor(n *node, path string, s *Sensor) {
	typ := n.table["ingest_type"]
	known := typ != nil && typ.kind == stringKind && d.types[typ.text] != nil
	if known {
		s.Options = d.types[typ.text]()
	}
	d.table(n, path, fieldsOf(reflect.ValueOf(s).Elem()), !known)
	if !known && typ != nil && typ.text != "" {
		names := slices.Sorted(maps.Keys(d.types))
		d.d.fail(typ.at, join(path, "ingest_type"), "there is no such ingest type; %s", advise(typ.shown(), names, "use"))
	}
}

func (d *decoder) slice(n *node, path string, v reflect.Value, f field) {
	if n.kind != listKind {
		d.wrongType(n, path, listKind.String())
		return
	}
	if most, ok := bound(f.tag, "max_items"); ok && float64(len(n.list)) > most {
		d.d.fail(n.at, path, "has %d entries; the most is %g", len(n.list), most)
		return
	}
	if f.required() && len(n.list) == 0 {
		d.d.fail(n.at, path, "must not be empty")
	}
	list := reflect.MakeSlice(v.Type(), 0, len(n.list))
	for i, child := range n.list {
		item := newElement(v.Type().Elem())
		d.value(child, index(path, i), item, f)
		list = reflect.Append(list, item)
	}
	v.Set(list)
}

func (d *decoder) text(n *node, path string, v reflect.Value, f field) {
	if n.kind != stringKind {
		d.wrongType(n, path, stringKind.String())
		return
	}
	text := n.text
	if allowed := enum(f.tag); allowed != nil && !slices.Contains(allowed, text) {
		d.d.fail(n.at, path, "is not one of the allowed values; %s", advise(n.shown(), allowed, "use"))
		return
	}
	if f.required() && text == "" {
		d.d.fail(n.at, path, "must not be empty")
	}
	if f.namesFile() {
		text = d.resolve(text)
	}
	v.SetString(text)
}

func (d *decoder) integer(n *node, path string, v reflect.Value, f field) {
	x, ok := d.number(n, path, f, "a whole number")
	if !ok {
		return
	}
	fits := math.Abs(x) <= maxInteger
	if v.CanInt() {
		fits = fits && !v.OverflowInt(int64(x))
	} else {
		fits = fits && x >= 0 && !v.OverflowUint(uint64(x))
	}
	switch {
	case x != math.Trunc(x):
		d.d.fail(n.at, path, "expected a whole number, found %s", n.orShown(tomlNumber(x)))
	case !fits:
		d.d.fail(n.at, path, "%s is out of the range of this key", n.orShown(tomlNumber(x)))
	case v.CanInt():
		v.SetInt(int64(x))
	default:
		v.SetUint(uint64(x))
	}
}

// number returns the number in n, or the one that substitution put there as a
// text, after the field's bounds were checked.
func (d *decoder) number(n *node, path string, f field, expected string) (x float64, ok bool) {
	x = n.number
	if n.kind != numberKind {
		var err error
		if x, err = strconv.ParseFloat(n.text, 64); !n.substituted() || err != nil || math.IsNaN(x) || math.IsInf(x, 0) {
			d.wrongType(n, path, expected)
			return 0, false
		}
	}
	if least, ok := bound(f.tag, "min"); ok && x < least {
		d.d.fail(n.at, path, "%s is too small; the least is %s", n.orShown(tomlNumber(x)), tomlNumber(least))
		return 0, false
	}
	if most, ok := bound(f.tag, "max"); ok && x > most {
		d.d.fail(n.at, path, "%s is too large; the most is %s", n.orShown(tomlNumber(x)), tomlNumber(most))
		return 0, false
	}
	return x, true
}

// truth returns the truth value in n, or the one that substitution put there
// as a text.
func truth(n *node) (b, ok bool) {
	if n.substituted() && (n.text == "true" || n.text == "false") {
		return n.text == "true", true
	}
	return n.flag, n.kind == boolKind
}

func (d *decoder) wrongType(n *node, path, expected string) {
	switch {
	case n.kind == invalidKind: // reported when it was parsed
	case n.kind == nullKind:
		d.d.fail(n.at, path, "expected %s, found null; leave the key out to take the default", expected)
	case n.env:
		d.d.fail(n.at, path, "expected %s, found another text in the environment", expected)
	case n.fallback:
		d.d.fail(n.at, path, "expected %s, found another text as the default after :-", expected)
	default:
		d.d.fail(n.at, path, "expected %s, found %s", expected, n.kind)
	}
}

// shown is the text of n for an error message: nothing for what may be secret.
func (n *node) shown() string {
	if n.env || n.secret {
		return ""
	}
	return n.text
}

// orShown returns s unless it came from the environment.
func (n *node) orShown(s string) string {
	if n.env {
		return "the value from the environment"
	}
	return s
}

// adviseKey says what to write instead of an unknown key.
func adviseKey(path, key string, valid []string) string {
	if best := nearest(key, valid); best != "" {
		return "did you mean " + join(path, best) + "?"
	}
	if path == "" {
		slices.Sort(valid)
		return "the sections are " + strings.Join(valid, ", ")
	}
	return "see docs/configuration.md for the keys of " + path
}

// advise lists the valid values, the nearest first when there is one.
func advise(given string, valid []string, verb string) string {
	all := verb + " one of " + strings.Join(valid, ", ")
	if best := nearest(given, valid); best != "" {
		return "did you mean " + best + "? " + strings.ToUpper(all[:1]) + all[1:]
	}
	return all
}
