//go:build man

package main

import (
	"github.com/spf13/cobra"

	"github.com/pyvorin/pyvorin-edge/internal/manpages"
)

func init() {
	addBuildVerbs = func(root *cobra.Command) { root.AddCommand(manpages.NewVerb(root)) }
}
