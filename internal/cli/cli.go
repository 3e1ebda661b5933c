// Package cli holds what the two programs' command lines share: usage errors
// and their exit code, the check of every verb's arguments, and the version
// verb.
package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pyvorin/pyvorin-edge/internal/buildinfo"
)

// Exit codes that both programs use.
const (
	ExitFailure = 1
	ExitUsage   = 2
)

// UsageError marks a command line that could not be understood.
type UsageError struct{ error }

// Unwrap returns what was wrong.
func (e UsageError) Unwrap() error { return e.error }

// Usagef returns a UsageError.
func Usagef(format string, args ...any) error { return UsageError{fmt.Errorf(format, args...)} }

// ExitCode returns the exit code for err, which is not nil.
func ExitCode(err error) int {
	var usage UsageError
	if errors.As(err, &usage) {
		return ExitUsage
	}
	return ExitFailure
}

// Prepare makes wrong flags, wrong arguments and unknown or missing verbs
// usage errors everywhere below root, and leaves the printing of errors to
// main. Call it after the last AddCommand.
func Prepare(root *cobra.Command) {
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return UsageError{err} })
	checkArgs(root)
}

func checkArgs(cmd *cobra.Command) {
	check := cmd.Args
	if check == nil {
		check = cobra.NoArgs
	}
	group := cmd.HasSubCommands() && cmd.Run == nil && cmd.RunE == nil
	cmd.Args = func(c *cobra.Command, args []string) error {
		if group && len(args) > 0 {
			return unknownVerb(c, args[0])
		}
		if err := check(c, args); err != nil {
			return Usagef("%w (see '%s --help')", err, c.CommandPath())
		}
		return nil
	}
	if group {
		cmd.RunE = func(c *cobra.Command, _ []string) error {
			return Usagef("a verb is missing (see '%s --help')", c.CommandPath())
		}
	}
	for _, sub := range cmd.Commands() {
		checkArgs(sub)
	}
}

func unknownVerb(group *cobra.Command, given string) error {
	var verbs []string
	for _, sub := range group.Commands() {
		if sub.IsAvailableCommand() {
			verbs = append(verbs, sub.Name())
		}
	}
	if meant := Nearest(given, verbs); meant != "" {
		return Usagef("unknown command %q; did you mean %s?", given, meant)
	}
	return Usagef("unknown command %q (see '%s --help')", given, group.CommandPath())
}

// Nearest names those of the names that given may have been meant to be, as "a
// or b", or returns "".
func Nearest(given string, names []string) string {
	const longest = 64 // no verb or key is longer
	if given == "" || len(given) > longest {
		return ""
	}
	// cobra compares with subcommands that can be run.
	c := &cobra.Command{SuggestionsMinimumDistance: 2}
	for _, name := range names {
		c.AddCommand(&cobra.Command{Use: name, Run: func(*cobra.Command, []string) {}})
	}
	return strings.Join(c.SuggestionsFor(given), " or ")
}

// NewVersion returns the version verb of the program called name.
func NewVersion(name string) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print which build this is",
		RunE: func(cmd *cobra.Command, _ []string) error {
			info := buildinfo.Get()
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(info)
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s %s (%s, %s, %s/%s)\n", name, info.Version, info.Commit, info.Go, info.OS, info.Arch)
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
