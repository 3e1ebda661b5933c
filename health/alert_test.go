package health

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// alertOf is an alert of so many minutes ago.
func alertOf(sensor string, level wire.AlertLevel, minutes int) Alert {
	return Alert{Alert: wire.Alert{Sensor: sensor, Level: level, Since: now.Add(-time.Duration(minutes) * time.Minute), Limit: "warn_above"}, LimitValue: 80, Unit: "C"}
}

// Alerts say nothing of how the device is.
func TestAlertsChangeNoCheck(t *testing.T) {
	f := exampleFacts()
	before := Evaluate(f, exampleMetrics(), nil, config.Default().Health.Thresholds, now)
	f.Alerts = []Alert{alertOf("boiler", wire.AlertCritical, 1)}
	h := Evaluate(f, exampleMetrics(), nil, config.Default().Health.Thresholds, now)
	if h.Status != wire.Healthy || cmp.Diff(before.Checks, h.Checks) != "" || len(h.Warnings) != 1 || h.Sensors.AlertsCritical != 1 {
		t.Errorf("%s, %v, %q, %+v", h.Status, h.Checks, h.Warnings, h.Sensors)
	}
}

func TestAlertSentences(t *testing.T) {
	full := alertOf("boiler", wire.AlertWarning, 90)
	full.Value = wire.NumberValue(81.25)
	unlimited := full
	unlimited.Limit, unlimited.Value = "", wire.Value{}
	for want, a := range map[string]Alert{
		"alert: boiler: warning for 90 min, beyond warn_above (80 C), 81.25 C when it began": full,
		"alert: boiler: critical for 90 min, beyond warn_above (80 C)":                       alertOf("boiler", wire.AlertCritical, 90),
		"alert: boiler: warning for 90 min":                                                  unlimited,
	} {
		if got := a.sentence(now); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

// TestManyAlerts has more of them than the document takes: the critical ones
// and the oldest come first, and all are counted.
func TestManyAlerts(t *testing.T) {
	f := exampleFacts()
	for i := range 100 {
		f.Alerts = append(f.Alerts, alertOf(fmt.Sprintf("w%03d", i), wire.AlertWarning, i))
	}
	f.Alerts = append(f.Alerts, alertOf("c2", wire.AlertCritical, 1), alertOf("c1", wire.AlertCritical, 1), alertOf("c3", wire.AlertCritical, 2))
	h := Evaluate(f, exampleMetrics(), nil, config.Default().Health.Thresholds, now)
	if h.Sensors.AlertsWarning != 100 || h.Sensors.AlertsCritical != 3 || len(h.Sensors.Alerts) != maxListedAlerts {
		t.Errorf("%d warnings and %d critical, %d listed", h.Sensors.AlertsWarning, h.Sensors.AlertsCritical, len(h.Sensors.Alerts))
	}
	var names []string
	for _, a := range h.Sensors.Alerts[:5] {
		names = append(names, a.Sensor)
	}
	if got := strings.Join(names, " "); got != "c3 c1 c2 w099 w098" {
		t.Errorf("the first are %s", got)
	}
	if len(h.Warnings) != maxNamedAlerts+1 || h.Warnings[maxNamedAlerts] != "alert: and 98 more; of all, 3 are critical and 100 warnings" {
		t.Errorf("the sentences are %q", h.Warnings)
	}
}

func TestAlertsAreCountedInMetrics(t *testing.T) {
	o := testOptions(t)
	o.Source = func() Facts {
		f := exampleFacts()
		for range 2 * maxListedAlerts {
			f.Alerts = append(f.Alerts, alertOf("boiler", wire.AlertWarning, 1))
		}
		return f
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, line := range []string{`pyvorin_edge_sensor_alerts{level="warning"} 128`, `pyvorin_edge_sensor_alerts{level="critical"} 0`} {
		if !strings.Contains(w.Body.String(), "\n"+line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
}
