package provision

import (
	"bytes"
	"fmt"
	"strings"
)

// maxEnvBytes bounds a file of variables.
const maxEnvBytes = 64 << 10

// ReadEnv reads variables from a file: NAME=VALUE a line, the value perhaps in
// quotes, within which everything is literal. Empty lines and those that begin
// with # say nothing. Errors name the line and never a value.
func ReadEnv(path string) (map[string]string, error) {
	data, err := readFile(path, maxEnvBytes)
	if err != nil {
		return nil, fmt.Errorf("read variables: %w", err)
	}
	return parseEnv(path, data)
}

func parseEnv(name string, data []byte) (map[string]string, error) {
	vars := map[string]string{}
	number := 0
	for line := range bytes.Lines(bytes.TrimPrefix(data, []byte("\ufeff"))) {
		number++
		text := strings.TrimSpace(string(line))
		if text == "" || text[0] == '#' {
			continue
		}
		key, value, found := strings.Cut(text, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if !found {
			return nil, fmt.Errorf("%s:%d: want NAME=VALUE", name, number)
		}
		if n := len(value); n >= 2 && (value[0] == '"' || value[0] == '\'') && value[n-1] == value[0] {
			value = value[1 : n-1]
		}
		if err := CheckVariable(key, value); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, number, err)
		}
		if _, twice := vars[key]; twice {
			return nil, fmt.Errorf("%s:%d: %s is given twice", name, number, key)
		}
		vars[key] = value
	}
	return vars, nil
}
