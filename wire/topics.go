package wire

import "strings"

// Topics names the MQTT topics of a fleet. Down are those to devices, which
// only the controller may publish; up are a device's own, which only that device
// may.
type Topics struct{ Prefix string }

// DefaultPrefix is the prefix of a fleet that does not say otherwise.
const DefaultPrefix = "pyvorin"

// Of a config envelope; down, QoS 1, retained.
func (t Topics) FleetConfig() string { return t.Prefix + "/fleet/config/update" }
func (t Topics) GroupConfig(group string) string {
	return t.Prefix + "/group/" + group + "/config/update"
}
func (t Topics) DeviceConfig(id string) string { return t.device(id) + "/config/update" }

// Of a command envelope; down, QoS 1, those of rollback retained.
func (t Topics) FleetCommand(name string) string { return t.Prefix + "/fleet/command/" + name }
func (t Topics) GroupCommand(group, name string) string {
	return t.Prefix + "/group/" + group + "/command/" + name
}
func (t Topics) DeviceCommand(id, name string) string { return t.device(id) + "/command/" + name }

// Desired is what a device should run: an envelope with an update command;
// down, QoS 1, retained.
func (t Topics) Desired(id string) string { return t.device(id) + "/desired" }

// Presence is up, QoS 1, retained, and the last will.
func (t Topics) Presence(id string) string { return t.device(id) + "/presence" }

// Health is the /health document; up, QoS 0.
func (t Topics) Health(id string) string { return t.device(id) + "/health" }

// Report is up, QoS 1; ReportAck answers it.
func (t Topics) Report(id string) string    { return t.device(id) + "/report" }
func (t Topics) ReportAck(id string) string { return t.device(id) + "/report/ack" }

func (t Topics) device(id string) string { return t.Prefix + "/device/" + id }

// Subscriptions returns the filters of all that a device has to hear.
func (t Topics) Subscriptions(id, group string) []string {
	filters := []string{
		t.FleetConfig(), t.FleetCommand("+"),
		t.DeviceConfig(id), t.DeviceCommand(id, "+"),
		t.Desired(id), t.ReportAck(id),
	}
	if group != "" {
		filters = append(filters, t.GroupConfig(group), t.GroupCommand(group, "+"))
	}
	return filters
}

// TopicLevel reports whether s can be one level of a topic: a device id or a
// group that is none could speak for others.
func TopicLevel(s string) bool {
	return s != "" && len(s) <= 128 && !strings.ContainsAny(s, "/+#\x00") && !strings.HasPrefix(s, "$")
}
