package serial

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/sensors/internal/offer"
)

// ofBoard matches the ports that a board has on its header, whose names stay.
var ofBoard = regexp.MustCompile(`^tty(AMA|S|THS)\d+$`)

// ofReceiver matches the names of GPS receivers.
var ofReceiver = regexp.MustCompile(`(?i)u-?blox|gps|gnss|glonass|sirf`)

// discover lists the serial ports: those of USB by the name that the adapter's
// serial number gives them, or by their socket where that name is another's,
// and those of the board.
func discover(_ context.Context, env sensors.Env) []sensors.Offer {
	d := discovery{root: env.Root(), seen: map[string]bool{}}
	d.named("/dev/serial/by-id")
	d.named("/dev/serial/by-path")
	d.board()
	return d.offers
}

type discovery struct {
	root   string
	seen   map[string]bool // devices that have an offer
	offers []sensors.Offer
}

// list returns the names in a folder, none when it is not there.
func (d *discovery) list(dir string) []string {
	entries, err := os.ReadDir(filepath.Join(d.root, dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.offers = append(d.offers, sensors.Offer{Kind: "serial", Name: dir, Note: fmt.Sprintf("cannot be listed: %v", err)})
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names
}

// named offers the devices that the links in dir lead to.
func (d *discovery) named(dir string) {
	for _, name := range d.list(dir) {
		link := filepath.Join(dir, name)
		device, err := filepath.EvalSymlinks(filepath.Join(d.root, link))
		if err != nil || d.seen[device] {
			continue
		}
		d.seen[device] = true
		d.offer(link, device, described(name)+" ("+filepath.Base(device)+")")
	}
}

// described makes words of "usb-u-blox_AG_u-blox_7_-_GPS_GNSS_Receiver-if00".
func described(name string) string {
	name, _, _ = strings.Cut(strings.TrimPrefix(name, "usb-"), "-if0")
	return strings.ReplaceAll(name, "_", " ")
}

// board offers the ports of the board itself that have hardware behind them.
func (d *discovery) board() {
	console, _ := os.ReadFile(filepath.Join(d.root, "/sys/class/tty/console/active"))
	// What a Raspberry Pi has on its header is ttyS0 on some models and ttyAMA0
	// on others, and serial0 on all.
	alias, _ := filepath.EvalSymlinks(filepath.Join(d.root, "/dev/serial0"))
	for _, name := range d.list("/sys/class/tty") {
		class := filepath.Join(d.root, "/sys/class/tty", name)
		device := filepath.Join(d.root, "/dev", name)
		if !ofBoard.MatchString(name) || !exists(filepath.Join(class, "device")) || !exists(device) || d.seen[device] {
			continue
		}
		// The kernel keeps ports ready that the machine may not have; their type
		// is 0.
		if kind, err := os.ReadFile(filepath.Join(class, "type")); err == nil && strings.TrimSpace(string(kind)) == "0" {
			continue
		}
		path, detail := "/dev/"+name, "UART of the board"
		if device == alias {
			path, detail = "/dev/serial0", "UART on the header ("+name+")"
		}
		d.seen[device] = true
		if slices.Contains(strings.Fields(string(console)), name) {
			d.offers = append(d.offers, sensors.Offer{Kind: "serial", Name: path, Detail: detail, Note: "the kernel's console is on it: take console=" + name + " off the kernel's command line (raspi-config: Serial Port)"})
			continue
		}
		d.offer(path, device, detail)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// offer adds the port that is found again by path and is now device.
func (d *discovery) offer(path, device, detail string) {
	o := sensors.Offer{Kind: "serial", Name: path, Detail: detail}
	if err := unix.Faccessat(unix.AT_FDCWD, device, unix.R_OK|unix.W_OK, unix.AT_EACCESS); err != nil {
		o.Note = "this user may not open it: " + whoMay(device)
	}
	name, framing := "serial", "line"
	if ofReceiver.MatchString(path) {
		name, framing = "gps", "nmea"
	}
	o.Config = offer.Table(name, "serial", offer.Key{Name: "device", Value: path},
		offer.Key{Name: "baud_rate", Value: 9600}, offer.Key{Name: "framing", Value: framing})
	d.offers = append(d.offers, o)
}
