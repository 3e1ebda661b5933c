package config

import (
	"strings"
	"testing"
)

func TestReferenceListsEveryKey(t *testing.T) {
	text := Reference(testTypes)
	for _, want := range []string{
		"## [cloud]\n\nThe durable queue and where its readings are delivered.\n",
		"| `batch_size` | whole number | `100` | Most readings in one request. From 1 to 10000. |\n",
		"| `name` | string | required | Unique name; readings carry it. |\n",
		"| `valid_min` | number |  | Below this a reading is bad. |\n",
		"| `api_key` | string | `\"\"` | Sent as Authorization: Bearer. Secret: never shown. |\n",
		"## [[sensors.devices]]\n\nThe sensors, each a table with the keys below and those of its ingest_type. At most 1024 entries.\n",
		"One of `low`, `normal`, `high`. |\n",
		"## [health.thresholds]\n",
		"## Sensors with ingest_type = \"simulator\"\n",
		"| `waveform` | string | `\"sine\"` | Shape. One of `sine`, `square`. |\n",
		"## [[sensors.devices.registers]]\n",
		"## [sensors.devices.limits]\n",
		"## [sensors.devices.points.NAME]\n",
		"## Sensors with ingest_type = \"sysfs\"\n\nIt has no keys of its own.\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing", want)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}
