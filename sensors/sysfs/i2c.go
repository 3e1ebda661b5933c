package sysfs

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/pyvorin/pyvorin-edge/sensors"
)

// i2cClass is where the kernel shows I2C buses and the chips that it was told
// are on them. Nothing is asked on the bus itself.
const i2cClass = "sys/bus/i2c/devices"

var (
	i2cAdapter = regexp.MustCompile(`^i2c-([0-9]+)$`)
	i2cClient  = regexp.MustCompile(`^([0-9]+)-([0-9a-f]{4})$`)
)

// i2c offers the I2C buses, and the chips on them that nothing can read yet.
func (d *discovery) i2c(ctx context.Context) {
	entries := d.list("i2c", i2cClass)
	working := map[string][]string{} // of the adapter's number: what has a driver, and which
	declared := map[string]int{}
	var idle []sensors.Offer
	for _, entry := range entries {
		m := i2cClient.FindStringSubmatch(entry)
		if m == nil {
			continue
		}
		if ctx.Err() != nil {
			return
		}
		dir := filepath.Join(d.root, i2cClass, entry)
		name := attr(filepath.Join(dir, "name"))
		declared[m[1]]++
		if driver, err := filepath.EvalSymlinks(filepath.Join(dir, "driver")); err == nil {
			working[m[1]] = append(working[m[1]], fmt.Sprintf("%s %s (%s)", entry, name, filepath.Base(driver)))
			continue
		}
		idle = append(idle, sensors.Offer{
			Kind: "i2c", Name: entry, Detail: fmt.Sprintf("%s on i2c-%s, without a driver", name, m[1]),
			Note: fmt.Sprintf("its driver is not installed, or got no answer at address 0x%s: see dmesg", strings.TrimLeft(m[2], "0")),
		})
	}
	told := len(declared) > 0 // who declared one chip knows how
	for _, entry := range entries {
		m := i2cAdapter.FindStringSubmatch(entry)
		if m == nil {
			continue
		}
		o := sensors.Offer{Kind: "i2c", Name: entry, Detail: attr(filepath.Join(d.root, i2cClass, entry, "name"))}
		if len(working[m[1]]) > 0 {
			o.Detail += ": " + strings.Join(working[m[1]], ", ")
		}
		switch {
		case declared[m[1]] > 0:
		case told:
			o.Note = "no chip is declared on it"
		default:
			told = true
			o.Note = fmt.Sprintf("no chip is declared on it: enable the overlay of yours; for a try, until the next start, as root: echo ads1115 0x48 > /%s/%s/new_device; i2cdetect -y %s (root or the group i2c) shows what answers", i2cClass, entry, m[1])
		}
		d.add(o)
	}
	d.offers = append(d.offers, idle...)
}
