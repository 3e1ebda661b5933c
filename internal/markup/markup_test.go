package markup

import (
	"bytes"
	"encoding/xml"
	"io"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestPut(t *testing.T) {
	var b bytes.Buffer
	w := NewWriter(&b)
	w.Put(`<p class="a {}">{} and {}</p>`, `b"><script>`, `<b onclick='x'>&amp;`, "{}")
	want := `<p class="a b&#34;&gt;&lt;script&gt;">&lt;b onclick=&#39;x&#39;&gt;&amp;amp; and {}</p>`
	if got := b.String(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestPutRefuses has a row for each place where escaping would not do.
func TestPutRefuses(t *testing.T) {
	for _, c := range []struct {
		markup constant
		texts  []string
	}{
		{`<p>{}</p>`, nil},
		{`<p>{}</p>`, []string{"a", "b"}},
		{`<script>{}</script>`, []string{"a"}},
		{`<STYLE media="all">{}</STYLE>`, []string{"a"}},
		{"<style\nmedia=\"all\">{}</style>", []string{"a"}},
		{"<script/>{}", []string{"a"}},
		{`<a href="{}">b</a>`, []string{"a"}},
		{`<a href="/x?{}">b</a>`, []string{"a"}},
		{`<p onclick="{}">b</p>`, []string{"a"}},
		{`<p style="{}">b</p>`, []string{"a"}},
		{`<p class={}>b</p>`, []string{"a"}},
		{`<p class='{}'>b</p>`, []string{"a"}},
		{`<p onclick=' class="{}"'>b</p>`, []string{"a"}},
		{`<p class = "{}">b</p>`, []string{"a"}},
		{`<p {}>b</p>`, []string{"a"}},
		{`<{}>`, []string{"a"}},
		{`<!-- {} -->`, []string{"a"}},
		{`<p class="{}`, []string{"a"}},
		{`">{}`, []string{"a"}},
		{`<p class="a>b">{}</p>`, []string{"a"}},
		{`<p title="{}>`, []string{"a"}},
		{`<p`, nil},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s was taken", c.markup)
				}
			}()
			NewWriter(new(bytes.Buffer)).Put(c.markup, c.texts...)
		}()
	}
}

// TestTextStaysText reads back what was written: the elements and attributes
// are the markup's, and the texts come out as they went in.
func TestTextStaysText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`([ -~é]|"|'|<|>|&|/|=|\{\}|<script>|-->|</p>|&#34;)*`).Draw(t, "text")
		var b bytes.Buffer
		w := NewWriter(&b)
		w.Put(`<p class="{}">{}`, text, text)
		w.Put(`</p>`)
		d := xml.NewDecoder(&b)
		var got []string
		for {
			token, err := d.Token()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			switch token := token.(type) {
			case xml.StartElement:
				got = append(got, token.Name.Local)
				for _, a := range token.Attr {
					got = append(got, a.Name.Local, a.Value)
				}
			case xml.CharData:
				got = append(got, string(token))
			case xml.EndElement:
				got = append(got, "/")
			}
		}
		want := []string{"p", "class", text, text, "/"}
		if text == "" {
			want = []string{"p", "class", "", "/"}
		}
		if strings.Join(got, "\x00") != strings.Join(want, "\x00") {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestPutStyle(t *testing.T) {
	var b bytes.Buffer
	w := NewWriter(&b)
	w.PutStyle("p>a{}")
	if got := b.String(); got != "<style>p>a{}</style>" {
		t.Error(got)
	}
	defer func() {
		if recover() == nil {
			t.Error("a style sheet ended its element")
		}
	}()
	w.PutStyle("</style><script>")
}
