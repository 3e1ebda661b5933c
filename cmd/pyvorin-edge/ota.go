package main

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/spf13/cobra"

	"github.com/pyvorin/pyvorin-edge/internal/cli"
	"github.com/pyvorin/pyvorin-edge/ota"
)

func newOTA(a *app) *cobra.Command {
	u := &updates{app: a, pace: usualPace}
	cmd := &cobra.Command{
		Use:   "ota",
		Short: "Look after the updates of this device",
		Long: `Look after the updates of this device: what runs, what is kept to go back to,
what is on trial, what became of the attempts before.

Nothing here changes what runs. These verbs read what the watchdog wrote down,
with or without an agent running, and ask it: it verifies everything again, and
judges.`,
	}
	cmd.PersistentFlags().StringVar(&u.component, "component", ota.AgentComponent, "which of the device's components: the agent, or an application")
	cmd.AddCommand(newOTAStatus(u), newOTAHistory(u), newOTAVerify(u), newOTAInstall(u), newOTARollback(u))
	return cmd
}

// updates is what the ota verbs share.
type updates struct {
	*app
	component string
	pace      pace
}

// home is where requests, the trust anchor and the device id are.
func (u *updates) home() ota.Layout { return ota.Layout{Base: u.paths().Base} }

// layout is where the component's slots and state are.
func (u *updates) layout() (ota.Layout, error) {
	if u.component == ota.AgentComponent {
		return u.home(), nil
	}
	components, err := ota.ReadComponents(u.home())
	if err != nil {
		return ota.Layout{}, err
	}
	i := slices.IndexFunc(components, func(c ota.Component) bool { return c.Name == u.component })
	if i < 0 {
		names := []string{ota.AgentComponent}
		for _, c := range components {
			names = append(names, c.Name)
		}
		return ota.Layout{}, cli.Usagef("there is no component %q on this device; there are: %q", u.component, names)
	}
	return ota.Layout{Base: components[i].Root}, nil
}

// state returns the component's state, nil where there was never a watchdog.
func (u *updates) state() (*ota.State, error) {
	l, err := u.layout()
	if err != nil {
		return nil, err
	}
	s, err := ota.ReadState(l)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case errors.Is(err, ota.ErrNoState):
		return nil, fmt.Errorf("read %s: %w (the watchdog makes it anew from the slots when it runs next)", l.State(), err)
	case err != nil:
		return nil, fmt.Errorf("read update state: %w", err)
	}
	return s, nil
}

// errNoSlots says that nothing can be updated here, and how it could.
var errNoSlots = errors.New("there are no slots in this base dir, so nothing here is updated: start the agent with 'pyvorin-edge supervise', or install the package (another base dir? see --base-dir)")

// releaseText names a release and where it is.
func releaseText(r ota.Release) string {
	if r.Seed {
		return fmt.Sprintf("%s in slot %s (as the package brought it)", r.Version, r.Slot)
	}
	return fmt.Sprintf("%s in slot %s (counter %d)", r.Version, r.Slot, r.Counter)
}
