package gpio

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/sensors/internal/offer"
)

// discover offers each GPIO chip, with the lines that are free. It asks for
// what everyone may know of a line and takes none.
func discover(ctx context.Context, k kernel) []sensors.Offer {
	nodes, err := k.nodes()
	if err != nil {
		return []sensors.Offer{{Kind: "gpio", Name: "GPIO chips", Note: "cannot be looked for: " + err.Error()}}
	}
	var offers []sensors.Offer
	var all []survey
	for _, n := range nodes {
		if ctx.Err() != nil {
			return nil
		}
		s, err := look(k, n)
		switch {
		case isGone(err):
		case err != nil:
			offers = append(offers, sensors.Offer{Kind: "gpio", Name: cmp.Or(lastPart(n.device), n.path), Note: err.Error()})
		default:
			all = append(all, s)
		}
	}
	for _, s := range all {
		offers = append(offers, s.offer(all))
	}
	return offers
}

// survey is what a look at a chip found.
type survey struct {
	node  node
	label string
	lines []lineInfo // by offset
}

func look(k kernel, n node) (survey, error) {
	c, err := k.open(n)
	if err != nil {
		if isGone(err) {
			return survey{}, err
		}
		return survey{}, openError(n, err)
	}
	defer c.Close()
	s := survey{node: n, label: c.label(), lines: make([]lineInfo, c.lines())}
	for i := range s.lines {
		if s.lines[i], err = c.info(i); err != nil {
			if isGone(err) {
				return survey{}, err
			}
			return survey{}, infoError(found{chip: c, node: n}, err)
		}
	}
	return s, nil
}

// offer describes the chip, which is one of all.
func (s survey) offer(all []survey) sensors.Offer {
	id := s.stableID(all)
	o := sensors.Offer{Kind: "gpio", Name: cmp.Or(id, chipName(s.label, s.node))}
	used := 0
	var free []string
	for _, l := range s.lines {
		switch {
		case l.used:
			used++
		case l.name != "":
			free = append(free, l.name)
		}
	}
	o.Detail = fmt.Sprintf("%d lines, %d in use", len(s.lines), used)
	if len(free) > 0 {
		o.Detail += "; free: " + list(free)
	}
	if id == "" {
		o.Note = "nothing that outlasts a reboot tells it from the others"
		return o
	}
	if o.Config = s.config(id, all); o.Config == "" {
		o.Note = "no line of it is a free input"
	}
	return o
}

// passing matches what the kernel counts up in a device path: a HID device is
// another one each time that it is plugged in.
var passing = regexp.MustCompile(`^[0-9A-F]{4}:[0-9A-F]{4}:[0-9A-F]{4}\.[0-9A-F]{4}$`)

// stableID returns the label of the chip, or the last part of its device path,
// by which config finds it alone among all; "" where there is none.
func (s survey) stableID(all []survey) string {
	candidates := strings.Split(s.node.device, "/")
	slices.Reverse(candidates)
	for _, id := range append([]string{s.label}, candidates...) {
		meant := 0
		for _, other := range all {
			if isMeant(id, other.label, other.node) {
				meant++
			}
		}
		if meant == 1 && offer.Plain(id) && !counted.MatchString(id) && !passing.MatchString(id) {
			return id
		}
	}
	return ""
}

// config returns the table that reads a free line of the chip called id, which
// is an input already: another one may drive something. It takes the last of
// the lines that are named after their number, because the first ones of a
// Raspberry Pi are those of I2C, SPI and the serial port; then the last with a
// name, then the last of all.
func (s survey) config(id string, all []survey) string {
	best, bestRank := -1, -1
	for i, l := range s.lines {
		rank := 0
		switch {
		case l.used || l.output:
			continue
		case strings.HasPrefix(l.name, "GPIO") && offer.Plain(l.name):
			rank = 2
		case l.name != "" && offer.Plain(l.name):
			rank = 1
		}
		if rank >= bestRank {
			best, bestRank = i, rank
		}
	}
	if best < 0 {
		return ""
	}
	line := s.lines[best].name
	named := bestRank > 0 && !isNumber(line)
	if named && count(all, line) == 1 { // it says enough
		return offer.Table(offer.Name(line), "gpio", offer.Key{Name: "line", Value: line})
	}
	if !named || count([]survey{s}, line) > 1 {
		line = fmt.Sprint(best)
	}
	return offer.Table(offer.Name(id, line), "gpio", offer.Key{Name: "chip", Value: id}, offer.Key{Name: "line", Value: line})
}

// count returns how many lines of the chips have the name.
func count(in []survey, name string) (n int) {
	for _, s := range in {
		for _, l := range s.lines {
			if l.name == name {
				n++
			}
		}
	}
	return n
}
