package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Reference returns the part of docs/configuration.md that lists every key:
// Markdown made of the structs and their tags, and of the keys of each of the
// given ingest types.
func Reference(types map[string]func() any) string {
	var w referenceWriter
	c := Default()
	w.section(reflect.ValueOf(&c).Elem(), "")
	for _, name := range slices.Sorted(maps.Keys(types)) {
		fmt.Fprintf(&w, "\n## Sensors with ingest_type = %q\n", name)
		if o := types[name](); o != nil {
			fieldsOf(reflect.ValueOf(Sensor{Options: o})) // panics where a sensor could have a key twice
			w.section(reflect.ValueOf(o).Elem(), devicesHeader)
		}
	}
	return strings.TrimPrefix(w.String(), "\n")
}

const devicesHeader = "sensors.devices"

type referenceWriter struct{ strings.Builder }

// section writes the keys of one table and then the tables in it.
func (w *referenceWriter) section(v reflect.Value, header string) {
	var tables []field
	first := true
	for _, f := range fieldsOf(v) {
		if _, ok := tableType(f.value.Type()); ok {
			tables = append(tables, f)
			continue
		}
		if first {
			w.WriteString("\n| Key | Type | Default | Meaning |\n|---|---|---|---|\n")
			first = false
		}
		fmt.Fprintf(w, "| `%s` | %s | %s | %s |\n", f.name, typeWords(f.value.Type()), fallback(f), meaning(f))
	}
	if first && tables == nil {
		w.WriteString("\nIt has no keys of its own.\n")
	}
	for _, f := range tables {
		elem, _ := tableType(f.value.Type())
		header := join(header, f.name)
		value := f.value
		shown := "[" + header + "]"
		switch f.value.Kind() {
		case reflect.Slice:
			shown = "[[" + header + "]]"
			value = newElement(elem)
		case reflect.Map:
			shown = "[" + header + ".NAME]"
			value = newElement(elem)
		}
		fmt.Fprintf(w, "\n## %s\n\n%s\n", shown, meaning(f))
		w.section(value, header)
	}
}

// tableType returns the struct type behind a table, a list of tables or a map
// of tables.
func tableType(t reflect.Type) (reflect.Type, bool) {
	if t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
		t = t.Elem()
	}
	return t, t.Kind() == reflect.Struct
}

func typeWords(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return typeWords(t.Elem())
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "true or false"
	case reflect.Float32, reflect.Float64:
		return "number"
	case reflect.Slice:
		return "list of " + plural(typeWords(t.Elem()))
	case reflect.Map:
		return "table of " + plural(typeWords(t.Elem()))
	}
	return "whole number"
}

func plural(words string) string {
	if strings.HasPrefix(words, "list") || strings.HasPrefix(words, "table") {
		kind, rest, _ := strings.Cut(words, " ")
		return kind + "s " + rest
	}
	if strings.HasPrefix(words, "true") {
		return words
	}
	return words + "s"
}

func fallback(f field) string {
	if f.required() {
		return "required"
	}
	v := plain(f.value, false)
	if v == nil || f.value.IsZero() && (f.value.Kind() == reflect.Slice || f.value.Kind() == reflect.Map) {
		return ""
	}
	return "`" + strings.ReplaceAll(tomlValue(v), "|", `\|`) + "`"
}

// meaning is the field's doc and what its tags allow.
func meaning(f field) string {
	parts := []string{f.tag.Get("doc")}
	if allowed := enum(f.tag); allowed != nil {
		parts = append(parts, "One of `"+strings.Join(allowed, "`, `")+"`.")
	}
	least, hasLeast := bound(f.tag, "min")
	most, hasMost := bound(f.tag, "max")
	switch {
	case hasLeast && hasMost:
		parts = append(parts, fmt.Sprintf("From %s to %s.", tomlNumber(least), tomlNumber(most)))
	case hasLeast:
		parts = append(parts, fmt.Sprintf("At least %s.", tomlNumber(least)))
	case hasMost:
		parts = append(parts, fmt.Sprintf("At most %s.", tomlNumber(most)))
	}
	if most, ok := bound(f.tag, "max_items"); ok {
		parts = append(parts, fmt.Sprintf("At most %s entries.", tomlNumber(most)))
	}
	if f.secret() {
		parts = append(parts, "Secret: never shown.")
	}
	return strings.ReplaceAll(strings.Join(parts, " "), "|", `\|`)
}
