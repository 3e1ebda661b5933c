package jsonpath

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/pyvorin/pyvorin-edge/wire"
)

func TestSingleValue(t *testing.T) {
	tests := []struct {
		doc, path string
		want      wire.Value
		err       string
	}{
		{`{"a":{"b":21.5}}`, "a.b", wire.NumberValue(21.5), ""},
		{`{"a":[1,2,3]}`, "a.1", wire.NumberValue(2), ""},
		{`{"a":"open"}`, "a", wire.TextValue("open"), ""},
		{`{"a":true}`, "a", wire.BoolValue(true), ""},
		{`{"a":false}`, "a", wire.BoolValue(false), ""},
		{`7`, "@this", wire.NumberValue(7), ""},
		{`{"a":null}`, "a", wire.Value{}, `null at "a"`},
		{`{"a":{}}`, "a", wire.Value{}, `an object or a list at "a"`},
		{`{"a":1e400}`, "a", wire.Value{}, `not finite`},
		{`{"a":1}`, "b", wire.Value{}, `nothing at "b"`},
		{`{"a":21.5`, "a", wire.Value{}, "not valid JSON"},
		{``, "a", wire.Value{}, "not valid JSON"},
	}
	for _, tt := range tests {
		got, err := Spec{Path: tt.path}.Samples([]byte(tt.doc))
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s at %s: error %v, want %q", tt.doc, tt.path, err, tt.err)
			}
			continue
		}
		if err != nil || len(got) != 1 || got[0].Value != tt.want || got[0].Channel != "" {
			t.Errorf("%s at %s: %+v, %v, want %v", tt.doc, tt.path, got, err, tt.want)
		}
	}
}

func TestFieldsFailOneByOne(t *testing.T) {
	s := Spec{
		Fields: map[string]string{"t": "temp", "h": "hum", "x": "gone"},
		Meta:   map[string]string{"model": "model", "missing": "nope"},
	}
	got, err := s.Samples([]byte(`{"temp":20,"hum":null,"model":"` + strings.Repeat("é", 200) + `"}`))
	if err != nil || len(got) != 3 {
		t.Fatalf("got %+v, %v", got, err)
	}
	h, tt, x := got[0], got[1], got[2]
	if tt.Channel != "t" || tt.Quality != "" || tt.Value != wire.NumberValue(20) {
		t.Errorf("t: %+v", tt)
	}
	for _, bad := range []struct{ q, r string }{{string(h.Quality), h.Reason}, {string(x.Quality), x.Reason}} {
		if bad.q != "bad" || bad.r == "" {
			t.Errorf("want a bad sample with a reason, got %+v", bad)
		}
	}
	model, _ := tt.Meta["model"].Text()
	if len(model) != maxMetaBytes || len(tt.Meta) != 1 {
		t.Errorf("meta %v", tt.Meta)
	}
}

func TestTimestamps(t *testing.T) {
	want := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, v := range []string{`"2026-01-02T03:04:05Z"`, `"2026-01-02T04:04:05+01:00"`, `1767323045`, `1767323045000`, `1767323045000000`, `1767323045000000000`} {
		got, err := Spec{Path: "v", Timestamp: "t"}.Samples([]byte(`{"v":1,"t":` + v + `}`))
		if err != nil || !got[0].Time.Equal(want) || got[0].Quality != "" {
			t.Errorf("%s: %+v, %v", v, got, err)
		}
	}
	for _, v := range []string{`"yesterday"`, `"2026-01-02T03:04:05"`, `-5`, `1e30`, `null`, `{}`} {
		got, err := Spec{Path: "v", Timestamp: "t"}.Samples([]byte(`{"v":1,"t":` + v + `}`))
		if err != nil || !got[0].Time.IsZero() || got[0].Quality != wire.Uncertain || got[0].Reason == "" {
			t.Errorf("%s: %+v, %v", v, got, err)
		}
	}
}

func TestDeepNesting(t *testing.T) {
	doc := strings.Repeat("[", 1<<20) + strings.Repeat("]", 1<<20)
	if _, err := (Spec{Path: "0.0"}).Samples([]byte(doc)); err == nil {
		t.Error("a million levels were accepted")
	}
}

func TestCheck(t *testing.T) {
	bad := []Spec{
		{Path: "a", Fields: map[string]string{"b": "c"}},
		{Timestamp: "t"},
		{Meta: map[string]string{"a": "b"}},
		{Fields: map[string]string{"": "b"}},
		{Path: "a", Meta: map[string]string{"b": ""}},
	}
	for _, s := range bad {
		if s.Check() == nil {
			t.Errorf("%+v passed", s)
		}
	}
	if err := (Spec{Path: "a", Timestamp: "t"}).Check(); err != nil {
		t.Error(err)
	}
}

func TestNoDocumentPanicsOrLeaks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		doc := rapid.SliceOf(rapid.Byte()).Draw(t, "doc")
		path := rapid.String().Draw(t, "path")
		got, err := Spec{Path: path, Timestamp: "t"}.Samples(doc)
		if err == nil && path != "" && len(got) != 1 {
			t.Fatalf("%d samples", len(got))
		}
	})
}

func TestClip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.String().Draw(t, "s")
		n := rapid.IntRange(0, 40).Draw(t, "n")
		got := Clip(s, n)
		if len(got) > n || !strings.HasPrefix(s, got) || !utf8.ValidString(got) || len(got) < min(n, len(s))-3 {
			t.Fatalf("Clip(%q, %d) = %q", s, n, got)
		}
	})
}
