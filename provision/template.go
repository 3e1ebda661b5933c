package provision

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/pyvorin/pyvorin-edge/config"
)

// DeviceIDVariable is the variable that nobody has to give.
const DeviceIDVariable = "DEVICE_ID"

const (
	maxValueBytes    = 16 << 10
	maxRenderedBytes = 1 << 20 // what a config may have
	maxProblems      = 20      // as many as a message lists
)

var (
	namePattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	reference   = regexp.MustCompile(`^\$\{([A-Za-z_][A-Za-z0-9_]*)(?:(:-)([^}]*))?\}`)

	// barePattern is what may stand outside of quotes: a number or truth value,
	// but nothing that could begin another key.
	barePattern = regexp.MustCompile(`^[A-Za-z0-9_.+:-]+$`)
)

// CheckVariable reports why a variable cannot be given to a template.
func CheckVariable(name, value string) error {
	switch {
	case !namePattern.MatchString(name):
		// Not repeated: it may be a value that was put in the wrong place.
		return errors.New("what is before the = is no name of a variable: want letters, digits and underscores, not a digit first")
	case name == DeviceIDVariable:
		return fmt.Errorf("%s is what provisioning finds out; it cannot be given", name)
	case len(value) > maxValueBytes:
		return fmt.Errorf("the value of %s is longer than %d bytes", name, maxValueBytes)
	case !utf8.ValidString(value) || strings.Contains(value, "\x00"):
		return fmt.Errorf("the value of %s is no text", name)
	}
	return nil
}

// Render fills in a template in the syntax of a config: TOML, or JSON when its
// name ends in .json. ${NAME} and, where NAME is not given or empty,
// ${NAME:-default} are replaced; $$ becomes a single dollar sign, so that
// $${NAME} is left to the environment in which the agent will run. Comments stay
// as they are.
//
// A value is always one value: in double quotes it is escaped, so that reading
// the config gives exactly it; where it could become anything else, Render
// refuses. Every problem is told at once, in a *config.Error, which repeats no
// value. Used are the names that were referred to.
func Render(name string, template []byte, vars map[string]string) (rendered []byte, used []string, err error) {
	r := renderer{name: name, in: template, vars: vars, toml: !strings.EqualFold(filepath.Ext(name), ".json")}
	if !utf8.Valid(template) {
		r.problem(0, "the template is not UTF-8")
	} else {
		r.run()
	}
	if len(r.problems.Problems) > 0 {
		r.problems.Path = name
		return nil, nil, &r.problems
	}
	slices.Sort(r.used)
	return r.out.Bytes(), slices.Compact(r.used), nil
}

// renderer walks through a template and knows in which kind of text it is.
type renderer struct {
	name string
	in   []byte
	vars map[string]string
	toml bool

	at       int    // where the walk is
	quote    string // what ends the text it is in: ", ', """, ''' or, outside of texts, ""
	out      bytes.Buffer
	used     []string
	problems config.Error
}

func (r *renderer) run() {
	for r.at < len(r.in) && r.out.Len() <= maxRenderedBytes {
		rest := r.in[r.at:]
		switch c := rest[0]; {
		case c == '$':
			r.dollar(rest)
		case r.quote == "" && c == '#' && r.toml:
			r.copy(lineLength(rest))
		case r.quote == "" && (c == '"' || c == '\'' && r.toml):
			r.open(c, rest)
		case r.quote == "" || c != r.quote[0]:
			if c == '\\' && r.quote != "" && r.quote[0] == '"' && len(rest) > 1 {
				r.copy(2)
			} else {
				r.copy(1)
			}
		default:
			r.close(c, rest)
		}
	}
	if r.out.Len() > maxRenderedBytes {
		r.problem(r.at, fmt.Sprintf("the result is larger than %d bytes", maxRenderedBytes))
	}
}

func (r *renderer) copy(n int) {
	r.out.Write(r.in[r.at : r.at+n])
	r.at += n
}

func lineLength(text []byte) int {
	if i := bytes.IndexByte(text, '\n'); i >= 0 {
		return i
	}
	return len(text)
}

// run of c's at the beginning of text.
func runLength(text []byte, c byte) int {
	return len(text) - len(bytes.TrimLeft(text, string(c)))
}

// open begins a text. Three quotes begin one of several lines; two are an empty
// text.
func (r *renderer) open(c byte, rest []byte) {
	switch n := runLength(rest, c); {
	case r.toml && n >= 3:
		r.quote = strings.Repeat(string(c), 3)
		r.copy(3)
	case n == 2:
		r.copy(2)
	default:
		r.quote = string(c)
		r.copy(1)
	}
}

// close is at a quote within a text. One of several lines ends with three, and
// may have one or two more before them.
func (r *renderer) close(c byte, rest []byte) {
	if len(r.quote) == 1 {
		r.quote = ""
		r.copy(1)
		return
	}
	n := min(runLength(rest, c), 5)
	if n >= 3 {
		r.quote = ""
	}
	r.copy(n)
}

func (r *renderer) dollar(rest []byte) {
	if bytes.HasPrefix(rest, []byte("$$")) {
		r.out.WriteByte('$')
		r.at += 2
		return
	}
	if !bytes.HasPrefix(rest, []byte("${")) {
		r.copy(1)
		return
	}
	m := reference.FindSubmatch(rest)
	if m == nil {
		r.problem(r.at, "a ${ is not followed by NAME} or NAME:-default}; write $${ for what the agent's environment is to fill in")
		r.copy(2)
		return
	}
	name, fallback := string(m[1]), string(m[3])
	r.used = append(r.used, name)
	value, given := r.vars[name]
	var err error
	switch {
	case len(m[2]) > 0 && value == "":
		if err = r.checkFallback(fallback); err == nil {
			r.out.WriteString(fallback)
		}
	case !given:
		err = fmt.Errorf("${%s} has no value; give it with --set %s=VALUE or --env-file, or write ${%s:-default}", name, name, name)
	default:
		if value, err = r.encode(value); err != nil {
			err = fmt.Errorf("the value of %s %w", name, err)
		}
		r.out.WriteString(value)
	}
	if err != nil {
		r.problem(r.at, err.Error())
	}
	r.at += len(m[0])
}

// checkFallback refuses a default that means something else here than after it
// was put in the text that it stands in.
func (r *renderer) checkFallback(fallback string) error {
	if strings.ContainsAny(fallback, "$\n") || r.quote != "" && strings.Contains(fallback, r.quote[:1]) {
		return errors.New("the default after :- cannot hold a dollar sign, a new line or the quotes that it stands in")
	}
	return nil
}

// encode returns what is to be written for a value here.
func (r *renderer) encode(value string) (string, error) {
	switch {
	case r.quote == "":
		if !barePattern.MatchString(value) {
			return "", errors.New("cannot stand outside of quotes, where only a number, true or false can; put the reference in double quotes")
		}
		return value, nil
	case r.quote[0] == '\'':
		if strings.ContainsFunc(value, func(c rune) bool { return c == '\'' || c != '\t' && unicode.IsControl(c) }) {
			return "", errors.New("cannot stand in single quotes; put the reference in double quotes")
		}
	default:
		var quoted bytes.Buffer
		e := json.NewEncoder(&quoted)
		e.SetEscapeHTML(false)
		if err := e.Encode(value); err != nil {
			return "", err
		}
		// JSON's escapes are TOML's too, but TOML also wants one for DEL.
		text := bytes.TrimSpace(quoted.Bytes())
		value = strings.ReplaceAll(string(text[1:len(text)-1]), "\x7f", `\u007f`)
	}
	// The config's own references are looked for when it is loaded.
	return strings.ReplaceAll(value, "$", "$$"), nil
}

func (r *renderer) problem(at int, message string) {
	if len(r.problems.Problems) >= maxProblems {
		r.problems.Omitted++
		return
	}
	before := r.in[:at]
	r.problems.Problems = append(r.problems.Problems, config.Problem{
		Path:    r.name,
		Line:    1 + bytes.Count(before, []byte("\n")),
		Column:  1 + utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:]),
		Message: message,
	})
}
