package sysfs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/sensors/internal/offer"
)

// maxShownInputs bounds what an offer tells of a chip.
const maxShownInputs = 8

// discover lists the chips of every bus, each as one offer, and then the I2C
// buses, where a chip without a driver would be. It reads names only.
func discover(ctx context.Context, env sensors.Env) []sensors.Offer {
	d := discovery{root: env.Root()}
	for _, kind := range []string{"iio", "hwmon", "w1", "thermal"} {
		d.bus(ctx, kind, buses[kind])
	}
	d.i2c(ctx)
	return d.offers
}

// discovery gathers offers.
type discovery struct {
	root   string
	offers []sensors.Offer
}

func (d *discovery) add(o sensors.Offer) { d.offers = append(d.offers, o) }

// list returns the names in the folder at path below the root, or offers the
// reason why it cannot be looked into.
func (d *discovery) list(kind, path string) []string {
	entries, err := listDir(filepath.Join(d.root, path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.add(sensors.Offer{Kind: kind, Name: "/" + path, Note: "cannot be looked into: " + err.Error()})
	}
	return entries
}

func (d *discovery) bus(ctx context.Context, kind string, b bus) {
	entries := d.list(kind, b.class)
	all, _ := b.chips(d.root) // its error was told by list
	for _, c := range all {
		if ctx.Err() != nil {
			return
		}
		if kind == "hwmon" && isThermalZone(c) {
			continue // the zone is offered itself
		}
		d.chip(kind, b, c, all)
	}
	if kind == "w1" {
		d.w1Trouble(entries, len(all))
	}
}

// chip offers c, one of all of its bus.
func (d *discovery) chip(kind string, b bus, c chip, all []chip) {
	inputs, err := b.inputs(c)
	inputs = slices.DeleteFunc(inputs, func(in input) bool { return in.off })
	if err == nil && len(inputs) == 0 {
		return // an output, or something that this type does not read
	}
	id := c.stableID(all)
	o := sensors.Offer{Kind: kind, Name: cmp.Or(id, c.String()), Detail: describe(kind, c, inputs)}
	if name := c.plainName(); name != "" && name != id {
		o.Detail = name + ": " + o.Detail
	}
	switch unreadable := firstUnreadable(inputs); {
	case err != nil:
		o.Note = "cannot be looked into: " + err.Error()
	case id == "":
		o.Note = "nothing that outlasts a reboot tells it from the others"
	default:
		o.Config = c.table(kind, id, len(all))
		if unreadable != "" {
			o.Note = "this user may not read " + unreadable
		} else if kind == "thermal" && jetsonUnit.MatchString(id) {
			o.Note = "a unit that a Jetson powers off when idle; then it has no value"
		}
	}
	d.add(o)
}

// isThermalZone reports whether c is a thermal zone as hwmon shows it.
func isThermalZone(c chip) bool {
	return strings.HasPrefix(filepath.Base(c.device), "thermal_zone")
}

// jetsonUnit matches the thermal zones of a Jetson's GPU and vision engines.
var jetsonUnit = regexp.MustCompile(`(?i)^(gpu|cv\d+)-therm(al)?$`)

// describe lists what c measures, and its alarms after that.
func describe(kind string, c chip, inputs []input) string {
	if kind == "w1" {
		return w1Models[filepath.Base(c.dir)[:2]]
	}
	isAlarm := func(in input) bool { return in.quantity == alarm }
	shown := slices.DeleteFunc(slices.Clone(inputs), isAlarm)
	for _, in := range inputs {
		if isAlarm(in) {
			shown = append(shown, in)
		}
	}
	shown = shown[:min(len(shown), maxShownInputs)]
	texts := make([]string, len(shown))
	for i, in := range shown {
		texts[i] = in.name
		if in.label != "" {
			texts[i] += " (" + in.label + ")"
		}
	}
	text := strings.Join(texts, ", ")
	if more := len(inputs) - len(shown); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

func firstUnreadable(inputs []input) string {
	for _, in := range inputs {
		if errors.Is(unix.Faccessat(unix.AT_FDCWD, in.path, unix.R_OK, unix.AT_EACCESS), unix.EACCES) {
			return in.path
		}
	}
	return ""
}

// stableID returns the first of the names of c by which config finds it alone
// among all, or the shortest such end of its device path; "" where there is
// none. A path with a number that the kernel counts up in it is none.
func (c chip) stableID(all []chip) string {
	candidates := slices.Clone(c.ids)
	parts := strings.Split(strings.Trim(c.device, "/"), "/")
	for i := len(parts) - 1; i >= 0 && !counted.MatchString(parts[i]); i-- {
		candidates = append(candidates, strings.Join(parts[i:], "/"))
	}
	for _, id := range candidates {
		if !offer.Plain(id) || counted.MatchString(id) {
			continue
		}
		meant := 0
		for _, other := range all {
			if other.is(id) {
				meant++
			}
		}
		if meant == 1 {
			return id
		}
	}
	return ""
}

// plainName returns what c calls itself, or "" where that is odd.
func (c chip) plainName() string {
	if len(c.ids) == 0 || !offer.Plain(c.ids[0]) {
		return ""
	}
	return c.ids[0]
}

// table returns the config that reads all of the chip called id, one of so many
// of its bus.
func (c chip) table(kind, id string, chips int) string {
	name := offer.Name(id)
	if own := c.plainName(); own != "" && own != id {
		name = offer.Name(own, id)
	}
	keys := []offer.Key{{Name: "bus", Value: kind}, {Name: "chip", Value: id}}
	if kind == "w1" && chips > 5 {
		// They are read one after the other, in up to 0.75 s each.
		keys = append(keys, offer.Key{Name: "poll_interval_seconds", Value: 2 * chips})
	}
	return offer.Table(name, "sysfs", keys...)
}

// w1Trouble tells what a 1-Wire master without thermometers may mean.
func (d *discovery) w1Trouble(entries []string, thermometers int) {
	for _, entry := range entries {
		switch {
		case strings.HasPrefix(entry, "00-"):
			d.add(sensors.Offer{
				Kind: "w1", Name: entry, Detail: "no real device",
				Note: "noise was taken for a device: the pull-up of 4.7 kOhm between data and 3.3 V is missing or too weak",
			})
			return
		case strings.HasPrefix(entry, "w1_bus_master") && thermometers == 0:
			d.add(sensors.Offer{
				Kind: "w1", Name: entry, Detail: "a 1-Wire bus",
				Note: "no thermometer answers: check power, data wire, and the pull-up of 4.7 kOhm between data and 3.3 V",
			})
		}
	}
}
