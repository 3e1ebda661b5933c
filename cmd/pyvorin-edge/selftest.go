package main

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/pyvorin/pyvorin-edge/agent"
	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/internal/buildinfo"
	"github.com/pyvorin/pyvorin-edge/internal/clock"
	"github.com/pyvorin/pyvorin-edge/privacy"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/sensors/all"
	"github.com/pyvorin/pyvorin-edge/syncqueue"
	"github.com/pyvorin/pyvorin-edge/wire"
)

func newSelftest(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "selftest",
		Short: "Prove that this program can take over this device",
		Long: `What the watchdog has a release do, as the agent's user, before the device is
switched to it: check the device's config and build what it asks for, look
whether the device's queue can be gone on with, keep a reading in a queue of its
own, verify a signature. That it runs at all shows that it is made for this
machine. Nothing of the device is changed, and an agent may be running.

Variables that the config refers to may be absent here: the service that runs
the agent has them.

Prints "ok VERSION". Exit code 1 with the reason when something fails, 78 when
this version does not accept the config.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			told := func(format string, args ...any) {
				fmt.Fprintf(cmd.ErrOrStderr(), "note: "+format+"\n", args...)
			}
			for _, step := range []struct {
				name string
				run  func(context.Context, note) error
			}{
				{"signatures", selftestSignatures},
				{"config", a.selftestConfig},
				{"queue of this device", a.selftestQueueFile},
				{"queue", a.selftestQueue},
			} {
				if err := step.run(cmd.Context(), told); err != nil {
					return fmt.Errorf("%s: %w", step.name, err)
				}
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "ok", buildinfo.Version)
			return err
		},
	}
}

// note tells of what could not be looked at and is no failure.
type note func(format string, args ...any)

// selftestConfig checks the device's config as this version understands it.
func (a *app) selftestConfig(_ context.Context, told note) error {
	path := a.configFile()
	content, err := a.readConfig(path)
	if errors.Is(err, fs.ErrNotExist) {
		told("%v", err)
		return nil
	}
	if err != nil {
		return err
	}
	var absent []string
	_, err = config.Parse(path, content, config.Options{
		SensorTypes: all.Options(),
		Check:       func(c *config.Config) error { return agent.CheckConfig(c, all.Types()) },
		LookupEnv: func(name string) (string, bool) {
			value, set := os.LookupEnv(name)
			if !set && !slices.Contains(absent, name) {
				absent = append(absent, name)
			}
			return value, set
		},
	})
	return forgiveAbsent(err, absent, told)
}

// forgiveAbsent returns err without the problems that come of variables that
// are not set here. Those that err does not list are left to the trial, which
// ends at once with a config that is not accepted.
func forgiveAbsent(err error, absent []string, told note) error {
	var bad *config.Error
	if !errors.As(err, &bad) || len(absent) == 0 {
		return err
	}
	left := &config.Error{Path: bad.Path}
	for _, p := range bad.Problems {
		// Of each key there is one problem: what follows from this one is not said.
		if !slices.ContainsFunc(absent, func(name string) bool {
			return strings.HasPrefix(p.Message, "the environment variable "+name+" is not set")
		}) {
			left.Problems = append(left.Problems, p)
		}
	}
	if len(left.Problems) > 0 {
		return left
	}
	slices.Sort(absent)
	told("not set here: %s", strings.Join(absent, ", "))
	return nil
}

// selftestQueueFile makes sure that this version would go on with the device's
// queue. What is damaged the agent would set aside, so it keeps no release out.
func (a *app) selftestQueueFile(_ context.Context, told note) error {
	switch err := syncqueue.CheckFormat(a.paths().Queue); {
	case err == nil, errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, syncqueue.ErrFormat):
		return err
	default:
		told("not looked at: %v", err)
		return nil
	}
}

// selftestQueue keeps a reading in a queue of its own and gets it back after
// opening that again.
func (a *app) selftestQueue(ctx context.Context, _ note) (err error) {
	dir, err := os.MkdirTemp("", "pyvorin-selftest-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	filter, err := privacy.New(config.Privacy{Enabled: true}, privacy.Options{Log: zerolog.Nop()})
	if err != nil {
		return err
	}
	const value = 21.5
	readings := filter.Clear(nil, sensors.Reading{
		Sensor: "selftest", Type: "temperature", Unit: "C", Value: wire.NumberValue(value),
		Time: time.Now().Round(0), Quality: wire.Good, Priority: config.PriorityNormal,
	})
	o := syncqueue.Options{
		Path: filepath.Join(dir, "sync_queue.db"), DeviceID: "selftest", Encoding: syncqueue.Zstd,
		Clock: clock.System(buildinfo.Time()), Log: zerolog.Nop(),
	}
	err = withQueue(ctx, o, func(q *syncqueue.Queue) error { return q.Enqueue(ctx, readings) })
	if err != nil {
		return err
	}
	return withQueue(ctx, o, func(q *syncqueue.Queue) error {
		b, ok, err := q.Lease(ctx, syncqueue.Want{})
		if err != nil {
			return err
		}
		lines, err := syncqueue.Lines(b)
		if err != nil {
			return err
		}
		if !ok || len(lines) != 1 || !strings.Contains(string(lines[0]), fmt.Sprintf(`"value":%v,`, value)) {
			return errors.New("what was queued did not come back")
		}
		return q.Ack(ctx, b)
	})
}

// withQueue opens a queue for f.
func withQueue(ctx context.Context, o syncqueue.Options, f func(*syncqueue.Queue) error) error {
	q, err := syncqueue.Open(ctx, o)
	if err != nil {
		return err
	}
	return errors.Join(f(q), q.Close(context.WithoutCancel(ctx)))
}

// The first test vector of RFC 8032 with a message, section 7.1, TEST 2.
const (
	vectorSeed      = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"
	vectorPublic    = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
	vectorMessage   = "72"
	vectorSignature = "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)

// selftestSignatures makes sure that this processor computes signatures right:
// without that nothing could be verified any more.
func selftestSignatures(context.Context, note) error {
	var seed, public, message, signature []byte
	for text, into := range map[string]*[]byte{vectorSeed: &seed, vectorPublic: &public, vectorMessage: &message, vectorSignature: &signature} {
		var err error
		if *into, err = hex.DecodeString(text); err != nil {
			return err
		}
	}
	made := ed25519.Sign(ed25519.NewKeyFromSeed(seed), message)
	if !slices.Equal(made, signature) || !ed25519.Verify(public, message, signature) || ed25519.Verify(public, nil, signature) {
		return errors.New("this program computes them wrong on this machine")
	}
	return nil
}
