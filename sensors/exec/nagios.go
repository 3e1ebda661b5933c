package exec

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// nagiosStates are what the exit status of a plugin means.
var nagiosStates = []string{"ok", "warning", "critical", "unknown"}

// perfData matches one item of performance data, label=value[UOM];warn;crit…;
// a label with spaces is quoted. U stands for a value that is not known.
var perfData = regexp.MustCompile(`(?:'((?:[^']|'')+)'|([^\s='|]+))=(U|[+-]?[0-9]*[.,]?[0-9]+(?:[eE][+-]?[0-9]+)?)([a-zA-Zµ%°]*)(?:;\S*)?(?:\s|$)`)

// parseNagios returns the state as a text, and the performance data as
// channels. The plugin's message is not taken: it is for people, and it
// repeats the values where no privacy rule would look for them.
func parseNagios(stdout []byte, status int) ([]sensors.Sample, error) {
	if status >= len(nagiosStates) {
		return nil, fmt.Errorf("exit status %d; a plugin has 0 to 3", status)
	}
	state := sensors.Sample{Value: wire.TextValue(nagiosStates[status])}
	if status == 3 {
		state.Quality, state.Reason = wire.Bad, "the plugin could not tell the state"
	}
	out := []sensors.Sample{state}
	for _, m := range perfData.FindAllStringSubmatch(performance(string(stdout)), -1) {
		// Copies, which do not keep all of the output in memory.
		name := strings.Clone(strings.ReplaceAll(m[1], "''", "'") + m[2])
		sample := sensors.Sample{Channel: name, Unit: strings.Clone(m[4])}
		f, err := strconv.ParseFloat(strings.Replace(m[3], ",", ".", 1), 64)
		sample.Value = wire.NumberValue(f)
		if m[3] == "U" || err != nil {
			sample.Value, sample.Quality, sample.Reason = wire.Value{}, wire.Bad, "the plugin gave no value"
		}
		out = append(out, sample)
	}
	return out, nil
}

// performance returns the performance data of a plugin's output: what follows
// the first | of the first line, and what follows the next | after that.
func performance(text string) string {
	first, rest, _ := strings.Cut(text, "\n")
	_, data, _ := strings.Cut(first, "|")
	_, more, _ := strings.Cut(rest, "|")
	return data + "\n" + more
}
