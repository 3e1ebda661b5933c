package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/internal/buildinfo"
	"github.com/pyvorin/pyvorin-edge/internal/clock"
	"github.com/pyvorin/pyvorin-edge/internal/human"
	"github.com/pyvorin/pyvorin-edge/internal/pemfile"
	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/privacy"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// finding is one line of the doctor.
type finding struct {
	Check   string `json:"check"`
	Level   string `json:"level"` // ok, warning or problem
	Message string `json:"message"`
}

var marks = map[string]string{"ok": "✓", "warning": "‼", "problem": "✗"}

const doctorPatience = 5 * time.Second

func newDoctor(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look for what keeps the agent from its job",
		Long: `Check config, files, clock, network and the running agent, one line each.
Nothing is changed and no reading is sent. Exit code 1 when there is a problem.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			findings := a.examine(cmd.Context())
			if asJSON {
				if err := json.NewEncoder(cmd.OutOrStdout()).Encode(findings); err != nil {
					return err
				}
			} else {
				printFindings(cmd.OutOrStdout(), findings)
			}
			for _, f := range findings {
				if f.Level == "problem" {
					return errors.New("there are problems")
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printFindings(out io.Writer, findings []finding) {
	for _, f := range findings {
		fmt.Fprintf(out, "%s %-10s %s\n", marks[f.Level], f.Check, f.Message)
	}
}

// examine runs every check; each is bounded by doctorPatience.
func (a *app) examine(ctx context.Context) []finding {
	var all []finding
	add := func(check string, level, message string) { all = append(all, finding{check, level, message}) }

	cfg, err := a.loadConfig()
	if err != nil {
		add("config", "problem", err.Error())
	} else {
		add("config", "ok", fmt.Sprintf("%s, hash %.12s", a.paths().Config, cfg.Source.Hash))
		for _, w := range cfg.Source.Warnings {
			add("config", "warning", w)
		}
	}
	a.examineFiles(add)
	examineClock(add)
	a.examineAgent(ctx, add)
	a.examineUpdates(ctx, add)
	if cfg != nil && cfg.Cloud.Enabled {
		examineEndpoint(ctx, cfg, add)
	} else if cfg != nil {
		add("cloud", "warning", "cloud.enabled is false: readings are queued and not delivered")
	}
	return all
}

func (a *app) examineFiles(add func(check, level, message string)) {
	p := a.paths()
	if err := unix.Access(p.Base, unix.W_OK); err != nil {
		add("base dir", "problem", fmt.Sprintf("%s is not writable for this user: %v", p.Base, err))
	} else {
		add("base dir", "ok", p.Base)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(p.Base, &st); err == nil {
		free := int64(st.Bavail) * int64(st.Bsize)
		level := "ok"
		if free < 64<<20 {
			level = "problem"
		}
		add("disk", level, fmt.Sprintf("%s free in the base dir", human.Bytes(free)))
	}
	switch id, err := p.ReadDeviceID(); {
	case errors.Is(err, os.ErrNotExist):
		add("device id", "warning", "none yet: the first start makes a random one")
	case err != nil:
		add("device id", "problem", err.Error())
	default:
		add("device id", "ok", id)
	}
	switch _, err := privacy.LoadKey(p.PrivacyKey); {
	case errors.Is(err, os.ErrNotExist):
		add("privacy", "warning", "no key yet: the first start makes one")
	case err != nil:
		add("privacy", "problem", err.Error())
	default:
		add("privacy", "ok", "key present")
	}
}

func examineClock(add func(check, level, message string)) {
	st := clock.System(buildinfo.Time()).State()
	now := time.Now().UTC().Format(time.RFC3339)
	switch {
	case !st.Set:
		add("clock", "problem", fmt.Sprintf("%s cannot be right: it is before this build; is there a time server?", now))
	case !st.Synchronized:
		add("clock", "warning", fmt.Sprintf("%s; nothing that the kernel knows of keeps it right (normal in containers)", now))
	default:
		add("clock", "ok", now+", synchronized")
	}
}

func (a *app) examineAgent(ctx context.Context, add func(check, level, message string)) {
	d, err := a.agentHealth(ctx)
	if err != nil {
		add("agent", "warning", err.Error())
		return
	}
	level := map[wire.Status]string{wire.Healthy: "ok", wire.Degraded: "warning"}[d.Status]
	add("agent", cmp.Or(level, "problem"), fmt.Sprintf("running, version %s, %s", d.Version, d.Status))
	for _, w := range d.Warnings {
		add("agent", "warning", human.Plain(w))
	}
}

// requestPatience is how long a watchdog may take to see a request.
const requestPatience = time.Minute

// examineUpdates looks whether an update could come, and how the last one went.
func (a *app) examineUpdates(ctx context.Context, add func(check, level, message string)) {
	u := &updates{app: a, component: ota.AgentComponent}
	d, err := u.status(ctx)
	if err != nil {
		add("updates", "problem", err.Error())
		return
	}
	if !d.Slots {
		add("updates", "ok", "no slots in this base dir: nothing is updated")
		return
	}
	rest := ota.Phase(d.State).AtRest()
	if want := ota.SlotName(d.Committed.Slot); rest && d.Device.ActiveLink != want {
		add("updates", "problem", fmt.Sprintf("active leads to %q instead of %s: start the agent anew, and the watchdog repairs it", d.Device.ActiveLink, want))
	}
	if d.Device.AnchorProblem != "" {
		add("updates", "warning", "no bundle can be verified: "+d.Device.AnchorProblem)
	}
	if info, err := os.Lstat(u.home().Request()); err == nil && rest && time.Since(info.ModTime()) > requestPatience {
		add("updates", "problem", fmt.Sprintf("a request came %s, and no watchdog takes it: is pyvorin-edge-watchdog.path active?", human.Ago(info.ModTime(), time.Now())))
	}
	level, last := "ok", ""
	if d.Last != nil {
		last = "; last: " + human.Plain(d.Last.String())
		if d.Last.Result != ota.Installed {
			level = "warning"
		}
	}
	add("updates", level, fmt.Sprintf("%s, %s%s", d.State, releaseText(*d.Committed), last))
}

// examineEndpoint goes the way of a delivery up to the TLS handshake.
func examineEndpoint(ctx context.Context, cfg *config.Config, add func(check, level, message string)) {
	ctx, cancel := context.WithTimeout(ctx, doctorPatience)
	defer cancel()
	u, err := url.Parse(cfg.Cloud.Endpoint)
	if err != nil {
		add("cloud", "problem", err.Error())
		return
	}
	host := u.Hostname()
	addrs, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		add("dns", "problem", fmt.Sprintf("%s cannot be resolved: %v", host, err))
		return
	}
	add("dns", "ok", fmt.Sprintf("%s is %s", host, addrs[0]))
	port := cmp.Or(u.Port(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(host, port))
	if err != nil {
		add("cloud", "problem", fmt.Sprintf("no connection to the endpoint: %v", err))
		return
	}
	defer conn.Close()
	if u.Scheme != "https" {
		if to, ok := conn.RemoteAddr().(*net.TCPAddr); ok && to.IP.IsLoopback() {
			add("cloud", "ok", fmt.Sprintf("%s answers", to))
			return
		}
		add("cloud", "warning", fmt.Sprintf("%s answers; plain http shows readings and key to the network", conn.RemoteAddr()))
		return
	}
	pool, err := pemfile.Authorities(cfg.Cloud.CAFile)
	if err != nil {
		add("cloud", "problem", err.Error())
		return
	}
	t := tls.Client(conn, &tls.Config{ServerName: host, RootCAs: pool})
	if err := t.HandshakeContext(ctx); err != nil {
		add("cloud", "problem", fmt.Sprintf("TLS with the endpoint fails: %v", err))
		return
	}
	leaf := t.ConnectionState().PeerCertificates[0]
	add("cloud", "ok", fmt.Sprintf("%s answers, certificate valid until %s", conn.RemoteAddr(), leaf.NotAfter.UTC().Format(time.DateOnly)))
}
