package strictjson

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

type inner struct {
	ID string `json:"id"`
}

type embedded struct {
	Extra int `json:"extra"`
}

type document struct {
	embedded
	Name   string           `json:"name"`
	Count  *int             `json:"count,omitempty"`
	List   []inner          `json:"list"`
	Map    map[string]inner `json:"map"`
	At     time.Time        `json:"at"`
	Raw    json.RawMessage  `json:"raw"`
	Plain  bool
	Hidden string `json:"-"`
}

func TestUnmarshal(t *testing.T) {
	for _, tt := range []struct {
		name, in, want string // want is in the error; "" for none
	}{
		{"everything", `{"extra":1,"name":"a","count":3,"list":[{"id":"x"},{"id":"y"}],"map":{"any":{"id":"z"}},"at":"2026-01-02T03:04:05Z","raw":{"free":[1,{"a":null}]},"Plain":true}`, ""},
		{"empty", `{}`, ""},
		{"spaces around it", " {} \n", ""},
		{"unknown key", `{"nome":"a"}`, `unknown key "nome"`},
		{"upper case", `{"Name":"a"}`, `unknown key "Name"`},
		{"hidden", `{"Hidden":"a"}`, `unknown key "Hidden"`},
		{"hidden by its tag", `{"-":"a"}`, `unknown key "-"`},
		{"twice", `{"name":"a","name":"b"}`, `"name" is given twice`},
		{"twice, once escaped", `{"name":"a","n\u0061me":"b"}`, `"name" is given twice`},
		{"unknown deeper", `{"list":[{"id":"x"},{"di":"y"}]}`, `unknown key "di"`},
		{"twice in a map", `{"map":{"a":{},"a":{}}}`, `"a" is given twice`},
		{"unknown in a map", `{"map":{"a":{"b":1}}}`, `unknown key "b"`},
		{"twice in raw", `{"raw":{"a":1,"a":2}}`, `"a" is given twice`},
		{"wrong type", `{"name":1}`, "cannot unmarshal"},
		{"object for a list", `{"list":{"id":"x"}}`, "cannot unmarshal"},
		{"something follows", `{} {}`, "follows"},
		{"rubbish follows", `{} x`, "follows"},
		{"nothing", ``, "unexpected EOF"},
		{"cut", `{"list":[{"id":`, "unexpected EOF"},
		{"not JSON", `{name:1}`, "invalid character"},
		{"not UTF-8", "{\"name\":\"\xff\"}", "UTF-8"},
		{"deep", `{"raw":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`, "deeper"},
		{"large", `{"name":"` + strings.Repeat("a", 1000) + `"}`, "larger than 1000"},
	} {
		var d document
		err := Unmarshal([]byte(tt.in), 1000, &d)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v; want %q", tt.name, err, tt.want)
		}
	}
	var d document
	if err := Unmarshal([]byte(`{"name":"a","count":3,"extra":7,"list":[{"id":"x"}]}`), 100, &d); err != nil || d.Name != "a" || *d.Count != 3 || d.Extra != 7 || d.List[0].ID != "x" {
		t.Errorf("%+v, %v", d, err)
	}
}
