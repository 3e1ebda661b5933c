package exec

import (
	"errors"
	"regexp"
	"strconv"
	"strings"

	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/sensors/internal/match"
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
		samples, err := match.Samples(re, string(stdout), func(text string) (wire.Value, error) {
			f, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
			v := wire.NumberValue(f)
			if err != nil || v.Kind() == wire.None {
				return wire.Value{}, errors.New("what was found is not a number")
			}
			return v, nil
		})
		if re == firstNumber && errors.Is(err, match.ErrNone) {
			err = errors.New("no number in it")
		}
		return samples, err
	}
}

func lineParser(re *regexp.Regexp) parser {
	return func(stdout []byte, _ int) ([]sensors.Sample, error) {
		if re != nil {
			return match.Samples(re, string(stdout), func(text string) (wire.Value, error) {
				return wire.TextValue(strings.TrimSpace(text)), nil
			})
		}
		for line := range strings.Lines(string(stdout)) {
			if line = strings.TrimSpace(line); line != "" {
				// A copy: the output may be much longer than its first line.
				return []sensors.Sample{{Value: wire.TextValue(strings.Clone(line))}}, nil
			}
		}
		return nil, errors.New("it printed nothing")
	}
}
