package match

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/pyvorin/pyvorin-edge/wire"
)

func TestSamples(t *testing.T) {
	value := func(text string) (wire.Value, error) {
		if text == "" {
			return wire.Value{}, errors.New("empty")
		}
		return wire.TextValue(text), nil
	}
	const none = "error: regex does not match"
	for _, tt := range []struct{ text, regex, want string }{
		{"a=1 b=2", `\d`, "=1"},
		{"a=1 b=2", `b=(\d)`, "=2"},
		{"a=1 b=2", `(\d) b=(\d)`, "=1"},
		{"a=1 b=2", `(\d) b=(?P<b>\d)`, "b=2"},
		{"a=1 b=2", `(?P<x>\d).*(?P<y>\d)`, "x=1 y=2"},
		{"a=1 b=2", `c`, none},
		{"a=1 b=2", `(c)?\d`, none},
		{"a=1 b=2", `(?P<c>c)?\d`, none},
		{"H=40", `T=(?P<t>.*)|H=(?P<h>.*)`, "h=40"},
		{"H=", `H=(.*)`, "error: empty"},
		{"H= T=2", `H=(?P<h>\d*) T=(?P<t>.*)`, "h bad: empty t=2"},
	} {
		samples, err := Samples(regexp.MustCompile(tt.regex), tt.text, value)
		var got []string
		for _, s := range samples {
			if s.Quality == wire.Bad && s.Value.Kind() == wire.None {
				got = append(got, fmt.Sprintf("%s bad: %s", s.Channel, s.Reason))
			} else {
				got = append(got, s.Channel+"="+s.Value.String())
			}
		}
		if err != nil {
			got = append(got, "error: "+err.Error())
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%q by %q: %q, want %q", tt.text, tt.regex, got, tt.want)
		}
	}
}
