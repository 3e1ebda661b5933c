// Package match says what the key regex means, for every ingest type that has
// it: a regular expression gives its first group, or the whole match; named
// groups become channels.
package match

import (
	"errors"
	"regexp"
	"strings"

	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// ErrNone says that there is nothing in a text that was wanted.
var ErrNone = errors.New("regex does not match")

// Samples returns what re finds in text, as value understands it. A group that
// took no part in the match is left out, because it belongs to another form of
// the text, such as "T=(?P<t>.*)|H=(?P<h>.*)" has two of. A named group that
// value refuses is a bad sample of its channel; otherwise that is the error.
func Samples(re *regexp.Regexp, text string, value func(string) (wire.Value, error)) ([]sensors.Sample, error) {
	m := re.FindStringSubmatchIndex(text)
	if m == nil {
		return nil, ErrNone
	}
	// A copy of the group, so that its value does not keep all of text in memory.
	group := func(i int) string { return strings.Clone(text[m[2*i]:m[2*i+1]]) }
	var samples []sensors.Sample
	named := false
	for i, name := range re.SubexpNames() {
		if name == "" {
			continue
		}
		named = true
		if m[2*i] < 0 {
			continue
		}
		s := sensors.Sample{Channel: name}
		var err error
		if s.Value, err = value(group(i)); err != nil {
			s = sensors.Sample{Channel: name, Quality: wire.Bad, Reason: err.Error()}
		}
		samples = append(samples, s)
	}
	if i := min(1, re.NumSubexp()); !named && m[2*i] >= 0 {
		v, err := value(group(i))
		if err != nil {
			return nil, err
		}
		samples = []sensors.Sample{{Value: v}}
	}
	if samples == nil {
		return nil, ErrNone
	}
	return samples, nil
}
