package promtext

import (
	"bytes"
	"math"
	"strings"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"pgregory.net/rapid"
)

func TestWriter(t *testing.T) {
	var b bytes.Buffer
	w := NewWriter(&b)
	w.Metric(Gauge, "plain", "A \\ and a\nline.")
	w.Value(1.5)
	w.Metric(Counter, "nothing_total", "Has no value.")
	w.Metric(Counter, "labelled_total", "Has labels.")
	w.Value(1e21, "a", "x", "b", "")
	w.Value(-0.25, "a", "\"}\\\n\xff")
	w.Metric(Summary, "pause_seconds", "Has parts.")
	w.Value(math.Inf(1), "quantile", "0.5")
	w.Part("_sum", math.NaN())
	w.Part("_count", 12)
	want := `# HELP plain A \\ and a\nline.
# TYPE plain gauge
plain 1.5
# HELP labelled_total Has labels.
# TYPE labelled_total counter
labelled_total{a="x",b=""} 1e+21
labelled_total{a="\"}\\\n` + "\uFFFD" + `"} -0.25
# HELP pause_seconds Has parts.
# TYPE pause_seconds summary
pause_seconds{quantile="0.5"} +Inf
pause_seconds_sum NaN
pause_seconds_count 12
`
	if got := b.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestReadBack has Prometheus' own parser read what was written: whatever the
// help, the values and the labels are, they come back and nothing else.
func TestReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		help := rapid.String().Draw(t, "help")
		labels := rapid.SliceOfN(rapid.SliceOf(rapid.Byte()), 0, 3).Draw(t, "labels")
		value := rapid.Float64().Draw(t, "value")
		var b bytes.Buffer
		w := NewWriter(&b)
		w.Metric(Gauge, "first", help)
		var pairs []string
		for i, label := range labels {
			pairs = append(pairs, string(rune('a'+i)), string(label))
		}
		w.Value(value, pairs...)
		w.Metric(Counter, "second", "")
		w.Value(2)

		parser := expfmt.NewTextParser(model.LegacyValidation)
		families, err := parser.TextToMetricFamilies(bytes.NewReader(b.Bytes()))
		if err != nil {
			t.Fatalf("%v\n%s", err, b.Bytes())
		}
		first, second := families["first"], families["second"]
		if len(families) != 2 || len(first.GetMetric()) != 1 || len(second.GetMetric()) != 1 {
			t.Fatalf("%v", families)
		}
		// Space before the help is the format's, not the help's.
		if want := strings.TrimLeft(help, " \t"); first.GetHelp() != want {
			t.Errorf("help %q, want %q", first.GetHelp(), want)
		}
		m := first.GetMetric()[0]
		if got := m.GetGauge().GetValue(); got != value {
			t.Errorf("value %v, want %v", got, value)
		}
		if len(m.GetLabel()) != len(labels) {
			t.Fatalf("%d labels, want %d", len(m.GetLabel()), len(labels))
		}
		for i, label := range m.GetLabel() {
			if want := strings.ToValidUTF8(string(labels[i]), "\uFFFD"); label.GetName() != pairs[2*i] || label.GetValue() != want {
				t.Errorf("label %s=%q, want %s=%q", label.GetName(), label.GetValue(), pairs[2*i], want)
			}
		}
	})
}
