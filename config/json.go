package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
)

// parseJSON fills d.root. Syntax is checked first and as a whole; what follows
// walks tokens that are known to fit together.
func parseJSON(d *document) {
	var whole json.RawMessage
	if err := json.Unmarshal(d.data, &whole); err != nil {
		at := 0
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			at = max(int(syntax.Offset)-1, 0)
		}
		d.fail(at, "", "not valid JSON: %v%s", err, d.valueHint(at))
		return
	}
	r := jsonReader{d: d, dec: json.NewDecoder(bytes.NewReader(d.data))}
	r.dec.UseNumber()
	root, err := r.value("", r.next(), 0)
	switch {
	case errors.Is(err, errTooDeep):
		d.fail(int(r.dec.InputOffset()), "", "tables and lists are nested more than %d deep", maxDepth)
	case err != nil:
		d.fail(int(r.dec.InputOffset()), "", "not valid JSON: %v", err)
	case root.kind != tableKind:
		d.fail(root.at, "", "a config file holds one object of sections, found %s", root.kind)
	default:
		d.root = root
	}
}

var errTooDeep = errors.New("too deep")

type jsonReader struct {
	d   *document
	dec *json.Decoder
}

// next returns the offset of the next token.
func (r *jsonReader) next() int {
	at := int(r.dec.InputOffset())
	return at + len(r.d.data[at:]) - len(bytes.TrimLeft(r.d.data[at:], " \t\r\n,:"))
}

// value reads one value, whose key or else itself is at the given offset.
func (r *jsonReader) value(path string, at, depth int) (*node, error) {
	if depth > maxDepth {
		return nil, errTooDeep
	}
	token, err := r.dec.Token()
	if err != nil {
		return nil, err
	}
	switch token := token.(type) {
	case json.Delim:
		n := &node{kind: tableKind, at: at, table: make(map[string]*node)}
		read := r.member
		if token == '[' {
			n = &node{kind: listKind, at: at}
			read = r.element
		}
		for r.dec.More() {
			if err := read(n, path, depth+1); err != nil {
				return nil, err
			}
		}
		_, err := r.dec.Token() // the closing bracket
		return n, err
	case string:
		return &node{kind: stringKind, at: at, text: token}, nil
	case bool:
		return &node{kind: boolKind, at: at, flag: token}, nil
	case json.Number:
		f, _ := strconv.ParseFloat(token.String(), 64) // out of range is infinite, and refused as such
		return r.d.numberNode(at, path, f), nil
	}
	return &node{kind: nullKind, at: at}, nil
}

func (r *jsonReader) member(n *node, path string, depth int) error {
	at := r.next()
	token, err := r.dec.Token()
	if err != nil {
		return err
	}
	key := token.(string) // keys of an object are strings: the syntax is checked
	path = join(path, key)
	child, err := r.value(path, at, depth)
	if err != nil {
		return err
	}
	if n.table[key] != nil {
		r.d.fail(at, path, "this key is given twice; keep one of them")
		return nil
	}
	n.table[key] = child
	return nil
}

func (r *jsonReader) element(n *node, path string, depth int) error {
	child, err := r.value(index(path, len(n.list)), r.next(), depth)
	n.list = append(n.list, child)
	return err
}
