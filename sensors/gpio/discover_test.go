package gpio

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
)

func TestDiscover(t *testing.T) {
	k := board()
	pi := k.chips[0]
	pi.lines = nil
	for _, name := range []string{"ID_SDA", "ID_SCL", "GPIO2", "GPIO3", "GPIO4", "GPIO17", "GPIO22", "GPIO26", "GPIO27", "RGMII_MDIO", "STATUS_LED", "", "BT_ON"} {
		pi.lines = append(pi.lines, lineInfo{name: name})
	}
	pi.lines[8] = lineInfo{name: "GPIO27", used: true, consumer: "x"}
	pi.lines[7].output = true
	k.chips[2].lines = []lineInfo{{name: "17"}, {name: "a\"b"}}
	full := fakeChipOf("full", "", "A")
	full.lines[0].used = true
	first, second := fakeChipOf("twin", ""), fakeChipOf("twin", "")
	first.node.path = "/dev/gpiochip8"
	locked := fakeChipOf("locked", "/sys/devices/platform/locked.gpio", "A")
	locked.openErr = unix.EACCES
	old := fakeChipOf("old", "", "A")
	old.infoErr = unix.EINVAL
	odd := fakeChipOf("odd\nlabel", "/sys/devices/platform/odd.0", "")
	left := fakeChipOf("cp2112_gpio", "/sys/devices/usb1/1-1/1-1.2/1-1.2:1.0/0003:10C4:EA90.0001", "")
	right := fakeChipOf("cp2112_gpio", "/sys/devices/usb1/1-1/1-1.3/1-1.3:1.0/0003:10C4:EA90.0002", "")
	k.chips = append(k.chips, full, first, second, locked, old, odd, left, right)

	for _, want := range []sensors.Offer{
		{Name: "locked.gpio", Note: "permission denied"},
		{Name: old.node.path, Note: "5.10"},
		{
			Name:   "pinctrl-bcm2711",
			Detail: "13 lines, 1 in use; free: ID_SDA, ID_SCL, GPIO2, GPIO3, GPIO4, GPIO17, GPIO22, GPIO26 and 3 more",
			Config: "[[sensors.devices]]\nname = \"gpio22\"\ningest_type = \"gpio\"\nline = \"GPIO22\"\n",
		},
		{
			Name: "1-0020", Detail: "2 lines, 0 in use; free: DOOR",
			Config: "[[sensors.devices]]\nname = \"door\"\ningest_type = \"gpio\"\nline = \"DOOR\"\n",
		},
		{
			Name: "1-0021", Detail: "2 lines, 0 in use; free: 17, a\"b",
			Config: "[[sensors.devices]]\nname = \"1-0021-0\"\ningest_type = \"gpio\"\nchip = \"1-0021\"\nline = \"0\"\n",
		},
		{Name: "full", Detail: "1 lines, 1 in use", Note: "no line of it is a free input"},
		{Name: "twin", Detail: "0 lines, 0 in use", Note: "outlasts a reboot"},
		{Name: "twin", Detail: "0 lines, 0 in use", Note: "outlasts a reboot"},
		{
			Name: "odd.0", Detail: "1 lines, 0 in use",
			Config: "[[sensors.devices]]\nname = \"odd-0-0\"\ningest_type = \"gpio\"\nchip = \"odd.0\"\nline = \"0\"\n",
		},
		{
			Name: "1-1.3:1.0", Detail: "1 lines, 0 in use",
			Config: "[[sensors.devices]]\nname = \"1-1-3-1-0-0\"\ningest_type = \"gpio\"\nchip = \"1-1.3:1.0\"\nline = \"0\"\n",
		},
	} {
		t.Run(want.Name, func(t *testing.T) {
			for _, got := range discover(t.Context(), k) {
				if got.Name == want.Name {
					if got.Kind != "gpio" || got.Detail != want.Detail || got.Config != want.Config || !strings.Contains(got.Note, want.Note) || (got.Note == "") != (want.Note == "") {
						t.Errorf("%+v\nwant %+v", got, want)
					}
					return
				}
			}
			t.Error("is not offered")
		})
	}
	if n := len(discover(t.Context(), k)); n != 11 || k.opened() != 0 {
		t.Errorf("%d offers, %d chips are open", n, k.opened())
	}
}

// An offer's config works as it stands, also where the line's name does not say
// which chip.
func TestOffersWork(t *testing.T) {
	k := board()
	k.chips[0].lines[3].name = "OTHER"
	for i, o := range discover(t.Context(), k) {
		c, err := config.Parse("offer.toml", []byte(o.Config), config.Options{SensorTypes: map[string]func() any{"gpio": Type.Options}})
		if err != nil {
			t.Fatalf("%s\n%v", o.Config, err)
		}
		s, err := newSensor(c.Sensors.Devices[0], sensors.Env{}, k)
		if err != nil {
			t.Fatalf("%s\n%v", o.Config, err)
		}
		if _, err := s.Read(t.Context()); err != nil {
			t.Errorf("%s\n%v", o.Config, err)
		}
		if len(k.chips[i].wants) != 1 {
			t.Errorf("%s\nis another chip", o.Config)
		}
	}
}

func TestNothingToDiscover(t *testing.T) {
	if got := discover(t.Context(), &fakeKernel{}); len(got) != 0 {
		t.Errorf("%+v", got)
	}
	k := board()
	for _, c := range k.chips {
		c.openErr = unix.ENODEV // gone since they were listed
	}
	if got := discover(t.Context(), k); len(got) != 0 {
		t.Errorf("%+v", got)
	}
}
