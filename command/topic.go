package command

import "strings"

// channel is what kind of message a topic carries.
type channel string

const (
	configChannel  channel = "config"
	commandChannel channel = "command"
	desiredChannel channel = "desired"
	ackChannel     channel = "ack"
)

// source is where a message came from.
type source struct {
	channel channel
	name    string // of the command
	own     bool   // the topic is this device's alone
}

// source reads a topic; false for one that this device has not subscribed to.
func (r rules) source(topic string) (source, bool) {
	t, id, group := r.topics, r.deviceID, r.group
	switch topic {
	case t.Desired(id):
		return source{desiredChannel, "", true}, true
	case t.ReportAck(id):
		return source{ackChannel, "", true}, true
	case t.DeviceConfig(id):
		return source{configChannel, "", true}, true
	case t.FleetConfig():
		return source{configChannel, "", false}, true
	}
	if group != "" && topic == t.GroupConfig(group) {
		return source{configChannel, "", false}, true
	}
	if name, ok := commandOf(topic, t.DeviceCommand(id, "")); ok {
		return source{commandChannel, name, true}, true
	}
	if name, ok := commandOf(topic, t.FleetCommand("")); ok {
		return source{commandChannel, name, false}, true
	}
	if name, ok := commandOf(topic, t.GroupCommand(group, "")); ok && group != "" {
		return source{commandChannel, name, false}, true
	}
	return source{}, false
}

func commandOf(topic, prefix string) (name string, ok bool) {
	name, ok = strings.CutPrefix(topic, prefix)
	return name, ok && name != "" && !strings.Contains(name, "/")
}
