// Package promtext writes metrics the way Prometheus reads them: in its text
// format, version 0.0.4.
//
// Prometheus' own client library does the same and far more, and brings
// protocol buffers along, which made an eighth of the agent's binary. A device
// writes one document of a hundred lines (docs/decisions/0008).
//
// Names of metrics and labels are the source's own and are written as they
// are. Values of labels come from configs and devices: whatever they hold, none
// ends its line, adds another or makes the document unreadable.
package promtext

import (
	"bytes"
	"strconv"
	"strings"
)

// ContentType is the media type of what a Writer writes.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// Kind says how the values of a metric are to be read.
type Kind string

const (
	Gauge   Kind = "gauge"   // goes up and down
	Counter Kind = "counter" // goes up only, and from 0 when the process starts
	Summary Kind = "summary" // quantiles, with a sum and a count
)

var (
	helpEscaper  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	labelEscaper = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

// Writer writes metrics one after the other.
type Writer struct {
	b      *bytes.Buffer
	name   string
	header string // of the metric, until its first value is there
}

// NewWriter returns a Writer that appends to b.
func NewWriter(b *bytes.Buffer) *Writer { return &Writer{b: b} }

// Metric begins a metric, whose values follow. Without any it leaves no trace.
func (w *Writer) Metric(kind Kind, name, help string) {
	w.name = name
	w.header = "# HELP " + name + " " + helpEscaper.Replace(help) + "\n# TYPE " + name + " " + string(kind) + "\n"
}

// Value writes a value of the metric. Labels are names and values by turns.
func (w *Writer) Value(v float64, labels ...string) { w.Part("", v, labels...) }

// Part writes a value under the metric's name and suffix, such as the "_sum" of
// a summary.
func (w *Writer) Part(suffix string, v float64, labels ...string) {
	w.b.WriteString(w.header)
	w.header = ""
	w.b.WriteString(w.name)
	w.b.WriteString(suffix)
	for i := 0; i < len(labels); i += 2 {
		separator := byte(',')
		if i == 0 {
			separator = '{'
		}
		w.b.WriteByte(separator)
		w.b.WriteString(labels[i])
		w.b.WriteString(`="`)
		w.b.WriteString(labelEscaper.Replace(strings.ToValidUTF8(labels[i+1], "\uFFFD")))
		w.b.WriteByte('"')
	}
	if len(labels) > 0 {
		w.b.WriteByte('}')
	}
	w.b.WriteByte(' ')
	w.b.Write(strconv.AppendFloat(w.b.AvailableBuffer(), v, 'g', -1, 64))
	w.b.WriteByte('\n')
}
