package provision

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pyvorin/pyvorin-edge/config"
)

// Template is a config with references to variables; see Render.
type Template struct {
	Name string // of its file; ends in .json when it is JSON
	Text []byte
}

// settleConfig decides which config the device gets. There are three to compare:
// what is installed, what would be now, and what provisioning wrote last. What
// somebody changed in between, a person or the fleet, stays.
func (p *plan) settleConfig() error {
	installed, err := p.conf.read(p.confName, maxRenderedBytes)
	absent := errors.Is(err, fs.ErrNotExist)
	if err != nil && !absent && !p.o.Force.Config {
		return fmt.Errorf("read %s: %w", p.confName, err)
	}
	force := p.o.Force.Config || absent
	from := p.o.Template
	imports := p.drop != nil && (force || p.drop.hash != p.was.Config.Import)
	if imports {
		from = &Template{Name: p.drop.path(), Text: p.drop.text}
	}
	if from == nil {
		if absent {
			return fmt.Errorf("there is no config, and none to install: give --template FILE, or put a %s on the boot partition", DropFile)
		}
		p.step(Step{File: p.confName, Outcome: Kept}, nil)
		return nil
	}
	if isJSON(from.Name) != isJSON(p.confName) {
		return fmt.Errorf("%s would have to become %s: one is JSON, the other TOML; remove the old one, or write the new one like it", from.Name, p.confName)
	}
	vars := map[string]string{DeviceIDVariable: p.id}
	for name, value := range p.o.Vars {
		if err := CheckVariable(name, value); err != nil {
			return err
		}
		vars[name] = value
	}
	content, used, err := Render(from.Name, from.Text, vars)
	if err != nil {
		return err
	}
	hash, now := hashOf(content), hashOf(installed)
	switch {
	case imports:
		p.now.Config.Import = p.drop.hash
		if p.o.Template != nil {
			// Passed over now, so it is nothing new the next time.
			if other, _, err := Render(p.o.Template.Name, p.o.Template.Text, vars); err == nil {
				p.now.Config.Template = hashOf(other)
			}
			p.warn("%s was not used: there is a %s", p.o.Template.Name, p.drop.path())
		}
	case hash == p.was.Config.Template && hash != now && !force:
		p.step(Step{File: p.confName, Outcome: Kept, Detail: "changed since it was provisioned"}, nil)
		return nil
	default:
		p.now.Config.Template = hash
	}
	for name := range p.o.Vars {
		if !slices.Contains(used, name) {
			p.unused = append(p.unused, name)
		}
	}
	if hash != now || absent {
		if !force && now != p.was.Config.Written {
			return fmt.Errorf("%s was changed since it was provisioned, or not provisioned at all, and %s would replace it; nothing was changed: --force=config does, and loses what is there", p.confName, from.Name)
		}
		if err := p.check(from.Name, content); err != nil {
			return err
		}
	}
	p.now.Config.Written = hash
	p.write(file{in: p.conf, name: p.confName, data: content, perm: 0o640, owner: p.agent}, "from "+from.Name)
	return nil
}

func isJSON(name string) bool { return strings.EqualFold(filepath.Ext(name), ".json") }

// check has the agent's own loader look at a rendered config. Its problems are
// told as those of the source, whose lines are the same, and without values.
func (p *plan) check(name string, content []byte) error {
	warnings, err := p.o.Check(p.o.Config, content)
	p.report.Warnings = append(p.report.Warnings, warnings...)
	var bad *config.Error
	if !errors.As(err, &bad) {
		return err
	}
	told := &config.Error{Path: name, Omitted: bad.Omitted}
	for _, problem := range bad.Problems {
		problem.Path = name
		problem.Message = p.hideValues(problem.Message)
		told.Problems = append(told.Problems, problem)
	}
	return told
}

// hideValues takes values that were put in out of a message. Very short ones
// are no secrets, and would make a riddle of it.
func (p *plan) hideValues(message string) string {
	const least = 6
	for name, value := range p.o.Vars {
		if len(value) >= least {
			message = strings.ReplaceAll(message, value, "${"+name+"}")
		}
	}
	return message
}
