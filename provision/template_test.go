package provision

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/pyvorin/pyvorin-edge/config"
)

func TestRender(t *testing.T) {
	vars := map[string]string{
		"DEVICE_ID": idA, "KEY": `a"b\c`, "NUM": "7.5", "TRUE": "true", "EMPTY": "", "DOLLAR": "$x${Y}", "LINES": "a\nb\x7f", "APO": "it's",
	}
	for name, tt := range map[string]struct{ file, in, want string }{
		"a text":                {"c.toml", `a = "${DEVICE_ID}"`, `a = "` + idA + `"`},
		"within a text":         {"c.toml", `a = "x-${NUM}-${NUM}"`, `a = "x-7.5-7.5"`},
		"escaped":               {"c.toml", `a = "${KEY}"`, `a = "a\"b\\c"`},
		"escaped in JSON":       {"c.json", `{"a": "${KEY}", "b": ${NUM}}`, `{"a": "a\"b\\c", "b": 7.5}`},
		"lines":                 {"c.toml", `a = "${LINES}"`, `a = "a\nb\u007f"`},
		"several lines":         {"c.toml", "a = \"\"\"\n\"${KEY}\"\"\"\"\nb = \"${KEY}\"", "a = \"\"\"\n\"a\\\"b\\\\c\"\"\"\"\nb = \"a\\\"b\\\\c\""},
		"single quotes":         {"c.toml", `a = '${NUM}' # it's`, `a = '7.5' # it's`},
		"single, several lines": {"c.toml", "a = '''\n'${NUM}''' \nb = \"${KEY}\"", "a = '''\n'7.5''' \nb = \"a\\\"b\\\\c\""},
		"empty texts":           {"c.toml", `a = "" # ${NO}` + "\n" + `b = '' # ${NO}`, `a = "" # ${NO}` + "\n" + `b = '' # ${NO}`},
		"an escaped quote":      {"c.toml", `a = "\"${KEY}" # ${NO}`, `a = "\"a\"b\\c" # ${NO}`},
		"no quotes":             {"c.toml", `a = ${NUM}` + "\nb = ${TRUE}", "a = 7.5\nb = true"},
		"comments stay":         {"c.toml", "# ${NO}\na = 1 # \"${NO}", "# ${NO}\na = 1 # \"${NO}"},
		"no comments in JSON":   {"c.json", `{"a#": "${NUM}"}`, `{"a#": "7.5"}`},
		"a hash in a text":      {"c.toml", `a = "#${NUM}"`, `a = "#7.5"`},
		"default":               {"c.toml", `a = "${NO:-x y}" ` + "\nb = ${NO:-3}", `a = "x y" ` + "\nb = 3"},
		"default with quotes":   {"c.toml", `a = ${NO:-"INFO"}`, `a = "INFO"`},
		"default for empty":     {"c.toml", `a = "${EMPTY:-x}"`, `a = "x"`},
		"no default needed":     {"c.toml", `a = "${NUM:-x}"`, `a = "7.5"`},
		"empty":                 {"c.toml", `a = "${EMPTY}"`, `a = ""`},
		"for the agent":         {"c.toml", `a = "$${KEY}$$"`, `a = "${KEY}$"`},
		"dollars of a value":    {"c.toml", `a = "${DOLLAR}"`, `a = "$$x$${Y}"`},
		"a lone dollar":         {"c.toml", `a = "5 $ ^a$"`, `a = "5 $ ^a$"`},
		"apostrophe":            {"c.toml", `a = "${APO}"`, `a = "it's"`},
		"empty template":        {"c.toml", ``, ``},
	} {
		got, _, err := Render(tt.file, []byte(tt.in), vars)
		if err != nil || string(got) != tt.want {
			t.Errorf("%s: %s\ngives %s, %v\nwant  %s", name, tt.in, got, err, tt.want)
		}
	}
}

func TestRenderRefuses(t *testing.T) {
	vars := map[string]string{
		"KEY": `s3cret"x`, "APO": "s3cret'x", "LINES": "s3cret\nenabled = false", "INJECT": "1\n[cloud]\nenabled = false #s3cret", "ROW": "1, s3cret = 2", "EMPTY": "",
	}
	for name, tt := range map[string]struct{ in, want string }{
		"missing, all at once": {"a = \"${ONE}\"\nb = \"x ${TWO} ${ONE:-1}\"", "c.toml has 2 problems:\nc.toml:1:6: ${ONE} has no value"},
		"missing, the second":  {"a = \"${ONE}\"\nb = \"x ${TWO} ${ONE:-1}\"", "c.toml:2:8: ${TWO} has no value"},
		"a key outside":        {"a = ${INJECT}", "c.toml:1:5: the value of INJECT cannot stand outside of quotes"},
		"another key in a row": {"t = { a = ${ROW} }", "the value of ROW cannot stand outside of quotes"},
		"quotes outside":       {"a = ${KEY}", "the value of KEY cannot stand outside of quotes"},
		"nothing outside":      {"a = ${EMPTY}", "the value of EMPTY cannot stand outside of quotes"},
		"single quotes":        {"a = '${APO}'", "the value of APO cannot stand in single quotes"},
		"lines, single quotes": {"a = '${LINES}'", "the value of LINES cannot stand in single quotes"},
		"three single quotes":  {"a = '''${APO}'''", "the value of APO cannot stand in single quotes"},
		"no name":              {"a = \"${}\"", "a ${ is not followed by NAME}"},
		"not closed":           {"a = \"${ONE\"", "a ${ is not followed by NAME}"},
		"default ends text":    {`a = "${ONE:-"}"`, "the default after :- cannot hold"},
		"default is reference": {`a = "${ONE:-${TWO}}"`, "the default after :- cannot hold"},
		"not UTF-8":            {"a = \"\xff\"", "not UTF-8"},
		"too large":            {strings.Repeat("#", maxRenderedBytes) + "\na = 1", "larger than"},
	} {
		got, _, err := Render("c.toml", []byte(tt.in), vars)
		var bad *config.Error
		if !errors.As(err, &bad) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %.80s gives %.80q, %v; want %s", name, tt.in, got, err, tt.want)
		} else if strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: the value is in the error: %v", name, err)
		}
	}
	many := strings.Repeat("${NO}\n", 3*maxProblems)
	var bad *config.Error
	if _, _, err := Render("c.toml", []byte(many), nil); !errors.As(err, &bad) || len(bad.Problems)+bad.Omitted != 3*maxProblems || len(bad.Problems) > maxProblems {
		t.Errorf("%d problems: %v", 3*maxProblems, err)
	}
}

// Whatever a value is, it is that value and nothing else once the agent has
// loaded the config; or it is refused.
func TestAValueIsOneValue(t *testing.T) {
	places := []struct{ file, in string }{
		{"c.toml", "[device]\nlabels = { a = \"${V}\", z = \"end\" }\n"},
		{"c.toml", "[device.labels]\na = \"\"\"${V}\"\"\"\nz = \"end\"\n"},
		{"c.toml", "[device.labels]\na = '${V}'\nz = \"end\"\n"},
		{"c.toml", "[device.labels]\na = '''${V}'''\nz = \"end\"\n"},
		{"c.json", `{"device": {"labels": {"a": "${V}", "z": "end"}}}`},
	}
	outside := "[health]\nport = ${V}\n[device.labels]\nz = \"end\"\n"
	piece := rapid.OneOf(
		rapid.SampledFrom([]string{`"`, `'`, `\`, `\"`, `"""`, `'''`, "\n", "\r\n", "$", "${A}", "$${A}", "#", "]", "}", ",", "=", "\t", "\u2028", "\x7f", "\x01", `\u0041`, "z = \"x\""}),
		rapid.String(),
	)
	rapid.Check(t, func(t *rapid.T) {
		value := strings.Join(rapid.SliceOfN(piece, 0, 5).Draw(t, "value"), "")
		if CheckVariable("V", value) != nil {
			return
		}
		vars := map[string]string{"V": value}
		for i, place := range places {
			content, _, err := Render(place.file, []byte(place.in), vars)
			if err != nil {
				if i == 2 || i == 3 {
					continue // in single quotes not everything can stand
				}
				t.Fatalf("%q in %s: %v", value, place.in, err)
			}
			c, err := config.Parse(place.file, content, config.Options{LookupEnv: func(string) (string, bool) { return "", false }})
			if err != nil {
				if strings.Contains(err.Error(), "device.labels") {
					continue // the agent does not want such labels, which is another matter
				}
				t.Fatalf("%q in %s: %v", value, content, err)
			}
			if got := c.Device.Labels; len(got) != 2 || got["z"] != "end" || got["a"] != value {
				// TOML drops the newline after three quotes; so does the template's author.
				if (i == 1 || i == 3) && strings.TrimPrefix(strings.TrimPrefix(value, "\r"), "\n") == got["a"] {
					continue
				}
				t.Fatalf("%q became %q in\n%s", value, got, content)
			}
		}
		if content, _, err := Render("c.toml", []byte(outside), vars); err == nil {
			if c, err := config.Parse("c.toml", content, config.Options{}); err == nil && (len(c.Device.Labels) != 1 || strings.Count(string(content), "\n") != 4) {
				t.Fatalf("%q became\n%s", value, content)
			}
		}
	})
}

func FuzzRender(f *testing.F) {
	f.Add("a = \"${V}\"", "x")
	f.Add("a = '''${V}'''\n# ${V:-\"}", "$'\"\\")
	f.Fuzz(func(t *testing.T, template, value string) {
		for _, name := range []string{"c.toml", "c.json"} {
			content, _, err := Render(name, []byte(template), map[string]string{"V": value})
			if (err == nil) == (content == nil) && template != "" {
				t.Errorf("%q, %v", content, err)
			}
		}
	})
}

func TestCheckVariable(t *testing.T) {
	for name, value := range map[string]string{"A": "x", "_a1": "", "API_KEY": "a\nb"} {
		if err := CheckVariable(name, value); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, value := range map[string]string{
		"": "", "1A": "", "s3cret+value": "", "DEVICE_ID": "x", "LONG": strings.Repeat("s3cret", maxValueBytes), "BAD": "s3cret\xff", "NUL": "s3cret\x00",
	} {
		if err := CheckVariable(name, value); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestReadEnv(t *testing.T) {
	path := t.TempDir() + "/vars.env"
	write(t, path, "\ufeff# for the plant\r\n\r\nAPI_KEY=ab=c#d \r\n  SITE = \"hall 3\"\nQ='it\"s'\nE=\n")
	vars, err := ReadEnv(path)
	if err != nil || len(vars) != 4 || vars["API_KEY"] != "ab=c#d" || vars["SITE"] != "hall 3" || vars["Q"] != `it"s` || vars["E"] != "" {
		t.Errorf("%q, %v", vars, err)
	}
	for text, want := range map[string]string{
		"A=1\ns3cret":              ":2: want NAME=VALUE",
		"s3cret+x==":               ":1: what is before the =",
		"A=1\nA=s3cret":            ":2: A is given twice",
		"DEVICE_ID=s3cret":         ":1: DEVICE_ID is",
		strings.Repeat("#", 1<<17): "not a file of at most",
	} {
		write(t, path, text)
		if _, err := ReadEnv(path); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%.20q: %v, want %s", text, err, want)
		}
	}
	if _, err := ReadEnv(path + "-absent"); err == nil {
		t.Error("a file that is not there was read")
	}
}
