package serial

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
)

// lay makes files below a new root: a name that ends in / is a folder, and one
// with -> in it a link.
func lay(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		name, target, isLink := strings.Cut(name, " -> ")
		path := filepath.Join(root, name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		switch {
		case err != nil:
		case isLink:
			err = os.Symlink(target, path)
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(path, 0o755)
		default:
			err = os.WriteFile(path, []byte(content), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestDiscover(t *testing.T) {
	root := lay(t, map[string]string{
		"dev/ttyUSB0": "", "dev/ttyUSB1": "", "dev/ttyACM0": "", "dev/ttyACM1": "",
		"dev/serial/by-id/usb-1a86_USB_Serial-if00-port0 -> ../../ttyUSB1":                                   "",
		"dev/serial/by-id/usb-gone-if00 -> ../../ttyUSB7":                                                    "",
		"dev/serial/by-id/usb-u-blox_AG_-_www.u-blox.com_u-blox_7_-_GPS_GNSS_Receiver-if00 -> ../../ttyACM0": "",
		"dev/serial/by-id/usb-XY_gps-if00 -> ../../ttyACM1":                                                  "",
		"dev/serial/by-path/platform-xhci-usb-0:1.1:1.0-port0 -> ../../ttyUSB0":                              "",
		"dev/serial/by-path/platform-xhci-usb-0:1.2:1.0-port0 -> ../../ttyUSB1":                              "",
		"dev/serial/by-path/platform-xhci-usbv2-0:1.1:1.0-port0 -> ../../ttyUSB0":                            "",
		// A Pi: the header, a console, a port of the kernel without hardware, and
		// one whose driver is not there.
		"dev/ttyAMA0": "", "dev/ttyAMA10": "", "dev/ttyS0": "", "dev/ttyS1": "", "dev/ttyTHS1": "",
		"dev/serial0 -> ttyAMA0":          "",
		"sys/class/tty/console/active":    "tty1 ttyAMA10\n",
		"sys/class/tty/ttyAMA0/device/":   "",
		"sys/class/tty/ttyAMA0/type":      "32\n",
		"sys/class/tty/ttyAMA10/device/":  "",
		"sys/class/tty/ttyS0/device/":     "",
		"sys/class/tty/ttyS0/type":        "0\n",
		"sys/class/tty/ttyS1/type":        "4\n",
		"sys/class/tty/ttyTHS1/device/":   "",
		"sys/class/tty/ttyAMA5/device/":   "",
		"sys/class/tty/ttyprintk/device/": "",
	})
	got := Type.Discover(t.Context(), sensors.Env{SysRoot: root})
	var list []string
	for _, o := range got {
		framing := "-"
		if o.Config != "" {
			framing = "line"
			if strings.Contains(o.Config, "nmea") {
				framing = "nmea"
			}
		}
		list = append(list, fmt.Sprintf("%s %s: %s (%s) %t", o.Kind, o.Name, o.Detail, framing, o.Note != ""))
	}
	want := []string{
		"serial /dev/serial/by-id/usb-1a86_USB_Serial-if00-port0: 1a86 USB Serial (ttyUSB1) (line) false",
		"serial /dev/serial/by-id/usb-XY_gps-if00: XY gps (ttyACM1) (nmea) false",
		"serial /dev/serial/by-id/usb-u-blox_AG_-_www.u-blox.com_u-blox_7_-_GPS_GNSS_Receiver-if00: u-blox AG - www.u-blox.com u-blox 7 - GPS GNSS Receiver (ttyACM0) (nmea) false",
		"serial /dev/serial/by-path/platform-xhci-usb-0:1.1:1.0-port0: platform-xhci-usb-0:1.1:1.0-port0 (ttyUSB0) (line) false",
		"serial /dev/serial0: UART on the header (ttyAMA0) (line) false",
		"serial /dev/ttyAMA10: UART of the board (-) true",
		"serial /dev/ttyTHS1: UART of the board (line) false",
	}
	if diff := cmp.Diff(want, list); diff != "" {
		t.Error(diff)
	}

	// An offer's config works as it stands.
	for _, o := range got {
		if o.Config == "" {
			continue
		}
		c, err := config.Parse("c.toml", []byte(o.Config), config.Options{SensorTypes: map[string]func() any{"serial": Type.Options}})
		if err != nil {
			t.Fatalf("%v\n%s", err, o.Config)
		}
		if _, err := sensors.NewPoller(sensors.Options{Defaults: c.Sensors, Types: []sensors.Type{Type}, Env: sensors.Env{SysRoot: root}}); err != nil {
			t.Errorf("%v\n%s", err, o.Config)
		}
		if c.Sensors.Devices[0].Options.(*Options).Device != o.Name {
			t.Errorf("%s: %s", o.Name, o.Config)
		}
	}
}

func TestDiscoverNotes(t *testing.T) {
	if got := Type.Discover(t.Context(), sensors.Env{SysRoot: t.TempDir()}); got != nil {
		t.Errorf("a machine without ports: %+v", got)
	}
	root := lay(t, map[string]string{"dev/ttyACM0": "", "dev/serial/by-id/usb-x-if00 -> ../../ttyACM0": ""})
	if err := os.Chmod(filepath.Join(root, "dev/ttyACM0"), 0o060); err != nil {
		t.Fatal(err)
	}
	withoutPrivileges(t, func() {
		got := Type.Discover(t.Context(), sensors.Env{SysRoot: root})
		if len(got) != 1 || !strings.Contains(got[0].Note, "to the group") || got[0].Config == "" {
			t.Errorf("not permitted: %+v", got)
		}
	})
	if err := os.Chmod(filepath.Join(root, "dev/serial/by-id"), 0); err != nil {
		t.Fatal(err)
	}
	withoutPrivileges(t, func() {
		got := Type.Discover(t.Context(), sensors.Env{SysRoot: root})
		if len(got) != 1 || !strings.Contains(got[0].Note, "cannot be listed") || got[0].Config != "" {
			t.Errorf("not listed: %+v", got)
		}
	})
	if err := os.Chmod(filepath.Join(root, "dev/serial/by-id"), 0o755); err != nil {
		t.Fatal(err)
	}
}
