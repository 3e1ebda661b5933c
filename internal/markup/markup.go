// Package markup writes HTML into which no text of others can put markup.
//
// The standard library's html/template promises the same, and finds methods by
// their names at run time, for which the linker keeps every exported method of
// the program: 2.5 MB on a device (docs/decisions/0008). Here the markup is
// constants of the source, which the compiler sees to, and everything else is
// text, which is escaped.
//
// What escaping cannot make safe is refused: a text can stand between tags and
// in the quoted value of one of a few attributes, but in no script, style or
// address. A mistake there is one of the source, and panics.
package markup

import (
	"bytes"
	"errors"
	"fmt"
	"html"
	"slices"
	"strings"
)

// Writer writes a page piece by piece.
type Writer struct{ b *bytes.Buffer }

// NewWriter returns a Writer that appends to b.
func NewWriter(b *bytes.Buffer) *Writer { return &Writer{b} }

// constant is markup. Outside of this package nothing but a constant of the
// source becomes one, since nobody can name the type to convert a variable.
type constant string

// slot is where a text goes.
const slot = "{}"

// textAttributes are those whose values are text, class names or figures
// whatever they hold: none is an address or makes a browser run something.
var textAttributes = []string{"aria-label", "class", "d", "value"}

// Put writes markup, whole tags of it, with a text in place of each {}.
func (w *Writer) Put(markup constant, texts ...string) {
	rest := string(markup)
	if err := check(rest, len(texts)); err != nil {
		panic(fmt.Errorf("internal error: %w in markup %s", err, rest))
	}
	for _, text := range texts {
		before, after, _ := strings.Cut(rest, slot)
		w.b.WriteString(before)
		w.b.WriteString(html.EscapeString(text))
		rest = after
	}
	w.b.WriteString(rest)
}

// PutStyle writes a style sheet of the source's own.
func (w *Writer) PutStyle(css string) {
	if strings.Contains(css, "</") {
		panic(errors.New("internal error: a style sheet that ends itself"))
	}
	w.b.WriteString("<style>" + css + "</style>")
}

// check refuses markup whose slots are not as many as texts, or where escaping
// would not do.
func check(markup string, texts int) error {
	if n := strings.Count(markup, slot); n != texts {
		return fmt.Errorf("%d texts for %d places", texts, n)
	}
	for rest := markup; ; {
		between, tag, found := strings.Cut(rest, "<")
		if strings.Contains(between, ">") {
			return errors.New("a lone >")
		}
		if !found {
			return nil
		}
		if tag, rest, found = strings.Cut(tag, ">"); !found {
			return errors.New("an open tag")
		}
		if err := checkTag(tag); err != nil {
			return err
		}
	}
}

// checkTag checks what is between < and >.
func checkTag(tag string) error {
	name := strings.ToLower(tag)
	if end := strings.IndexFunc(name, func(r rune) bool { return r < 'a' || r > 'z' }); end >= 0 {
		name = name[:end]
	}
	if name == "script" || name == "style" {
		return fmt.Errorf("a %s", name)
	}
	parts := strings.Split(tag, `"`) // those with odd numbers are the values of attributes
	if len(parts)%2 == 0 {
		return errors.New("an open quotation mark")
	}
	for i := 0; i < len(parts); i += 2 {
		if strings.Contains(parts[i], slot) || strings.Contains(parts[i], "'") {
			return errors.New("a text or a ' outside of quotation marks")
		}
		if i+1 == len(parts) || !strings.Contains(parts[i+1], slot) {
			continue
		}
		attribute := parts[i][strings.LastIndex(parts[i], " ")+1:]
		if !slices.Contains(textAttributes, strings.TrimSuffix(attribute, "=")) {
			return fmt.Errorf("a text as %s", attribute)
		}
	}
	return nil
}
