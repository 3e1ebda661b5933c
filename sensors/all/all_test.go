package all

import (
	"reflect"
	"strings"
	"testing"
)

func TestTypesAreComplete(t *testing.T) {
	seen := map[string]bool{}
	for _, typ := range Types() {
		if typ.Name == "" || seen[typ.Name] {
			t.Errorf("the name %q is empty or not unique", typ.Name)
		}
		seen[typ.Name] = true
		if typ.Doc == "" || strings.ContainsAny(typ.Doc, "\n\t") {
			t.Errorf("%s: the doc is not one line: %q", typ.Name, typ.Doc)
		}
		if typ.New == nil {
			t.Errorf("%s: no New", typ.Name)
		}
		first, second := typ.Options(), typ.Options()
		v := reflect.ValueOf(first)
		if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
			t.Errorf("%s: Options returns %T, not a pointer to a struct", typ.Name, first)
			continue
		}
		if first == second {
			t.Errorf("%s: two sensors share their options", typ.Name)
		}
		for i := range v.Elem().NumField() {
			f := v.Elem().Type().Field(i)
			if f.Tag.Get("toml") == "" || f.Tag.Get("doc") == "" && f.Tag.Get("toml") != "-" {
				t.Errorf("%s: the key of field %s has no name or no doc", typ.Name, f.Name)
			}
		}
	}
	if len(Options()) != len(seen) {
		t.Errorf("%d options for %d types", len(Options()), len(seen))
	}
}
