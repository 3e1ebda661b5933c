package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// parseTOML fills d.root. The syntax tree yields the places and the decoder
// the values, so what a file means is decided by the decoder alone.
func parseTOML(d *document) {
	// A copy without spare capacity: the parser finds offsets by comparing
	// capacities.
	data := append(make([]byte, 0, len(d.data)), d.data...)
	root := &spot{}
	places := &places{root: root, table: root}
	p := &unstable.Parser{}
	p.Reset(data)
	for p.NextExpression() {
		if at, ok := places.expression(p.Expression(), data); !ok {
			d.fail(at, "", "tables and lists are nested more than %d deep", maxDepth)
			return
		}
	}
	var values map[string]any
	if err := toml.Unmarshal(data, &values); err != nil {
		var bad *toml.DecodeError
		if !errors.As(err, &bad) {
			d.fail(0, "", "not valid TOML: %s", strings.TrimPrefix(err.Error(), "toml: "))
			return
		}
		line, column := bad.Position()
		at := d.offset(line, column)
		d.fail(at, "", "not valid TOML: %s%s", strings.TrimPrefix(bad.Error(), "toml: "), d.valueHint(at))
		return
	}
	d.root = d.fromTOML(values, root, "", 0)
}

// fromTOML joins a decoded value and its place to a node. at is where its
// container is, for the rare value without a place of its own.
func (d *document) fromTOML(value any, s *spot, path string, at int) *node {
	if s == nil {
		s = &spot{at: at}
	}
	switch value := value.(type) {
	case map[string]any:
		n := &node{kind: tableKind, at: s.at, table: make(map[string]*node, len(value))}
		for key, v := range value {
			n.table[key] = d.fromTOML(v, s.keys[key], join(path, key), s.at)
		}
		return n
	case []any:
		n := &node{kind: listKind, at: s.at, list: make([]*node, 0, len(value))}
		for i, v := range value {
			var item *spot
			if i < len(s.items) {
				item = s.items[i]
			}
			n.list = append(n.list, d.fromTOML(v, item, index(path, i), s.at))
		}
		return n
	case string:
		return &node{kind: stringKind, at: s.at, text: value}
	case bool:
		return &node{kind: boolKind, at: s.at, flag: value}
	case int64:
		return d.numberNode(s.at, path, float64(value))
	case float64:
		return d.numberNode(s.at, path, value)
	}
	d.fail(s.at, path, "dates and times are not used here; put the value in quotes")
	return &node{at: s.at}
}

// spot is where a value of a TOML file was first named, and where the values
// in it were.
type spot struct {
	at, depth int
	keys      map[string]*spot
	items     []*spot
}

// key returns the spot below s for key, made at the given place when it is
// new. Below a list of tables, that is below its last table.
func (s *spot) key(key string, at int) *spot {
	if n := len(s.items); n > 0 {
		s = s.items[n-1]
	}
	next := s.keys[key]
	if next == nil {
		next = &spot{at: at, depth: s.depth + 1}
		if s.keys == nil {
			s.keys = make(map[string]*spot)
		}
		s.keys[key] = next
	}
	return next
}

func (s *spot) item(at int) *spot {
	next := &spot{at: at, depth: s.depth + 1}
	s.items = append(s.items, next)
	return next
}

// places follows a TOML file from expression to expression.
type places struct {
	root  *spot
	table *spot // of the last header
}

// expression records the places of one [table], [[table]] or key = value. It
// returns false, and where, for what is nested too deep.
func (p *places) expression(e *unstable.Node, data []byte) (at int, ok bool) {
	if e.Kind == unstable.KeyValue {
		return p.table.keyValue(e, data)
	}
	s, at, ok := p.root.dotted(e.Key())
	if e.Kind == unstable.ArrayTable {
		s = s.item(at)
	}
	p.table = s
	return at, ok
}

// dotted follows a key of one or more parts; at is where the last one is.
func (s *spot) dotted(parts unstable.Iterator) (last *spot, at int, ok bool) {
	for parts.Next() {
		at = int(parts.Node().Raw.Offset)
		if s = s.key(string(parts.Node().Data), at); s.depth > maxDepth {
			return s, at, false
		}
	}
	return s, at, true
}

func (s *spot) keyValue(n *unstable.Node, data []byte) (at int, ok bool) {
	s, at, ok = s.dotted(n.Key())
	if !ok {
		return at, false
	}
	return s.value(n.Value(), data)
}

// value records the places inside a value whose own spot is s.
func (s *spot) value(n *unstable.Node, data []byte) (at int, ok bool) {
	if s.depth > maxDepth {
		return s.at, false
	}
	for it := n.Children(); it.Next(); {
		child := it.Node()
		switch n.Kind {
		case unstable.Array:
			at, ok = s.item(elementOffset(child, s.at, data)).value(child, data)
		case unstable.InlineTable:
			at, ok = s.keyValue(child, data)
		default:
			return s.at, true
		}
		if !ok {
			return at, false
		}
	}
	return s.at, true
}

// elementOffset returns where an element of a list begins. The parser records
// that for scalars only: a table begins at the brace before its first key, and
// what is left without any place is at its list.
func elementOffset(n *unstable.Node, list int, data []byte) int {
	if n.Raw.Length > 0 {
		return int(n.Raw.Offset)
	}
	if n.Kind != unstable.InlineTable || n.Child() == nil {
		return list
	}
	at := int(n.Child().Raw.Offset)
	for i := at - 1; i >= 0; i-- {
		switch data[i] {
		case ' ', '\t', '\r', '\n':
			continue
		case '{':
			return i
		}
		break
	}
	return at
}

// tomlString quotes s as a basic string of TOML.
func tomlString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// tomlNumber writes f as TOML: whole numbers without a point.
func tomlNumber(f float64) string {
	if f == math.Trunc(f) && math.Abs(f) <= maxInteger {
		return strconv.FormatInt(int64(f), 10)
	}
	return strconv.FormatFloat(f, 'g', -1, 64)
}
