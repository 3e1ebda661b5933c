package health

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/pyvorin/pyvorin-edge/internal/human"
	"github.com/pyvorin/pyvorin-edge/wire"
)

const (
	maxListedAlerts = 64 // in the document
	maxNamedAlerts  = 5  // with a sentence of their own
)

// tellAlerts puts the alerts into the document and returns the sentences on
// them. They change no check: a boiler that is too hot is no fault of the
// device, and must not undo its update.
func tellAlerts(h *wire.SensorsHealth, alerts []Alert, now time.Time) (sentences []string) {
	alerts = slices.SortedFunc(slices.Values(alerts), func(a, b Alert) int {
		return cmp.Or(severity(a.Level)-severity(b.Level), a.Since.Compare(b.Since), cmp.Compare(a.Sensor, b.Sensor))
	})
	h.Alerts = []wire.Alert{} // an empty list, never null
	h.AlertsWarning, h.AlertsCritical = 0, 0
	for i, a := range alerts {
		if a.Level == wire.AlertCritical {
			h.AlertsCritical++
		} else {
			h.AlertsWarning++
		}
		if i < maxListedAlerts {
			listed := a.Alert
			listed.Since = *travelling(&listed.Since)
			h.Alerts = append(h.Alerts, listed)
		}
		if i < maxNamedAlerts {
			sentences = append(sentences, a.sentence(now))
		}
	}
	if more := len(alerts) - maxNamedAlerts; more > 0 {
		sentences = append(sentences, fmt.Sprintf("alert: and %d more; of all, %d are critical and %d warnings", more, h.AlertsCritical, h.AlertsWarning))
	}
	return sentences
}

// severity orders levels, the worst first.
func severity(l wire.AlertLevel) int {
	if l == wire.AlertCritical {
		return 0
	}
	return 1
}

// sentence says what is known of a.
func (a *Alert) sentence(now time.Time) string {
	s := fmt.Sprintf("alert: %s: %s for %s", a.Sensor, a.Level, human.Duration(now.Sub(a.Since)))
	if a.Limit != "" {
		s += fmt.Sprintf(", beyond %s (%s)", a.Limit, human.Quantity(a.LimitValue, a.Unit))
	}
	if v, known := a.Value.Float(); known {
		s += fmt.Sprintf(", %s when it began", human.Quantity(v, a.Unit))
	}
	return s
}
