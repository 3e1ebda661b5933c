package mqtt

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/sensors/internal/jsonpath"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// maxTopicBytes bounds a topic, which travels with each reading.
const maxTopicBytes = 256

// decoder makes samples of messages.
type decoder struct {
	spec                    jsonpath.Spec // zero: the message is the value
	trueValues, falseValues []string
	wholeTopic              bool
	level                   int // of the topic; 0 is none, below 0 counts from the end
	ignoreRetained          bool
	maxTextBytes            int // 0 is no limit
}

// decode returns the samples of one message that arrived at now. A message
// that cannot be understood is a bad sample. It never panics: it runs on a
// goroutine of the MQTT library, where a panic would end the agent.
func (d decoder) decode(topic string, payload []byte, retained bool, now time.Time) (samples []sensors.Sample) {
	if retained && d.ignoreRetained {
		return nil
	}
	defer func() {
		if recover() != nil {
			samples = []sensors.Sample{badSample("internal error: the message cannot be decoded")}
		}
		d.complete(samples, topic, retained, now)
	}()
	channel, err := d.channel(topic)
	if err != nil {
		return []sensors.Sample{badSample(err.Error())}
	}
	if samples, err = d.values(payload); err != nil {
		samples = []sensors.Sample{badSample(err.Error())}
	}
	for i := range samples {
		samples[i].Channel = join(channel, samples[i].Channel)
	}
	return samples
}

// complete adds to samples what does not depend on the message's content.
func (d decoder) complete(samples []sensors.Sample, topic string, retained bool, now time.Time) {
	topic = jsonpath.Clip(strings.ToValidUTF8(topic, "\uFFFD"), maxTopicBytes)
	for i := range samples {
		s := &samples[i]
		if s.Meta == nil {
			s.Meta = make(map[string]wire.Value, 1)
		}
		s.Meta["topic"] = wire.TextValue(topic)
		if s.Time.IsZero() {
			s.Time = now
			if retained && s.Quality == "" {
				s.Quality, s.Reason = wire.Uncertain, "retained by the broker: published at an unknown earlier time"
			}
		}
		// What is cut here would be cut by the poller anyway, but not before a
		// thousand of them filled the memory. One character more than allowed
		// lets it see that something is missing.
		if text, ok := s.Value.Text(); ok && d.maxTextBytes > 0 {
			s.Value = wire.TextValue(jsonpath.Clip(text, d.maxTextBytes+utf8.UTFMax))
		}
	}
}

func (d decoder) channel(topic string) (string, error) {
	if len(topic) > maxTopicBytes {
		return "", fmt.Errorf("topic is longer than %d bytes", maxTopicBytes)
	}
	if d.wholeTopic {
		return topic, nil
	}
	if d.level == 0 {
		return "", nil
	}
	levels := strings.Split(topic, "/")
	i := d.level - 1
	if d.level < 0 {
		i = len(levels) + d.level
	}
	if i < 0 || i >= len(levels) || levels[i] == "" {
		return "", fmt.Errorf("topic has no level %d; see channel_from", d.level)
	}
	return levels[i], nil
}

func join(channel, field string) string {
	if channel != "" && field != "" {
		return channel + "." + field
	}
	return channel + field
}

func (d decoder) values(payload []byte) ([]sensors.Sample, error) {
	if !d.spec.IsZero() {
		return d.spec.Samples(payload)
	}
	text := string(bytes.TrimSpace(payload)) // a copy without the space around it
	equal := func(other string) bool { return strings.EqualFold(text, other) }
	var value wire.Value
	switch number, err := strconv.ParseFloat(text, 64); {
	case text == "":
		return nil, errors.New("empty message")
	case !utf8.ValidString(text):
		return nil, errors.New("message is neither a number nor a text")
	case slices.ContainsFunc(d.trueValues, equal):
		value = wire.BoolValue(true)
	case slices.ContainsFunc(d.falseValues, equal):
		value = wire.BoolValue(false)
	case err == nil:
		if value = wire.NumberValue(number); value.Kind() == wire.None {
			return nil, errors.New("message is not a finite number")
		}
	default:
		value = wire.TextValue(text)
	}
	return []sensors.Sample{{Value: value}}, nil
}

func badSample(reason string) sensors.Sample {
	return sensors.Sample{Quality: wire.Bad, Reason: reason}
}
