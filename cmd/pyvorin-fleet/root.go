package main

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"github.com/pyvorin/pyvorin-edge/internal/buildinfo"
	"github.com/pyvorin/pyvorin-edge/internal/cli"
)

func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) error {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	return root.ExecuteContext(ctx)
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:     "pyvorin-fleet",
		Short:   "Looks after a fleet of devices: takes their readings and shows how they are",
		Version: buildinfo.Version,
	}
	root.AddCommand(
		newServe(),
		newKeygen(),
		newAnchor(),
		newBundle(),
		newSign(),
		cli.NewVersion("pyvorin-fleet"),
	)
	addBuildVerbs(root)
	cli.Prepare(root)
	return root
}

// addBuildVerbs adds what only some builds have; see man.go.
var addBuildVerbs = func(*cobra.Command) {}
