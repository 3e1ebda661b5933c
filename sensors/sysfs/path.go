package sysfs

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// fileSensor reads a number from a file of the user's choice.
type fileSensor struct {
	path  string
	regex *regexp.Regexp // nil: the file holds nothing else
}

func newFileSensor(root string, o Options) (*fileSensor, error) {
	switch {
	case o.Chip != "" || o.Channel != "":
		return nil, config.Problemf("bus", `chip and channel do not go with "path"; remove them`)
	case !strings.HasPrefix(o.Path, "/"):
		return nil, config.Problemf("path", `must be the absolute name of a file for bus = "path"`)
	}
	s := &fileSensor{path: filepath.Join(root, o.Path)}
	if o.Regex != "" {
		re, err := regexp.Compile(o.Regex)
		if err != nil {
			return nil, config.Problemf("regex", "%v", err)
		}
		s.regex = re
	}
	return s, nil
}

func (s *fileSensor) Read(context.Context) ([]sensors.Sample, error) {
	text, err := readText(s.path)
	if err != nil {
		return nil, err
	}
	if s.regex != nil {
		m := s.regex.FindStringSubmatch(text)
		if m == nil {
			return nil, fmt.Errorf("%s: regex does not match", s.path)
		}
		text = strings.TrimSpace(m[min(1, len(m)-1)])
	}
	f, err := parseNumber(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.path, err)
	}
	return []sensors.Sample{{Value: wire.NumberValue(f)}}, nil
}
