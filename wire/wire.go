// Package wire holds the messages that devices and controllers exchange: a
// reading as it travels, and the /health document that is also the heartbeat.
// Both sides use these types, so a change here is a change of the protocol;
// the files in testdata are its record and must not change meaning.
//
// Nothing in this package does I/O or keeps state. Decoders accept only what
// the encoders write plus unknown keys, so that newer devices can talk to
// older controllers.
package wire

import "time"

// TimeFormat is how every timestamp travels: RFC 3339 in UTC with milliseconds.
const TimeFormat = "2006-01-02T15:04:05.000Z"

// FormatTime returns t as it travels; the zero time becomes "".
func FormatTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(TimeFormat)
}
