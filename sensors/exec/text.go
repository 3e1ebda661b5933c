package exec

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// firstNumber matches a number that is not the tail of a word: of
// "temp1: 48.3'C" it is 48.3.
var firstNumber = regexp.MustCompile(`(?:^|[^\pL\pN_.+-])([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)`)

func numberParser(re *regexp.Regexp) parser {
	if re == nil {
		re = firstNumber
	}
	return func(stdout []byte, _ int) ([]sensors.Sample, error) {
		return matched(re, string(stdout), func(text string) (wire.Value, error) {
			f, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
			v := wire.NumberValue(f)
			if err != nil || v.Kind() == wire.None {
				return wire.Value{}, errors.New("what was found is not a number")
			}
			return v, nil
		})
	}
}

func lineParser(re *regexp.Regexp) parser {
	// A copy: the text may be a few bytes of an output that is much longer.
	asText := func(text string) (wire.Value, error) {
		return wire.TextValue(strings.Clone(strings.TrimSpace(text))), nil
	}
	return func(stdout []byte, _ int) ([]sensors.Sample, error) {
		if re != nil {
			return matched(re, string(stdout), asText)
		}
		for line := range strings.Lines(string(stdout)) {
			if line = strings.TrimSpace(line); line != "" {
				v, err := asText(line)
				return []sensors.Sample{{Value: v}}, err
			}
		}
		return nil, errors.New("it printed nothing")
	}
}

// matched returns what re finds: each of its named groups as a channel, or its
// first group, or the whole match.
func matched(re *regexp.Regexp, text string, value func(string) (wire.Value, error)) ([]sensors.Sample, error) {
	m := re.FindStringSubmatchIndex(text)
	if m == nil {
		if re == firstNumber {
			return nil, errors.New("no number in it")
		}
		return nil, errors.New("regex does not match")
	}
	group := func(i int) (wire.Value, error) {
		if m[2*i] < 0 {
			return wire.Value{}, fmt.Errorf("group %d of regex took no part in the match", i)
		}
		return value(text[m[2*i]:m[2*i+1]])
	}
	var out []sensors.Sample
	for i, name := range re.SubexpNames() {
		if name == "" {
			continue
		}
		sample := sensors.Sample{Channel: name}
		if v, err := group(i); err != nil {
			sample.Quality, sample.Reason = wire.Bad, err.Error()
		} else {
			sample.Value = v
		}
		out = append(out, sample)
	}
	if out != nil {
		return out, nil
	}
	v, err := group(min(1, re.NumSubexp()))
	if err != nil {
		return nil, err
	}
	return []sensors.Sample{{Value: v}}, nil
}
