package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/pyvorin/pyvorin-edge/internal/cli"
	"github.com/pyvorin/pyvorin-edge/internal/human"
	"github.com/pyvorin/pyvorin-edge/ota"
)

func newOTAHistory(u *updates) *cobra.Command {
	var asJSON bool
	var limit int
	cmd := &cobra.Command{
		Use:   "history",
		Short: "Print what became of every attempt, the newest last",
		Long: `Print what became of every attempt to change what runs, the newest last.

With --json, an array of {id, at, action, outcome, from, to, reason, remedy,
nonce, rollout_id, seconds}, without those that do not apply: action is install,
rollback, rescue (back from a crash loop after the commit) or repair; outcome is
committed, rolled_back, refused or repaired. remedy says what can be done about
a refusal: bring the full bundle, bring it again, or ask later. nonce and
rollout_id are those of the command behind it, and seconds are those from the
request to the outcome.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 0 {
				return cli.Usagef("--limit must not be negative")
			}
			l, err := u.layout()
			if err != nil {
				return err
			}
			history, err := ota.ReadHistory(l)
			if err != nil {
				return fmt.Errorf("read update history: %w", err)
			}
			if over := len(history) - limit; limit > 0 && over > 0 {
				history = history[over:]
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(append([]ota.Outcome{}, history...))
			}
			return printHistory(cmd.OutOrStdout(), history)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().IntVar(&limit, "limit", 0, "print only so many, the newest; 0 is all")
	return cmd
}

func printHistory(out io.Writer, history []ota.Outcome) error {
	if len(history) == 0 {
		_, err := fmt.Fprintln(out, "nothing was updated yet")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TIME\tACTION\tFROM\tTO\tOUTCOME\tTOOK\tREASON")
	for _, o := range history {
		took := "-"
		if o.Seconds > 0 {
			took = human.Duration(time.Duration(o.Seconds * float64(time.Second)))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", localTime(o.At), o.Action, dash(o.From), dash(o.To), o.Result, took, human.Plain(o.Reason))
	}
	return w.Flush()
}
