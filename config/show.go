package config

import (
	"reflect"
	"slices"
	"strings"
)

// Redacted returns the effective config, defaults included, as a TOML file
// that says which values came from the environment. Secrets are hidden.
func (c *Config) Redacted() string {
	s := shower{overrides: c.Source.Overrides}
	s.table(fieldsOf(reflect.ValueOf(c).Elem()), "", "")
	return strings.TrimPrefix(s.out.String(), "\n")
}

type shower struct {
	out       strings.Builder
	overrides []Override
}

// table writes the keys of one table: first the plain ones, then the tables in
// it, as TOML wants them. Header names the table, and path is the header with
// the positions in lists, as Overrides have it.
func (s *shower) table(fields []field, header, path string) {
	var tables []field
	for _, f := range fields {
		if elem := f.value.Type(); elem.Kind() == reflect.Struct || isTableList(elem) {
			tables = append(tables, f)
			continue
		}
		if s.fromFile(f, fields) {
			continue
		}
		if v := plain(f.value, f.secret()); v != nil {
			s.line(f.name, v, join(path, f.name))
		}
	}
	for _, f := range tables {
		header, path := join(header, f.name), join(path, f.name)
		if f.value.Kind() == reflect.Struct {
			s.out.WriteString("\n[" + header + "]\n")
			s.table(fieldsOf(f.value), header, path)
			continue
		}
		for i := range f.value.Len() {
			s.out.WriteString("\n[[" + header + "]]\n")
			s.table(fieldsOf(f.value.Index(i)), header, index(path, i))
		}
	}
}

func isTableList(t reflect.Type) bool {
	return t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct
}

// fromFile reports whether f is a secret that was read from a file: the key
// that names the file is shown, and both together would be refused.
func (s *shower) fromFile(f field, fields []field) bool {
	return f.secret() && slices.ContainsFunc(fields, func(o field) bool {
		return o.name == f.name+"_file" && o.value.String() != ""
	})
}

func (s *shower) line(key string, v any, path string) {
	s.out.WriteString(join("", key) + " = " + escapeReferences.Replace(tomlValue(v)))
	var from []string
	for _, o := range s.overrides {
		if within(o.Key, path) && !slices.Contains(from, o.Variable) {
			from = append(from, o.Variable)
		}
	}
	if from != nil {
		s.out.WriteString(" # from the environment: " + strings.Join(from, ", "))
	}
	s.out.WriteByte('\n')
}

// escapeReferences keeps a value that looks like a reference from becoming one
// when the shown file is loaded.
var escapeReferences = strings.NewReplacer("$$", "$$$$", "${", "$${")
