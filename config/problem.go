package config

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
)

// maxProblems bounds what one Error lists: who has more fixes these first.
const maxProblems = 20

// Error is everything wrong with a config file, in the order of the file.
type Error struct {
	Path     string
	Problems []Problem
	Omitted  int // problems found beyond those listed
}

// Problem is one thing wrong, and where: the place of the key, or of the
// element when it is in a list. It is an error for a part that finds just one.
type Problem struct {
	Path         string
	Line, Column int // from 1, 0 when there is no place; the column counts characters
	Key          string
	Message      string // what is wrong and what to do
}

// String returns the problem as file:line:col: key: message, without what is
// not known.
func (p Problem) String() string {
	s := p.Message
	if p.Key != "" {
		s = p.Key + ": " + s
	}
	switch {
	case p.Line > 0:
		return fmt.Sprintf("%s:%d:%d: %s", p.Path, p.Line, p.Column, s)
	case p.Path != "":
		return p.Path + ": " + s
	}
	return s
}

// Error is String.
func (p Problem) Error() string { return p.String() }

// Problemf returns a Problem at a key of the table that a part was given. The
// part need not know where that table stands; see Under.
func Problemf(key, format string, args ...any) error {
	return Problem{Key: key, Message: fmt.Sprintf(format, args...)}
}

// Under returns what a part said of the table at key: the Problem that err is,
// its key made a full one, or a Problem of the whole table.
func Under(key string, err error) Problem {
	var p Problem
	if !errors.As(err, &p) {
		return Problem{Key: key, Message: err.Error()}
	}
	if p.Key != "" {
		key += "." + p.Key
	}
	p.Key = key
	return p
}

// Join returns the problems of several parts as one *Error, or nil when all
// the errors are nil.
func Join(errs ...error) error {
	all := &Error{}
	for _, err := range errs {
		var many *Error
		var one Problem
		switch {
		case err == nil:
		case errors.As(err, &many):
			all.Problems = append(all.Problems, many.Problems...)
			all.Omitted += many.Omitted
		case errors.As(err, &one):
			all.Problems = append(all.Problems, one)
		default:
			all.Problems = append(all.Problems, Problem{Message: err.Error()})
		}
	}
	if len(all.Problems) == 0 {
		return nil
	}
	return all
}

// Error returns one problem in one line, and several below a line that counts
// them. It holds no secret: values of the environment are never repeated.
func (e *Error) Error() string {
	if len(e.Problems) == 1 && e.Omitted == 0 {
		return e.Problems[0].String()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s has %d problems:", cmp.Or(e.Path, "the config"), len(e.Problems)+e.Omitted)
	for _, p := range e.Problems {
		b.WriteString("\n" + p.String())
	}
	if e.Omitted > 0 {
		fmt.Fprintf(&b, "\nand %d more", e.Omitted)
	}
	return b.String()
}

// problems gathers what is wrong while a file is read.
type problems struct {
	list      []found
	keys      map[string]bool
	uncounted int // found after list was full
}

type found struct {
	at      int
	key     string
	message string
}

// add records one problem, and of each key only the first: what follows from
// a mistake is no second mistake.
func (p *problems) add(at int, key, message string) {
	const enough = 10 * maxProblems // room to sort what the file's order makes first
	if key != "" && p.keys[key] {
		return
	}
	if len(p.list) >= enough {
		p.uncounted++
		return
	}
	if p.keys == nil {
		p.keys = make(map[string]bool)
	}
	p.keys[key] = true
	p.list = append(p.list, found{at: at, key: key, message: message})
}
