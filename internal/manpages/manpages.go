// Package manpages adds the verb that writes a program's man pages. It brings a
// Markdown renderer with it, which a device has no use for: the programs link it
// only when built with the tag man, as `make dist` does to write the pages.
package manpages

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/pyvorin/pyvorin-edge/internal/buildinfo"
)

// NewVerb returns the verb that writes root's man pages, for packagers.
func NewVerb(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:    "man DIR",
		Short:  "Write the man pages of every verb into DIR",
		Hidden: true, // the pages leave it out: what is shipped has no such verb
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			root.DisableAutoGenTag = true // its date is today's: the same source must give the same pages
			date := buildinfo.Time()
			header := &doc.GenManHeader{Section: "1", Date: &date, Source: root.Name() + " " + buildinfo.Version, Manual: manual(root.Name())}
			if err := doc.GenManTree(root, header, args[0]); err != nil {
				return fmt.Errorf("write man pages: %w", err)
			}
			return nil
		},
	}
}

// manual returns "Pyvorin Edge" for "pyvorin-edge".
func manual(name string) string {
	words := strings.Split(name, "-")
	for i, w := range words {
		words[i] = strings.ToUpper(w[:1]) + w[1:]
	}
	return strings.Join(words, " ")
}
