package main

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pyvorin/pyvorin-edge/config"
)

//go:generate env UPDATE_DOCS=1 go test -run TestConfigurationDoc .

func newConfig(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check and show config files; starts nothing",
	}
	cmd.AddCommand(newConfigCheck(a), newConfigShow(a), newConfigHash(a))
	return cmd
}

func newConfigCheck(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "check [FILE]",
		Short: "Report everything wrong with a config file",
		Long:  "Report everything wrong with a config file, with line, column and key.\nThe exit code is 78 when there is something.",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := a.configArg(args)
			c, err := a.checkConfig(path, nil)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			fmt.Fprintf(out, "%s: ok\nconfig_hash           %s\neffective_config_hash %s\n", path, c.Source.Hash, c.Source.EffectiveHash)
			for _, w := range c.Source.Warnings {
				fmt.Fprintf(out, "warning: %s\n", w)
			}
			return nil
		},
	}
}

func newConfigShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "show [FILE]",
		Short: "Print the config as it takes effect, secrets hidden",
		Long:  "Print the config as it takes effect: defaults included, references to the\nenvironment replaced and named, secrets hidden.",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.checkConfig(a.configArg(args), nil)
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), c.Redacted())
			return err
		},
	}
}

// hashes is what `config hash --json` prints.
type hashes struct {
	ConfigHash          string     `json:"config_hash"`
	EffectiveConfigHash *string    `json:"effective_config_hash"` // null where the file does not load
	Overrides           []override `json:"overrides"`
	Problems            []string   `json:"problems"` // why it does not load here
}

type override struct {
	Key      string `json:"key"`
	Variable string `json:"variable"`
}

func newConfigHash(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "hash [FILE]",
		Short: "Print the config hash, by which fleets recognise drift",
		Long:  "Print the config hash of a file as it is written. That needs none of the\nvariables and secret files it refers to; effective_config_hash, which --json\nadds, needs them all and is null without.",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := a.configArg(args)
			data, err := a.readConfig(path)
			if err != nil {
				return err
			}
			hash, err := config.Hash(path, data)
			if err != nil {
				return err
			}
			if !asJSON {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), hash)
				return err
			}
			doc := hashes{ConfigHash: hash, Overrides: []override{}, Problems: []string{}}
			if err := doc.addEffective(a, path, data); err != nil {
				return err
			}
			return json.NewEncoder(cmd.OutOrStdout()).Encode(doc)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON with both hashes and the values taken from the environment")
	return cmd
}

// addEffective adds what depends on this machine, or why it cannot be had.
func (h *hashes) addEffective(a *app, path string, data []byte) error {
	c, err := a.checkConfig(path, data)
	var bad *config.Error
	if errors.As(err, &bad) {
		for _, p := range bad.Problems {
			h.Problems = append(h.Problems, p.String())
		}
		return nil
	}
	if err != nil {
		return err
	}
	h.EffectiveConfigHash = &c.Source.EffectiveHash
	for _, o := range c.Source.Overrides {
		h.Overrides = append(h.Overrides, override(o))
	}
	return nil
}

// configArg returns the config file that a verb was given, or the usual one.
func (a *app) configArg(args []string) string {
	if len(args) > 0 {
		return args[0]
	}
	return a.configFile()
}
