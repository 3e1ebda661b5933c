// Package window says when something may be done: in the minutes that a cron
// expression of five fields matches, in a time zone.
//
//	minute        0-59
//	hour          0-23
//	day of month  1-31
//	month         1-12, or jan to dec
//	day of week   0-7, 0 and 7 are Sunday, or sun to sat
//
// A field is * or a list, separated by commas, of numbers and ranges, each with
// an optional step: "* 2-4 * * *" is from 02:00 to 04:59 of each day. A range
// may lead over the end: "* 22-4 * * fri-sun". As in cron, when both day fields
// are restricted a day needs to match only one of them.
//
// Only the local time of a minute counts. So on the day when the clocks go
// forward, the hour that is left out has no minutes, and on the day when they go
// back, the hour that comes twice is open twice.
package window

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Window is a set of minutes. The zero Window is always open.
type Window struct {
	restricted bool
	loc        *time.Location

	minute, hour, day, month, weekday uint64 // bit n is the value n
	anyDay, anyWeekday                bool   // the field is *, so the other one decides
}

// maxExpression bounds an expression; the longest useful one lists all minutes.
const maxExpression = 512

// field is one of the five.
type field struct {
	name        string
	least, most int
	names       []string // of the values from least on
}

var fields = [5]field{
	{"minute", 0, 59, nil},
	{"hour", 0, 23, nil},
	{"day of month", 1, 31, nil},
	{"month", 1, 12, []string{"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}},
	{"day of week", 0, 7, []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}},
}

// Parse reads an expression, whose times are meant in loc. An empty one is
// always open.
func Parse(expression string, loc *time.Location) (Window, error) {
	if len(expression) > maxExpression {
		return Window{}, fmt.Errorf("it has more than %d characters", maxExpression)
	}
	texts := strings.Fields(expression)
	if len(texts) == 0 {
		return Window{}, nil
	}
	if len(texts) != len(fields) {
		return Window{}, fmt.Errorf(`it has %d fields, and needs five: minute, hour, day of month, month, day of week, such as "* 2-4 * * *" for 02:00 to 04:59`, len(texts))
	}
	w := Window{restricted: true, loc: loc, anyDay: texts[2] == "*", anyWeekday: texts[4] == "*"}
	for i, set := range []*uint64{&w.minute, &w.hour, &w.day, &w.month, &w.weekday} {
		bits, err := fields[i].parse(texts[i])
		if err != nil {
			return Window{}, fmt.Errorf("%s: %w", fields[i].name, err)
		}
		*set = bits
	}
	if w.weekday&(1<<7) != 0 {
		w.weekday |= 1 << 0
	}
	if w.Next(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return Window{}, errors.New("it never opens: no month that it names has such a day")
	}
	return w, nil
}

// parse returns the values that a field's text lists.
func (f field) parse(text string) (bits uint64, err error) {
	for item := range strings.SplitSeq(text, ",") {
		span, stepText, stepped := strings.Cut(item, "/")
		step := 1
		if stepped {
			if step, err = strconv.Atoi(stepText); err != nil || step < 1 || step > f.most {
				return 0, fmt.Errorf("%q is no step from 1 to %d", stepText, f.most)
			}
		}
		first, last := f.least, f.most
		if span != "*" {
			from, to, isRange := strings.Cut(span, "-")
			if first, err = f.value(from); err != nil {
				return 0, err
			}
			switch {
			case isRange:
				if last, err = f.value(to); err != nil {
					return 0, err
				}
			case !stepped: // 5/10 is 5-59/10
				last = first
			}
		}
		if last < first {
			last += f.count()
		}
		for v := first; v <= last; v += step {
			bits |= 1 << (f.least + (v-f.least)%f.count())
		}
	}
	return bits, nil
}

// count is how many values there are until they begin anew. Sunday has two.
func (f field) count() int {
	if f.most == 7 {
		return 7
	}
	return f.most - f.least + 1
}

func (f field) value(text string) (int, error) {
	if i := slices.Index(f.names, strings.ToLower(text)); i >= 0 {
		return f.least + i, nil
	}
	v, err := strconv.Atoi(text)
	if err != nil || v < f.least || v > f.most || len(text) > 2 || text[0] == '+' {
		return 0, fmt.Errorf("%q is not from %d to %d", text, f.least, f.most)
	}
	return v, nil
}

// Always reports whether the window never closes because nothing was asked for.
func (w Window) Always() bool { return !w.restricted }

// Open reports whether t lies in the window.
func (w Window) Open(t time.Time) bool {
	if !w.restricted {
		return true
	}
	t = t.In(w.loc)
	return w.onDay(t) && w.hour&(1<<t.Hour()) != 0 && w.minute&(1<<t.Minute()) != 0
}

func (w Window) onDay(t time.Time) bool {
	day, weekday := w.day&(1<<t.Day()) != 0, w.weekday&(1<<int(t.Weekday())) != 0
	if w.anyDay || w.anyWeekday {
		day = day && weekday
	} else {
		day = day || weekday
	}
	return day && w.month&(1<<int(t.Month())) != 0
}

// horizonDays is how far Next looks: a 29 February can be eight years away.
const horizonDays = 9 * 366

// Next returns when the window is open next, in its time zone: t itself when it
// is open then. Zero if never, which Parse refuses.
func (w Window) Next(t time.Time) time.Time {
	if !w.restricted || w.Open(t) {
		return t
	}
	t = t.In(w.loc).Truncate(time.Minute)
	for end := t.AddDate(0, 0, horizonDays); t.Before(end); {
		var next time.Time
		switch {
		case !w.onDay(t):
			next = time.Date(t.Year(), t.Month(), t.Day()+1, 0, 0, 0, 0, w.loc)
		case w.hour&(1<<t.Hour()) == 0:
			next = t.Add(time.Duration(60-t.Minute()) * time.Minute)
		case w.minute&(1<<t.Minute()) == 0:
			next = t.Add(time.Minute)
		default:
			return t
		}
		// Where clocks change at midnight, the midnight that was computed may be
		// one that has passed already.
		if !next.After(t) {
			next = t.Add(time.Hour)
		}
		t = next
	}
	return time.Time{}
}

// Zone returns the time zone of that IANA name, and the device's own for "".
// It uses the time zone files of the system.
func Zone(name string) (*time.Location, error) {
	switch name {
	case "":
		return time.Local, nil
	case "Local":
		return nil, errors.New("this is no name of a time zone; leave it empty for the device's own")
	}
	loc, err := time.LoadLocation(name)
	if err != nil {
		return nil, fmt.Errorf("%w: take a name such as Europe/Berlin; the names are the files below /usr/share/zoneinfo, which the package tzdata brings", err)
	}
	return loc, nil
}
