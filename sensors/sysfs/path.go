package sysfs

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/sensors/internal/match"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// fileSensor reads numbers from a file of the user's choice.
type fileSensor struct {
	path  string
	regex *regexp.Regexp
}

func newFileSensor(root string, o Options) (*fileSensor, error) {
	switch {
	case o.Chip != "" || o.Channel != "":
		return nil, config.Problemf("bus", `chip and channel do not go with "path"; remove them`)
	case !strings.HasPrefix(o.Path, "/"):
		return nil, config.Problemf("path", `must be the absolute name of a file for bus = "path"`)
	}
	re, err := regexp.Compile(cmp.Or(o.Regex, `(?s).*`)) // without one, all of the file is the number
	if err != nil {
		return nil, config.Problemf("regex", "%v", err)
	}
	return &fileSensor{path: filepath.Join(root, o.Path), regex: re}, nil
}

func (s *fileSensor) Read(context.Context) ([]sensors.Sample, error) {
	text, err := readText(s.path)
	if err != nil {
		return nil, err
	}
	samples, err := match.Samples(s.regex, text, func(text string) (wire.Value, error) {
		f, err := parseNumber(strings.TrimSpace(text))
		return wire.NumberValue(f), err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.path, err)
	}
	return samples, nil
}
