package command

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pyvorin/pyvorin-edge/wire"
)

var ownRollback = topics.DeviceCommand(device, wire.CommandRollback)

// cut copies a ledger as kill -9 at this instant would leave it.
func cut(t testing.TB, dir string) string {
	t.Helper()
	to := t.TempDir()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err == nil {
			err = os.WriteFile(filepath.Join(to, e.Name()), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return to
}

// A retained rollback that comes a thousand times, and again after each of 20
// restarts, acts once.
func TestRetainedRollbackActsOnce(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	payload := signed(t, rollback("nonce-1234"))
	acted := 0
	for start := range 21 {
		r := newRigIn(t, dir, c, nil)
		if !r.resume(t.Context()) {
			t.Fatal("not resumed")
		}
		n := 3
		if start == 0 {
			n = 1000
		}
		for range n {
			r.hear(t, topics.FleetCommand(wire.CommandRollback), payload)
		}
		acted += r.actions.count()
		if got := r.Stats().Refused[ReasonDuplicate]; got < uint64(n-1) {
			t.Errorf("start %d: %d duplicates", start, got)
		}
		if start == 20 {
			if got := outcomes(r.reports(t)); len(got) != 1 {
				t.Errorf("reports: %v", got)
			}
		}
		if start%2 == 0 {
			r.ledger.Close() // else it is abandoned, as by kill -9
		}
	}
	if acted != 1 {
		t.Errorf("acted %d times", acted)
	}
}

// kill -9 between the ledger's write and the act, in the middle of the act, and
// between the act and the outcome: for the ledger these are one.
func TestInterrupted(t *testing.T) {
	for _, tt := range []struct {
		name       string
		idempotent bool
		want       []string // reports after the restart
		runs       int      // after the restart
	}{
		{"idempotent", true, []string{"command nonce-1234 done"}, 1},
		{"not idempotent", false, []string{"command nonce-1234 failed"}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, c := t.TempDir(), newClock()
			var after string
			r := newRigIn(t, dir, c, func(o *Options) {
				o.Handlers = map[string]Entry{wire.CommandRollback: {
					Idempotent: tt.idempotent,
					Handler: HandlerFunc(func(context.Context, Order) (map[string]any, error) {
						after = cut(t, dir)
						return nil, nil
					}),
				}}
			})
			payload := signed(t, rollback("nonce-1234"))
			r.hear(t, ownRollback, payload)

			r = newRigIn(t, after, c, nil)
			r.entries[wire.CommandRollback].Idempotent = tt.idempotent
			r.resume(t.Context())
			r.hear(t, ownRollback, payload)
			r.resume(t.Context())
			if n := r.actions.count(); n != tt.runs {
				t.Errorf("run %d times after the restart, want %d", n, tt.runs)
			}
			if tt.runs > 0 {
				if o := r.actions.last(t); !o.Again || o.Nonce != "nonce-1234" || o.TargetVersion != "2.3.0" || !o.Signed || string(o.Envelope) != string(payload) {
					t.Errorf("%+v", o)
				}
			}
			reports := r.reports(t)
			if diff := cmp.Diff(tt.want, outcomes(reports)); diff != "" {
				t.Error(diff)
			}
			if !tt.idempotent && !strings.Contains(reports[0].Reason, "interrupted") {
				t.Errorf("reason %q", reports[0].Reason)
			}
		})
	}
}

// A command that kills the agent each time is given up.
func TestACommandThatKillsIsGivenUp(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	runs := 0
	deadly := func(dir string) (*rig, *string) {
		after := new(string)
		return newRigIn(t, dir, c, func(o *Options) {
			o.Handlers = map[string]Entry{wire.CommandRollback: {Idempotent: true, Handler: HandlerFunc(func(context.Context, Order) (map[string]any, error) {
				runs++
				*after = cut(t, dir)
				return nil, nil
			})}}
		}), after
	}
	r, after := deadly(dir)
	r.hear(t, ownRollback, signed(t, rollback("nonce-1234")))
	for range 5 {
		if *after == "" {
			break
		}
		r, after = deadly(*after)
		r.resume(t.Context())
	}
	if runs != maxRuns {
		t.Errorf("run %d times, want %d", runs, maxRuns)
	}
	if diff := cmp.Diff([]string{"command nonce-1234 failed"}, outcomes(r.reports(t))); diff != "" {
		t.Error(diff)
	}
}

func TestInterruptedConfigAndSeedJSON(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	var after string
	r := newRigIn(t, dir, c, func(o *Options) {
		o.AllowUnsigned = true
		snap := Entry{Handler: HandlerFunc(func(context.Context, Order) (map[string]any, error) { after = cut(t, dir); return nil, errors.New("x") })}
		o.Handlers = map[string]Entry{wire.CommandRollback: snap, ConfigName: snap}
	})
	again := func() Order {
		t.Helper()
		next := newRigIn(t, after, c, func(o *Options) {
			o.Group = "moved" // and by default nothing unsigned is obeyed
			for name, e := range o.Handlers {
				e.Idempotent = true
				o.Handlers[name] = e
			}
		})
		next.resume(t.Context())
		return next.actions.last(t)
	}
	r.hear(t, topics.GroupConfig(group), signedConfig(t, configPush("7", "content", today)))
	if o := again(); o.Config == nil || string(o.Config.File) != "content" || !o.Again || !o.Signed {
		t.Errorf("%+v", o)
	}
	r.hear(t, topics.GroupCommand(group, "rollback"), seedRollback("0123456789abcdef", float64(today.Unix())))
	if o := again(); o.Nonce != "0123456789abcdef" || o.TargetVersion != "2.3.0" || !o.Again || o.Signed {
		t.Errorf("%+v", o)
	}
}

func TestConfigPushes(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	r := newRigIn(t, dir, c, nil)
	a := signedConfig(t, configPush("a", "A", today.Add(-3*time.Hour)))
	b := signedConfig(t, configPush("b", "B", today.Add(-2*time.Hour)))
	back := signedConfig(t, configPush("a", "A", today.Add(-time.Hour)))
	hear := func(payloads ...[]byte) {
		t.Helper()
		for _, p := range payloads {
			r.hear(t, topics.FleetConfig(), p)
		}
	}
	took := func(want string) {
		t.Helper()
		var got strings.Builder
		for _, o := range r.actions.orders {
			got.Write(o.Config.File)
		}
		if got.String() != want {
			t.Errorf("took %q, want %q: %v", got.String(), want, r.Stats().Refused)
		}
	}
	hear(a, a, b, b, a)
	took("AB")
	r.ledger.Close()
	r = newRigIn(t, dir, c, nil)
	hear(a, b)
	r.hear(t, topics.DeviceConfig(device), b)
	took("")
	hear(back, back, a, b)
	took("A")
	if diff := cmp.Diff([]string{"config  done", "config  done", "config  done"}, outcomes(r.reports(t))); diff != "" {
		t.Error(diff)
	}
	if d := r.reports(t)[2].Detail; d["version"] != "a" || d["checksum_sha256"] == "" {
		t.Errorf("%v", d)
	}
	if n := rowsOf(t, r.ledger); n != 4 { // one config, three reports
		t.Errorf("%d rows", n)
	}

	// A push from a time to come that was taken while the clock was wrong does
	// not shut out those that come after the clock was set.
	c.set(time.Unix(12, 0), false)
	hear(signedConfig(t, configPush("z", "Z", today.AddDate(50, 0, 0))))
	took("AZ")
	c.set(today, true)
	hear(signedConfig(t, configPush("c", "C", today)))
	took("AZC")
}

func TestDesired(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	r := newRigIn(t, dir, c, nil)
	older := signed(t, update("nonce-older", today.Add(-2*time.Hour)))
	newer := signed(t, update("nonce-newer", today.Add(-time.Hour)))
	for range 3 {
		r.hear(t, topics.Desired(device), newer)
		r.hear(t, topics.Desired(device), older)
	}
	r.ledger.Close()
	again := newRigIn(t, dir, c, nil)
	again.hear(t, topics.Desired(device), older)
	again.hear(t, topics.DeviceCommand(device, "update"), newer)
	if n := r.actions.count() + again.actions.count(); n != 1 {
		t.Errorf("obeyed %d times", n)
	}
	if o := r.actions.last(t); o.Nonce != "nonce-newer" || !o.Desired || string(o.Envelope) != string(newer) {
		t.Errorf("%+v", o)
	}
	if diff := cmp.Diff([]string{"command nonce-newer accepted"}, outcomes(again.reports(t))); diff != "" {
		t.Error(diff)
	}
	if got := again.Stats().Refused; got[ReasonSuperseded] != 1 || got[ReasonDuplicate] != 1 {
		t.Errorf("%v", got)
	}
	if s := again.ledger.Stats(); !s.LastCommandAt.Equal(today) {
		t.Errorf("last command at %v", s.LastCommandAt)
	}
}

// Forgetting never makes a replay possible.
func TestForgetting(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	r := newRigIn(t, dir, c, nil)
	short := change(rollback("nonce-short"), func(c *wire.Command) { c.ExpiresAt = today.Add(time.Hour) })
	long := rollback("nonce-long") // a week
	r.hear(t, ownRollback, signed(t, short))
	r.hear(t, ownRollback, signed(t, long))

	// A clock that is wrong forgets nothing.
	c.set(today.AddDate(3, 0, 0), false)
	if err := r.ledger.maintain(); err != nil {
		t.Fatal(err)
	}
	r.hear(t, ownRollback, signed(t, change(rollback("nonce-then"), func(c *wire.Command) { c.ExpiresAt = today.AddDate(20, 0, 0) })))
	c.set(today, true)
	r.hear(t, ownRollback, signed(t, short))
	if got := r.Stats().Refused[ReasonDuplicate]; got != 1 {
		t.Errorf("%v", r.Stats().Refused)
	}

	c.set(today.Add(24*time.Hour), true)
	if err := r.ledger.maintain(); err != nil {
		t.Fatal(err)
	}
	for _, at := range []struct {
		wall         time.Time
		synchronized bool
	}{{today, true}, {time.Unix(12, 0), false}, {today.Add(24 * time.Hour), true}} {
		c.set(at.wall, at.synchronized)
		r.hear(t, ownRollback, signed(t, short))
		r.hear(t, ownRollback, signed(t, long))
	}
	if n := r.actions.count(); n != 3 {
		t.Errorf("obeyed %d times: %v", n, r.Stats().Refused)
	}
	if n := rowsOf(t, r.ledger); n != 5 { // two commands, three reports
		t.Errorf("%d rows: the short one was not forgotten", n)
	}
}

// fill runs a statement in the ledger's file.
func fill(t testing.TB, l *Ledger, statement string, args ...any) {
	t.Helper()
	if err := l.use(func(db *sql.DB) error { _, err := db.Exec(statement, args...); return err }); err != nil {
		t.Fatal(err)
	}
}

// A key holder that sends more than can be remembered cannot have anything
// obeyed twice either.
func TestRecordsAreBounded(t *testing.T) {
	c := newClock()
	l := ledgerIn(t, t.TempDir(), c)
	m := l.moment()
	of := func(i int) record {
		return record{key: fmt.Sprintf("nonce-%d", i), name: "x", issued: today, expires: today.Add(time.Duration(i) * time.Second), topic: "t"}
	}
	fill(t, l, `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < ?)
		INSERT INTO commands SELECT 'nonce-' || i, 'x', ?, ? + i*1000000, 'done', 1, 0, '', 't', 1, NULL FROM n`, maxRecords, today.UnixMicro(), today.UnixMicro())
	if err := l.begin(of(maxRecords+1), m); err != nil {
		t.Fatal(err)
	}
	if n := rowsOf(t, l); n > maxRecords {
		t.Errorf("%d rows", n)
	}
	if no, _, err := l.look(of(maxRecords), m); err != nil || no == nil || no.reason != ReasonDuplicate {
		t.Errorf("the one that expires last: %+v, %v", no, err)
	}
	for i := 1; i <= maxRecords+1; i += 64 {
		no, _, err := l.look(of(i), m)
		if err != nil || no == nil || no.tell {
			t.Fatalf("record %d can be obeyed again, or is told: %+v, %v", i, no, err)
		}
	}
	if no, _, err := l.look(of(maxRecords+2), m); err != nil || no != nil {
		t.Errorf("a new one is refused: %+v, %v", no, err)
	}
}

// destroy makes the file what no SQLite file is.
func destroy(t testing.TB, path string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(strings.Repeat("not a database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	os.Remove(path + "-wal")
	os.Remove(path + "-shm")
}

func TestDamage(t *testing.T) {
	old := change(rollback("nonce-old"), func(c *wire.Command) { c.IssuedAt = today.Add(-time.Hour) })
	obeyed := rollback("nonce-obeyed")
	young := change(rollback("nonce-young"), func(c *wire.Command) { c.IssuedAt = today.Add(time.Second) })
	for _, tt := range []struct {
		name   string
		damage func(t *testing.T, dir string)
	}{
		{"no database", func(t *testing.T, dir string) { destroy(t, filepath.Join(dir, "state.db")) }},
		{"gone", func(t *testing.T, dir string) {
			for _, s := range []string{"", "-wal", "-shm"} {
				os.Remove(filepath.Join(dir, "state.db"+s))
			}
		}},
		{"cut off", func(t *testing.T, dir string) {
			if err := os.Truncate(filepath.Join(dir, "state.db"), 3000); err != nil {
				t.Fatal(err)
			}
		}},
		{"another format", func(t *testing.T, dir string) {
			l := ledgerIn(t, dir, newClock())
			fill(t, l, "PRAGMA user_version=99")
			l.Close()
		}},
		{"no database and no mark", func(t *testing.T, dir string) {
			destroy(t, filepath.Join(dir, "state.db"))
			os.Remove(filepath.Join(dir, "state.mark"))
		}},
		{"gone, and the mark damaged", func(t *testing.T, dir string) {
			for _, s := range []string{"", "-wal", "-shm"} {
				os.Remove(filepath.Join(dir, "state.db"+s))
			}
			if err := os.WriteFile(filepath.Join(dir, "state.mark"), []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, c := t.TempDir(), newClock()
			r := newRigIn(t, dir, c, nil)
			r.hear(t, ownRollback, signed(t, obeyed))
			epoch := r.ledger.NextEpoch()
			seq := r.reports(t)[0].Seq
			r.ledger.Close()
			tt.damage(t, dir)

			for start := range 2 {
				r = newRigIn(t, dir, c, nil)
				r.hear(t, ownRollback, signed(t, old))
				r.hear(t, ownRollback, signed(t, obeyed))
				if n := r.actions.count(); n != 0 {
					t.Fatalf("start %d: obeyed what it may have obeyed before", start)
				}
				if next := r.ledger.NextEpoch(); next <= epoch {
					t.Errorf("epoch %d after %d", next, epoch)
				} else {
					epoch = next
				}
				r.ledger.Close()
			}
			r = newRigIn(t, dir, c, nil)
			r.hear(t, ownRollback, signed(t, young))
			reports := r.reports(t)
			if r.actions.count() != 1 {
				t.Errorf("a new command is not obeyed: %v", r.Stats().Refused)
			}
			want := []string{"command nonce-old refused", "command nonce-obeyed refused", "command nonce-young done"}
			if diff := cmp.Diff(want, outcomes(reports)); diff != "" {
				t.Fatal(diff)
			}
			if reports[0].Seq <= seq || !strings.HasPrefix(reports[0].Reason, string(ReasonLedgerLost)) {
				t.Errorf("after seq %d: %+v", seq, reports[0])
			}
			found, _ := filepath.Glob(filepath.Join(dir, "state.corrupt-*.db"))
			if gone := strings.HasPrefix(tt.name, "gone"); len(found) != 1 && !gone {
				t.Errorf("set aside: %v", found)
			}
		})
	}
}

// A mark that is lost alone is made again from the ledger.
func TestMarkLostAlone(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	r := newRigIn(t, dir, c, nil)
	r.hear(t, ownRollback, signed(t, rollback("nonce-1234")))
	epoch := r.ledger.NextEpoch()
	r.ledger.Close()
	for _, content := range []string{"", "{", `{"format":2}`, strings.Repeat(" ", 2*maxMarkBytes)} {
		if err := os.WriteFile(filepath.Join(dir, "state.mark"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		r = newRigIn(t, dir, c, nil)
		if next := r.ledger.NextEpoch(); next <= epoch {
			t.Errorf("epoch %d after %d", next, epoch)
		} else {
			epoch = next
		}
		r.hear(t, ownRollback, signed(t, rollback("nonce-1234")))
		if r.actions.count() != 0 || len(r.reports(t)) != 1 {
			t.Error("what was obeyed is forgotten")
		}
		r.ledger.Close()
	}
	m, err := readMark(filepath.Join(dir, "state.mark"))
	if err != nil || m.Issued != today.UnixMicro() || m.Epoch < epoch || m.Seq == 0 {
		t.Errorf("%+v, %v", m, err)
	}
}

// Damage that shows while it runs: what is under way fails, and the next finds a
// new ledger.
func TestDamageWhileRunning(t *testing.T) {
	r := newRig(t, nil)
	r.hear(t, ownRollback, signed(t, rollback("nonce-1234")))
	fill(t, r.ledger, "DROP TABLE commands")
	r.hear(t, ownRollback, signed(t, rollback("nonce-2345")))
	later := change(rollback("nonce-3456"), func(c *wire.Command) { c.IssuedAt = today.Add(time.Second) })
	r.hear(t, ownRollback, signed(t, later))
	if n := r.actions.count(); n != 2 {
		t.Errorf("obeyed %d", n)
	}
	s := r.Stats()
	if s.Refused[ReasonLedger] != 1 || s.SetAside != 1 || s.LedgerError != "" {
		t.Errorf("%+v", s)
	}
	select {
	case <-r.again:
	default:
		t.Error("what was retained is not asked for again")
	}
}

// Without a ledger nothing is obeyed, and there is still an epoch.
func TestNoLedger(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "gone")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	r := newRigIn(t, path, newClock(), nil)
	os.RemoveAll(path)
	r.hear(t, ownRollback, signed(t, rollback("nonce-1234")))
	if r.actions.count() != 0 || r.Stats().Refused[ReasonLedger] != 1 || r.Stats().LedgerError == "" {
		t.Errorf("%+v", r.Stats())
	}
	if a, b := r.ledger.NextEpoch(), r.ledger.NextEpoch(); a == 0 || b <= a {
		t.Errorf("epochs %d, %d", a, b)
	}
	if err := r.ledger.Report(wire.Report{Kind: wire.ReportDrift}); err == nil {
		t.Error("a report was kept nowhere")
	}
	if r.resume(t.Context()) {
		t.Error("resumed from nothing")
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	r.ledger.nextTry = time.Time{}
	r.hear(t, ownRollback, signed(t, rollback("nonce-1234")))
	if r.actions.count() != 1 {
		t.Errorf("%+v", r.Stats())
	}
	r.ledger.Close()
	if err := r.ledger.Report(wire.Report{}); !errors.Is(err, errClosed) {
		t.Error(err)
	}
}

// An outcome that cannot be recorded at first is recorded later.
func TestOutcomeIsRecordedLater(t *testing.T) {
	r := newRig(t, nil)
	r.entries[wire.CommandRollback].Handler = HandlerFunc(func(context.Context, Order) (map[string]any, error) {
		_, err := r.ledger.db.Exec("CREATE TRIGGER full BEFORE INSERT ON reports BEGIN SELECT RAISE(ABORT, 'full'); END")
		return nil, err
	})
	r.hear(t, ownRollback, signed(t, rollback("nonce-1234")))
	if len(r.owed) != 1 || len(r.reports(t)) != 0 {
		t.Fatalf("%d owed, %v", len(r.owed), r.reports(t))
	}
	fill(t, r.ledger, "DROP TRIGGER full")
	r.settle()
	if diff := cmp.Diff([]string{"command nonce-1234 done"}, outcomes(r.reports(t))); diff != "" || len(r.owed) != 0 {
		t.Error(diff, r.owed)
	}
}

func TestQuarantinedFilesAreFew(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	for i := range 5 {
		c.set(today.Add(time.Duration(i)*time.Second), true)
		destroy(t, filepath.Join(dir, "state.db"))
		l := ledgerIn(t, dir, c)
		if err := l.Report(wire.Report{Kind: wire.ReportDrift}); err != nil {
			t.Fatal(err)
		}
		l.Close()
	}
	if found, _ := filepath.Glob(filepath.Join(dir, "state.corrupt-*")); len(found) != keepQuarantined {
		t.Errorf("%v", found)
	}
	if info, err := os.Stat(filepath.Join(dir, "state.db")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestOutboxIsBounded(t *testing.T) {
	l := ledgerIn(t, t.TempDir(), newClock())
	text := strings.Repeat("x", 200<<10)
	add := func(kind string, n int) {
		t.Helper()
		for range n {
			if err := l.Report(wire.Report{Kind: kind, Outcome: wire.OutcomeDone, Detail: map[string]any{"x": text}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	add(wire.ReportCommand, 2)
	add(wire.ReportDrift, 3)
	add(wire.ReportHealth, 25)
	add(wire.ReportUpdate, 1)
	reports := reportsOf(t, l)
	kinds := map[string]int{}
	for _, r := range reports {
		kinds[r.Kind]++
	}
	if kinds[wire.ReportCommand] != 2 || kinds[wire.ReportUpdate] != 1 || kinds[wire.ReportDrift] != 0 || l.bytes > maxOutboxBytes {
		t.Errorf("%v, %d bytes", kinds, l.bytes)
	}
	s := l.Stats()
	if s.ReportsWaiting != len(reports) || int(s.ReportsDropped)+len(reports) != 31 || reports[len(reports)-1].Seq != 31 {
		t.Errorf("%+v with %d reports", s, len(reports))
	}

	dir := t.TempDir()
	many := ledgerIn(t, dir, newClock())
	fill(t, many, `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < ?)
		INSERT INTO reports SELECT i, 0, '{"seq":' || i || '}' FROM n`, maxReports)
	fill(t, many, "INSERT INTO meta VALUES('seq', ?)", maxReports)
	many.Close()
	many = ledgerIn(t, dir, newClock())
	if err := many.Report(wire.Report{Kind: wire.ReportDrift}); err != nil {
		t.Fatal(err)
	}
	if got := reportsOf(t, many); len(got) != maxReports || got[0].Seq != 2 || many.Stats().ReportsDropped != 1 {
		t.Errorf("%d reports, the first %d, %+v", len(got), got[0].Seq, many.Stats())
	}
	if err := many.acknowledged(maxReports); err != nil {
		t.Fatal(err)
	}
	if got := reportsOf(t, many); len(got) != 1 || many.Stats().ReportsWaiting != 1 {
		t.Errorf("%+v", got)
	}
}

func TestReportsThatCannotBeSentWhole(t *testing.T) {
	l := ledgerIn(t, t.TempDir(), newClock())
	for _, r := range []wire.Report{
		{Kind: wire.ReportDrift, Reason: "why", Detail: map[string]any{"x": strings.Repeat("x", maxReportBytes)}},
		{Kind: wire.ReportDrift, Detail: map[string]any{"x": func() {}}},
		{Kind: wire.ReportDrift, Reason: strings.Repeat("é", maxReasonBytes) + "\xff"},
	} {
		if err := l.Report(r); err != nil {
			t.Fatal(err)
		}
	}
	got := reportsOf(t, l)
	if got[0].Reason != "why; "+reportTooLarge || got[1].Reason != detailForbidden || len(got[2].Reason) > maxReasonBytes+8 {
		t.Errorf("%+v", got)
	}
}

func TestNumbersNeverGoBack(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	var epoch, seq uint64
	for range 3 {
		l := ledgerIn(t, dir, c)
		for range block + 2 {
			next := l.NextEpoch()
			if next <= epoch {
				t.Fatalf("epoch %d after %d", next, epoch)
			}
			epoch = next
		}
		for range 3 {
			if err := l.Report(wire.Report{Kind: wire.ReportDrift}); err != nil {
				t.Fatal(err)
			}
		}
		reports := reportsOf(t, l)
		if last := reports[len(reports)-1].Seq; last != seq+3 {
			t.Errorf("seq %d after %d", last, seq)
		}
		seq += 3
		if err := l.acknowledged(seq); err != nil {
			t.Fatal(err)
		}
		l.Close()
	}
}
