package wire

import (
	"strconv"
	"strings"
	"testing"
)

func TestValidDeviceID(t *testing.T) {
	longest := strings.Repeat("d", MaxDeviceIDBytes)
	for _, good := range []string{"FLEET-0123456789ab", "a", "7", "pi_4.kitchen-2", longest} {
		if !ValidDeviceID(good) {
			t.Errorf("%q is refused", good)
		}
	}
	for _, bad := range []string{"", "-a", ".a", "_a", "a b", "a/b", "a+", "#", "a\n", "ä", "a\x00", "a:1", "$SYS", longest + "d"} {
		if ValidDeviceID(bad) {
			t.Errorf("%q is accepted", bad)
		}
	}
	if !strings.Contains(DeviceIDForm, strconv.Itoa(MaxDeviceIDBytes)) {
		t.Errorf("DeviceIDForm does not say %d", MaxDeviceIDBytes)
	}
}
