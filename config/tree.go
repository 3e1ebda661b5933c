package config

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of a config file. Beyond them it is a mistake or an attack.
const (
	maxFileBytes = 1 << 20
	maxDepth     = 24
	maxInteger   = 1<<53 - 1 // beyond it a double cannot tell neighbours apart (RFC 7493)
)

// kind is what a node holds.
type kind uint8

const (
	invalidKind kind = iota // refused when it was parsed; a problem is recorded
	tableKind
	listKind
	stringKind
	numberKind
	boolKind
	nullKind
)

// String names the kind in the words of error messages.
func (k kind) String() string {
	return [...]string{"nothing", "a table", "a list", "a string", "a number", "true or false", "null"}[k]
}

// node is one value of a file, whichever syntax it was written in.
type node struct {
	kind   kind
	at     int // byte offset of its key, or of itself when it is an element of a list
	table  map[string]*node
	list   []*node
	text   string
	number float64
	flag   bool

	env      bool // text holds a value from the environment
	fallback bool // text holds the default of a reference
	secret   bool // set by the decoder: never shown, and hashed as a digest
}

// substituted reports whether a reference stood in the text.
func (n *node) substituted() bool { return n.env || n.fallback }

// keys returns the keys of a table in the order of the file.
func (n *node) keys() []string {
	return slices.SortedFunc(maps.Keys(n.table), func(a, b string) int {
		return cmp.Or(n.table[a].at-n.table[b].at, strings.Compare(a, b))
	})
}

// document is a parsed file.
type document struct {
	path     string
	data     []byte
	root     *node
	problems problems
}

// parse reads data into a tree: JSON when path ends in .json, TOML otherwise.
// The root is a table; what could not be read is in problems.
func parse(path string, data []byte) *document {
	// Editors of some systems begin a text file with a byte order mark.
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	d := &document{path: path, data: data, root: &node{kind: tableKind}}
	ext := strings.ToLower(filepath.Ext(path))
	switch {
	case ext == ".yaml" || ext == ".yml":
		d.fail(0, "", "YAML is not read: write TOML (.toml) or JSON (.json)")
	case len(data) > maxFileBytes:
		d.fail(0, "", "the file is larger than %d bytes", maxFileBytes)
	case !utf8.Valid(data):
		d.fail(invalidUTF8(data), "", "the file is not valid UTF-8; save it as UTF-8")
	case ext == ".json":
		parseJSON(d)
	default:
		parseTOML(d)
	}
	return d
}

func invalidUTF8(data []byte) int {
	for i := 0; ; {
		r, size := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && size <= 1 {
			return i
		}
		i += size
	}
}

// fail records a problem at an offset of the file.
func (d *document) fail(at int, key, format string, args ...any) {
	d.problems.add(at, key, fmt.Sprintf(format, args...))
}

// offset turns a line and a column in bytes into an offset.
func (d *document) offset(line, column int) int {
	at := 0
	for ; line > 1; line-- {
		i := bytes.IndexByte(d.data[at:], '\n')
		if i < 0 {
			break
		}
		at += i + 1
	}
	return min(at+max(column-1, 0), len(d.data))
}

// valueHint says what to write where a syntax error at an offset comes from a
// bare word behind a key.
func (d *document) valueHint(at int) string {
	bare := func(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }
	before := bytes.TrimRightFunc(d.data[:at], bare)
	after := bytes.TrimLeftFunc(d.data[at:], bare)
	word := string(d.data[len(before) : len(d.data)-len(after)])
	before = bytes.TrimRight(before, " \t")
	if first, _ := utf8.DecodeRuneInString(word); !unicode.IsLetter(first) || !bytes.HasSuffix(before, []byte("=")) && !bytes.HasSuffix(before, []byte(":")) {
		return ""
	}
	switch strings.ToLower(word) {
	case "yes", "no", "on", "off", "true", "false":
		return "; write true or false"
	}
	return "; write a text in quotes"
}

// position returns the line and the column, in characters, of an offset.
func (d *document) position(at int) (line, column int) {
	before := d.data[:min(at, len(d.data))]
	line = 1 + bytes.Count(before, []byte("\n"))
	return line, 1 + utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:])
}

// err returns the recorded problems as an *Error, or nil when there are none.
func (d *document) err() error {
	if len(d.problems.list) == 0 {
		return nil
	}
	slices.SortStableFunc(d.problems.list, func(a, b found) int { return a.at - b.at })
	e := &Error{Path: d.path}
	shown := min(len(d.problems.list), maxProblems)
	e.Omitted = d.problems.uncounted + len(d.problems.list) - shown
	for _, f := range d.problems.list[:shown] {
		line, column := d.position(f.at)
		e.Problems = append(e.Problems, Problem{Path: d.path, Line: line, Column: column, Key: f.key, Message: f.message})
	}
	return e
}

// numberNode makes a node of a number. All numbers are doubles, as in RFC 8785,
// so that 5 and 5.0 are the same declaration.
func (d *document) numberNode(at int, key string, f float64) *node {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		d.fail(at, key, "a number must be finite")
		return &node{at: at}
	}
	return &node{kind: numberKind, at: at, number: f}
}

// join appends a key to the path of its table, quoted where it needs to be.
func join(path, key string) string {
	const longest = 64
	if len(key) > longest {
		key = strings.ToValidUTF8(key[:longest], "") + "…"
	}
	if !bareKey(key) {
		key = tomlString(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

// index appends the position in a list, from 0, to the list's path.
func index(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

// bareKey reports whether TOML lets key stand without quotes.
func bareKey(key string) bool {
	return key != "" && strings.IndexFunc(key, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-'
	}) < 0
}
