package serial

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/sensors/internal/jsonpath"
	"github.com/pyvorin/pyvorin-edge/sensors/internal/match"
	"github.com/pyvorin/pyvorin-edge/sensors/internal/ring"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// lineFraming makes samples of lines of text.
type lineFraming struct {
	regex        *regexp.Regexp // nil: the line is the value
	asText       bool
	maxTextBytes int // 0 is no limit
	baudRate     int // for complaints

	samples *ring.Ring[sensors.Sample]
	perPoll int // 0 is no limit
}

func (f *lineFraming) line(line []byte, now time.Time) bool {
	samples, err := f.values(string(line))
	if errors.Is(err, match.ErrNone) {
		return false
	}
	if err != nil {
		samples = []sensors.Sample{{Quality: wire.Bad, Reason: err.Error()}}
	}
	for i := range samples {
		samples[i].Time = now
	}
	f.samples.Add(samples...)
	return true
}

func (f *lineFraming) values(line string) ([]sensors.Sample, error) {
	if f.regex != nil {
		return match.Samples(f.regex, line, f.value)
	}
	text := strings.TrimFunc(line, isBlank)
	if text == "" || !utf8.ValidString(text) || strings.ContainsFunc(text, isNoText) {
		return nil, match.ErrNone
	}
	v, err := f.value(text)
	return []sensors.Sample{{Value: v}}, err
}

// isBlank matches what devices put around a line besides its end, such as STX
// and ETX.
func isBlank(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }

// isNoText matches what text does not have within.
func isNoText(r rune) bool { return unicode.IsControl(r) && r != '\t' }

// value makes a value of the line, or of a part of it.
func (f *lineFraming) value(text string) (wire.Value, error) {
	if text = strings.TrimFunc(text, isBlank); text == "" {
		return wire.Value{}, errors.New("empty: regex matched a part of the line that holds nothing")
	}
	if !f.asText {
		if number, err := strconv.ParseFloat(unpadded(text), 64); err == nil {
			v := wire.NumberValue(number)
			if v.Kind() == wire.None {
				return v, errors.New("not a finite number")
			}
			return v, nil
		}
	}
	// What is cut here would be cut by the poller anyway, but not before a
	// thousand of them filled the memory. One character more than allowed lets
	// it see that something is missing.
	if f.maxTextBytes > 0 {
		text = jsonpath.Clip(text, f.maxTextBytes+utf8.UTFMax)
	}
	return wire.TextValue(text), nil
}

// unpadded removes what scales put between a sign and its number: "-   1.25".
func unpadded(number string) string {
	if number[0] == '+' || number[0] == '-' {
		return number[:1] + strings.TrimLeft(number[1:], " ")
	}
	return number
}

func (f *lineFraming) take() ([]sensors.Sample, sensors.Dropped, error) {
	samples, dropped := f.samples.Take(f.perPoll)
	return samples, dropped, nil
}

func (f *lineFraming) complaint(lines string) error {
	if f.regex == nil {
		return fmt.Errorf("%s, but none is text in UTF-8: check baud_rate (%d), data_bits and parity, or take a part of the line with regex", lines, f.baudRate)
	}
	return fmt.Errorf("%s, but regex matches none of them: check regex and baud_rate (%d)", lines, f.baudRate)
}
