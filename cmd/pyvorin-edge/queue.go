package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/pyvorin/pyvorin-edge/internal/atomicfile"
	"github.com/pyvorin/pyvorin-edge/internal/buildinfo"
	"github.com/pyvorin/pyvorin-edge/internal/cli"
	"github.com/pyvorin/pyvorin-edge/internal/clock"
	"github.com/pyvorin/pyvorin-edge/internal/human"
	"github.com/pyvorin/pyvorin-edge/syncqueue"
	"github.com/pyvorin/pyvorin-edge/wire"
)

func newQueue(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "queue",
		Short: "Look after the readings that wait for delivery",
		Long: `Look after the readings that wait for delivery. With an agent running in this
base dir its own view is shown; otherwise the queue file is opened directly.`,
	}
	cmd.AddCommand(newQueueStats(a), newQueuePeek(a), newQueueFlush(a), newQueueDead(a), newQueueExport(a))
	return cmd
}

func newQueueStats(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "Say how much waits, since when, and what was lost",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var stats syncqueue.Stats
			err := a.askAgent(cmd.Context(), http.MethodGet, "/api/queue/stats", decodeInto(&stats))
			if errors.Is(err, errNoAgent) {
				err = a.readQueue(func(r *syncqueue.Reader) (err error) {
					stats, err = r.Stats(cmd.Context())
					return err
				})
			}
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(stats)
			}
			return printStats(cmd.OutOrStdout(), stats, time.Now())
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newQueuePeek(a *app) *cobra.Command {
	n := 10
	cmd := &cobra.Command{
		Use:   "peek",
		Short: "Print the oldest waiting readings, one a line",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if n < 1 || n > 1000 {
				return cli.Usagef("-n must be from 1 to 1000")
			}
			return a.exportQueue(cmd, cmd.OutOrStdout(), "/api/queue/peek?n="+strconv.Itoa(n), n)
		},
	}
	cmd.Flags().IntVarP(&n, "number", "n", n, "how many")
	return cmd
}

func newQueueExport(a *app) *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Print all waiting readings, one a line (NDJSON); they stay queued",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if out == "" || out == "-" {
				return a.exportQueue(cmd, cmd.OutOrStdout(), "/api/queue/export", 0)
			}
			return exportToFile(out, func(w io.Writer) error {
				return a.exportQueue(cmd, w, "/api/queue/export", 0)
			})
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "file to write instead of standard output")
	return cmd
}

func newQueueFlush(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "flush",
		Short: "Have the running agent deliver what waits, now",
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := a.askAgent(cmd.Context(), http.MethodPost, "/api/queue/flush", func(io.Reader) error { return nil })
			if errors.Is(err, errNoAgent) {
				return errors.New("no agent runs in this base dir, and only an agent delivers: start it with 'pyvorin-edge run'")
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "delivered")
			return err
		},
	}
}

func newQueueDead(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "dead", Short: "Readings that the receiver refused"}
	var asJSON bool
	list := &cobra.Command{
		Use:   "list",
		Short: "Print the refused readings and why, the oldest first; --json has them whole",
		RunE: func(cmd *cobra.Command, _ []string) error {
			const limit = 10_000
			var dead []syncqueue.DeadLetter
			err := a.askAgent(cmd.Context(), http.MethodGet, "/api/queue/dead?limit="+strconv.Itoa(limit), decodeInto(&dead))
			if errors.Is(err, errNoAgent) {
				err = a.readQueue(func(r *syncqueue.Reader) (err error) {
					dead, err = r.DeadList(cmd.Context(), limit)
					return err
				})
			}
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(dead)
			}
			return printDead(cmd.OutOrStdout(), dead)
		},
	}
	list.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	retry := &cobra.Command{
		Use:   "retry [SEQ...]",
		Short: "Queue refused readings again: those named, or all",
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			seqs := make([]uint64, len(args))
			query := url.Values{}
			for i, arg := range args {
				var err error
				if seqs[i], err = strconv.ParseUint(arg, 10, 63); err != nil {
					return cli.Usagef("%q is not a sequence number (see 'queue dead list')", arg)
				}
				query.Add("seq", arg)
			}
			var answer struct{ Retried int }
			err := a.askAgent(cmd.Context(), http.MethodPost, "/api/queue/dead/retry?"+query.Encode(), decodeInto(&answer))
			if errors.Is(err, errNoAgent) {
				answer.Retried, err = a.retryDirectly(cmd.Context(), seqs)
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d queued again\n", answer.Retried)
			return err
		},
	}
	cmd.AddCommand(list, retry)
	return cmd
}

// queuePath returns the queue file of this base dir.
func (a *app) queuePath() string { return a.paths().Queue }

// askAgent makes a request to the running agent and hands its answer to read.
// The error is errNoAgent when none runs.
func (a *app) askAgent(ctx context.Context, method, path string, read func(io.Reader) error) error {
	resp, err := a.callAgent(ctx, method, path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 2000))
		reason := human.Plain(strings.TrimSpace(string(text)))
		if resp.StatusCode >= http.StatusInternalServerError && reason != "" {
			return errors.New(reason) // what the verb itself would have met
		}
		return fmt.Errorf("the agent answered %s: %s", resp.Status, reason)
	}
	if err := read(resp.Body); err != nil {
		return fmt.Errorf("read the agent's answer: %w", err)
	}
	return nil
}

func decodeInto(v any) func(io.Reader) error {
	return func(r io.Reader) error { return json.NewDecoder(r).Decode(v) }
}

// readQueue lets read look into the queue file.
func (a *app) readQueue(read func(*syncqueue.Reader) error) error {
	r, err := syncqueue.OpenReader(a.queuePath())
	if err != nil {
		return err
	}
	return errors.Join(read(r), r.Close())
}

// exportQueue writes up to limit readings to out, from the agent's path or
// from the file.
func (a *app) exportQueue(cmd *cobra.Command, out io.Writer, path string, limit int) error {
	err := a.askAgent(cmd.Context(), http.MethodGet, path, func(r io.Reader) error {
		_, err := io.Copy(out, r)
		return err
	})
	if !errors.Is(err, errNoAgent) {
		return err
	}
	return a.readQueue(func(r *syncqueue.Reader) error {
		skipped, err := r.Export(cmd.Context(), out, limit)
		if err == nil && skipped > 0 {
			err = fmt.Errorf("%d damaged rows were left out: the agent sets the file aside when it starts", skipped)
		}
		return err
	})
}

// exportToFile replaces path by what write writes, once it is whole.
func exportToFile(path string, write func(io.Writer) error) (err error) {
	temp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".tmp-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(temp.Name())
		}
	}()
	err = write(temp)
	if err == nil {
		err = temp.Sync()
	}
	if err = errors.Join(err, temp.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp.Name(), path); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(path))
}

// retryDirectly does what the agent would do, while none runs.
func (a *app) retryDirectly(ctx context.Context, seqs []uint64) (n int, err error) {
	info, err := os.Stat(a.queuePath())
	if errors.Is(err, os.ErrNotExist) {
		return 0, fmt.Errorf("there is no queue in %s", a.baseDir)
	}
	if err != nil {
		return 0, err
	}
	// Files that root makes beside the queue would lock the agent out of it.
	if owner := info.Sys().(*syscall.Stat_t).Uid; int(owner) != os.Geteuid() {
		return 0, fmt.Errorf("the queue belongs to user %d: run this as that user (sudo -u '#%d' …), or while the agent runs", owner, owner)
	}
	id, err := a.paths().ReadDeviceID()
	if err != nil {
		return 0, err
	}
	q, err := syncqueue.Open(ctx, syncqueue.Options{
		Path: a.queuePath(), DeviceID: id, Encoding: syncqueue.Zstd,
		MaxBytes: math.MaxInt64, // the agent's config decides what to evict
		Clock:    clock.System(buildinfo.Time()), Log: zerolog.Nop(),
	})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, q.Close(context.WithoutCancel(ctx))) }()
	return q.DeadRetry(ctx, seqs...)
}

func printStats(out io.Writer, s syncqueue.Stats, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "waiting\t%d readings, %s\n", s.Depth, human.Bytes(s.Bytes))
	fmt.Fprintf(w, "oldest\t%s\n", human.Ago(s.OldestAt, now))
	fmt.Fprintf(w, "last delivery\t%s\n", human.Ago(s.LastAckAt, now))
	fmt.Fprintf(w, "sent today\t%d\n", s.SentToday)
	fmt.Fprintf(w, "retries\t%d\n", s.Retries)
	fmt.Fprintf(w, "dead letters\t%d (%d given up)\n", s.DeadLetters, s.DeadEvicted)
	fmt.Fprintf(w, "evicted\t%d\n", s.Evicted)
	if s.Salvaged+s.LostRows > 0 {
		fmt.Fprintf(w, "damage\t%d readings salvaged, %d lost\n", s.Salvaged, s.LostRows)
	}
	fmt.Fprintf(w, "fault\t%s\n", cmp.Or(s.Fault, "none"))
	return w.Flush()
}

func printDead(out io.Writer, dead []syncqueue.DeadLetter) error {
	if len(dead) == 0 {
		_, err := fmt.Fprintln(out, "no dead letters")
		return err
	}
	cell := cellFor(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SEQ\tSENSOR\tVALUE\tTIME\tREFUSED\tSTATUS\tREASON")
	for _, d := range dead {
		sensor, value, taken := "-", "-", "-" // what cannot be read is still told of
		var r wire.Reading
		if json.Unmarshal(d.Line, &r) == nil {
			sensor, taken = cell(r.Sensor), localTime(r.Timestamp)
			value = cell(strings.TrimSpace(valueText(r.Value) + " " + r.Unit))
		}
		status := "-"
		if d.Status != 0 {
			status = strconv.Itoa(d.Status)
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%s\n", d.Seq, sensor, value, taken, localTime(d.At), status, human.Plain(d.Reason))
	}
	return w.Flush()
}

func localTime(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05Z07:00") }
