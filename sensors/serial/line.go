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
	"github.com/pyvorin/pyvorin-edge/wire"
)

// lineFraming makes samples of lines of text.
type lineFraming struct {
	regex        *regexp.Regexp // nil: the line is the value
	asText       bool
	maxTextBytes int // 0 is no limit
	baudRate     int // for complaints

	queue   queue
	perPoll int // 0 is no limit
}

func (f *lineFraming) line(line []byte, now time.Time) bool {
	if f.regex == nil {
		text := strings.TrimFunc(string(line), isBlank)
		if text == "" || !utf8.ValidString(text) || strings.ContainsFunc(text, isNoText) {
			return false
		}
		f.add("", text, now)
		return true
	}
	m := f.regex.FindSubmatchIndex(line)
	if m == nil {
		return false
	}
	named, found := false, false
	for i, name := range f.regex.SubexpNames() {
		if name == "" {
			continue
		}
		named = true
		// A group that takes no part belongs to another of the device's lines:
		// "T=(?P<t>.*)|H=(?P<h>.*)".
		if m[2*i] >= 0 {
			found = true
			f.add(name, string(line[m[2*i]:m[2*i+1]]), now)
		}
	}
	if group := min(1, f.regex.NumSubexp()); !named && m[2*group] >= 0 {
		found = true
		f.add("", string(line[m[2*group]:m[2*group+1]]), now)
	}
	return found
}

// isBlank matches what devices put around a line besides its end, such as STX
// and ETX.
func isBlank(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }

// isNoText matches what text does not have within.
func isNoText(r rune) bool { return unicode.IsControl(r) && r != '\t' }

// add queues a sample of the text.
func (f *lineFraming) add(channel, text string, now time.Time) {
	sample := sensors.Sample{Channel: channel, Time: now}
	var err error
	if sample.Value, err = f.value(strings.TrimFunc(text, isBlank)); err != nil {
		sample.Quality, sample.Reason = wire.Bad, err.Error()
	}
	f.queue.add(sample)
}

func (f *lineFraming) value(text string) (wire.Value, error) {
	if text == "" {
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

func (f *lineFraming) take() ([]sensors.Sample, int, error) {
	samples, dropped := f.queue.take(f.perPoll)
	return samples, dropped, nil
}

func (f *lineFraming) complaint(lines string) error {
	if f.regex == nil {
		return fmt.Errorf("%s, but none is text in UTF-8: check baud_rate (%d), data_bits and parity, or take a part of the line with regex", lines, f.baudRate)
	}
	return fmt.Errorf("%s, but regex matches none of them: check regex and baud_rate (%d)", lines, f.baudRate)
}

// queue holds at most limit samples and gives up the oldest. It lets them grow
// to twice as many before it moves the newer half, so that a flood costs each
// sample only one move.
type queue struct {
	limit   int
	samples []sensors.Sample
	dropped int
}

func (q *queue) add(s sensors.Sample) {
	if len(q.samples) == 2*q.limit {
		q.trim()
	}
	q.samples = append(q.samples, s)
}

// trim drops and counts what exceeds the limit.
func (q *queue) trim() {
	if over := len(q.samples) - q.limit; over > 0 {
		q.dropped += over
		q.remove(over)
	}
}

// remove takes the n oldest away, also from the memory behind the slice.
func (q *queue) remove(n int) {
	kept := copy(q.samples, q.samples[n:])
	clear(q.samples[kept:])
	q.samples = q.samples[:kept]
}

// take removes and returns the oldest samples, at most limit of them when that
// is not 0, and how many were dropped since the last call.
func (q *queue) take(limit int) (samples []sensors.Sample, dropped int) {
	q.trim()
	n := len(q.samples)
	if limit > 0 {
		n = min(n, limit)
	}
	samples = append(samples, q.samples[:n]...)
	q.remove(n)
	dropped, q.dropped = q.dropped, 0
	return samples, dropped
}
