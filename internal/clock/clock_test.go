package clock

import (
	"testing"
	"time"
)

func TestSystemClock(t *testing.T) {
	now := time.Now()
	st := System(now.Add(-time.Hour)).State()
	if !st.Set {
		t.Error("a clock past the floor counts as not set")
	}
	if up := time.Duration(now.UnixNano()) - st.Offset; up < 0 || up > 10*365*24*time.Hour {
		t.Errorf("the offset says that the machine has been up for %v", up)
	}
	if st.BootID == "" || st.BootID != System(now).State().BootID {
		t.Errorf("boot id %q is empty or changes", st.BootID)
	}
	if System(now.Add(time.Hour)).State().Set {
		t.Error("a clock before the floor counts as set")
	}
}
