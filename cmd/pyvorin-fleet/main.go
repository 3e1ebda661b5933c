// Command pyvorin-fleet is the controller of a fleet, and the operator's tools.
// Its verbs are one file each.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/pyvorin/pyvorin-edge/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal finds the default action again and ends the process at once.
	context.AfterFunc(ctx, stop)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "pyvorin-fleet:", err)
		os.Exit(cli.ExitCode(err))
	}
}
