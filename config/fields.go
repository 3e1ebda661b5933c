package config

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// field is one key of a table: a field of a struct and its tags.
type field struct {
	name  string
	value reflect.Value
	tag   reflect.StructTag
}

// fieldsOf returns the keys that the addressable struct v takes, in the order
// of its fields. Embedded structs count as if their fields were written out,
// and a Sensor has the keys of its Options too, which must not repeat its own.
func fieldsOf(v reflect.Value) []field {
	var fs []field
	t := v.Type()
	for i := range t.NumField() {
		f := t.Field(i)
		name := f.Tag.Get("toml")
		switch {
		case name == "-":
		case f.Anonymous && name == "" && f.Type.Kind() == reflect.Struct:
			fs = append(fs, fieldsOf(v.Field(i))...)
		case f.IsExported() && name != "":
			fs = append(fs, field{name: name, value: v.Field(i), tag: f.Tag})
		}
	}
	if s, ok := v.Interface().(Sensor); ok && s.Options != nil {
		for _, own := range fieldsOf(reflect.ValueOf(s.Options).Elem()) {
			if slices.ContainsFunc(fs, func(f field) bool { return f.name == own.name }) {
				panic(fmt.Sprintf("config: %T has a key of all sensors, %s", s.Options, own.name))
			}
			fs = append(fs, own)
		}
	}
	return fs
}

func (f field) secret() bool   { return f.tag.Get("secret") == "true" }
func (f field) required() bool { return f.tag.Get("required") == "true" }

// namesFile reports whether the value is the path of a file, which is meant
// from the folder of the config file.
func (f field) namesFile() bool { return strings.HasSuffix(f.name, "_file") }

// enum returns the values that are allowed, or nil for all.
func enum(tag reflect.StructTag) []string {
	if s := tag.Get("enum"); s != "" {
		return strings.Split(s, ",")
	}
	return nil
}

// bound returns the number in a tag such as min or max.
func bound(tag reflect.StructTag, name string) (f float64, ok bool) {
	s, ok := tag.Lookup(name)
	if !ok {
		return 0, false
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		panic(fmt.Sprintf("config: tag %s:%q is no number", name, s))
	}
	return f, true
}

// newElement returns a new, addressable value of an element of a list, holding
// its defaults.
func newElement(t reflect.Type) reflect.Value {
	p := reflect.New(t)
	if d, ok := p.Interface().(interface{ SetDefaults() }); ok {
		d.SetDefaults()
	}
	return p.Elem()
}
