package command

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/pyvorin/pyvorin-edge/trust"
	"github.com/pyvorin/pyvorin-edge/wire"
)

const killRounds = 8

// obeyUntilKilled is the child: it listens at a broker, and appends the nonce of
// each command to a file when it acts. What acts twice writes two lines.
func obeyUntilKilled(dir, addr string) int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	anchor, err := trust.LoadAnchor(filepath.Join(dir, "anchor.json"))
	if err != nil {
		return fail(err)
	}
	acted, err := os.OpenFile(filepath.Join(dir, "acted"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fail(err)
	}
	ledger := NewLedger(LedgerOptions{Path: filepath.Join(dir, "state.db"), Clock: newClock(), Log: zerolog.Nop()})
	defer ledger.Close()
	act := HandlerFunc(func(_ context.Context, o Order) (map[string]any, error) {
		_, err := fmt.Fprintln(acted, o.Nonce)
		return nil, err
	})
	l, err := New(Options{
		URL: "tcp://" + addr, DeviceID: device, ReconnectWindow: time.Millisecond,
		Anchor: func() *trust.Anchor { return anchor }, Health: func() wire.Health { return wire.Health{} },
		Handlers: map[string]Entry{wire.CommandRollback: {Handler: act}}, Ledger: ledger, Log: zerolog.Nop(),
	})
	if err != nil {
		return fail(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := l.Run(ctx); err != nil {
		return fail(err)
	}
	return 0
}

// Whatever the instant at which the process dies, each command acts once or not
// at all, and its one outcome says which: done means once, and failed, that it
// cannot be known.
func TestKilledAtAnyInstant(t *testing.T) {
	dir := t.TempDir()
	if err := trust.InstallAnchor(filepath.Join(dir, "anchor.json"), newAnchor(t, 1)); err != nil {
		t.Fatal(err)
	}
	b := startBroker(t, "127.0.0.1:0", nil, &access{})
	// start returns when the child has said that it is there. That is after the
	// broker has handed out what is retained; the broker itself is not made for
	// messages that are being retained meanwhile.
	start := func() *exec.Cmd {
		t.Helper()
		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), "COMMAND_TEST_DIR="+dir, "COMMAND_TEST_BROKER="+b.addr)
		cmd.Stderr = os.Stderr
		before := b.presence(t).Epoch
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait() // it was killed
		})
		eventually(t, "the child", func() bool { p := b.presence(t); return p.Online && p.Epoch > before })
		return cmd
	}
	nonces := map[string]bool{}
	for round := range killRounds {
		cmd := start()
		for i := range 20 {
			nonce := fmt.Sprintf("nonce-%d-%d", round, i)
			nonces[nonce] = true
			// All of them retained at once: the last of each name is heard again at
			// the next start.
			b.publish(t, topics.FleetCommand("rollback"), signed(t, rollback(nonce)), true)
		}
		time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond) // the random instant
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
	}
	cmd := start()
	last := fmt.Sprintf("nonce-%d-19", killRounds-1)
	outcomes := map[string]map[string]bool{}
	acked := uint64(0)
	eventually(t, "the outcome of the last", func() bool {
		for _, r := range b.reports(t) {
			if outcomes[r.Nonce] == nil {
				outcomes[r.Nonce] = map[string]bool{}
			}
			outcomes[r.Nonce][r.Outcome] = true
			if r.Seq > acked { // they come in order
				acked = r.Seq
				b.ack(t, acked)
			}
		}
		return len(outcomes[last]) > 0
	})
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}

	data, err := os.ReadFile(filepath.Join(dir, "acted"))
	if err != nil {
		t.Fatal(err)
	}
	acted := map[string]int{}
	for nonce := range strings.Lines(string(data)) {
		acted[strings.TrimSpace(nonce)]++
	}
	done, failed := 0, 0
	for nonce := range nonces {
		got := outcomes[nonce]
		switch {
		case acted[nonce] > 1:
			t.Errorf("%s acted %d times", nonce, acted[nonce])
		case len(got) > 1:
			t.Errorf("%s is both done and failed", nonce)
		case got[wire.OutcomeDone] && acted[nonce] != 1:
			t.Errorf("%s is reported as done and was not", nonce)
		case acted[nonce] == 1 && len(got) == 0:
			t.Errorf("%s acted, and nobody is told", nonce)
		}
		if got[wire.OutcomeDone] {
			done++
		}
		if got[wire.OutcomeFailed] {
			failed++
		}
	}
	t.Logf("%d commands in %d lives: %d done, %d failed, %d never heard", len(nonces), killRounds, done, failed, len(nonces)-done-failed)
	if done < killRounds {
		t.Error("that proves little")
	}
}
