package main

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/pyvorin/pyvorin-edge/agent"
	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/internal/buildinfo"
	"github.com/pyvorin/pyvorin-edge/internal/cli"
	"github.com/pyvorin/pyvorin-edge/privacy"
	"github.com/pyvorin/pyvorin-edge/sensors/all"
)

// exitConfig is EX_CONFIG of sysexits.h: the service manager must not restart
// what cannot start.
const exitConfig = 78

func exitCode(err error) int {
	var bad *config.Error
	if errors.As(err, &bad) {
		return exitConfig
	}
	return cli.ExitCode(err)
}

// app is what the verbs share: the global flags.
type app struct {
	baseDir    string
	configPath string
}

func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) error {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	return root.ExecuteContext(ctx)
}

func newRoot() *cobra.Command {
	a := &app{}
	root := &cobra.Command{
		Use:     "pyvorin-edge",
		Short:   "Reads sensors, keeps private what must stay private, and delivers the rest",
		Version: buildinfo.Version,
	}
	flags := root.PersistentFlags()
	flags.StringVar(&a.baseDir, "base-dir", cmp.Or(os.Getenv("PYVORIN_BASE_DIR"), agent.DefaultBaseDir), "where the agent keeps its files (PYVORIN_BASE_DIR)")
	flags.StringVar(&a.configPath, "config", "", "config file (default BASE-DIR/config.toml, then config.json)")
	root.AddCommand(
		newRun(a),
		newSupervise(a),
		newWatchdog(a),
		newStatus(a),
		newDoctor(a),
		newProvision(a),
		newConfig(a),
		newSensors(a),
		newPrivacy(a),
		newQueue(a),
		newOTA(a),
		newSelftest(a),
		cli.NewVersion("pyvorin-edge"),
	)
	addBuildVerbs(root)
	cli.Prepare(root)
	return root
}

// paths returns the files of the agent that this invocation is about.
func (a *app) paths() agent.Paths { return agent.NewPaths(a.baseDir, a.configPath) }

func (a *app) configFile() string { return a.paths().Config }

func (a *app) socketPath() string { return a.paths().Socket }

// loadConfig loads and checks the config file of this invocation.
func (a *app) loadConfig() (*config.Config, error) {
	return a.checkConfig(a.configFile(), nil)
}

// checkConfig loads and checks the file at path, or content in its place.
func (a *app) checkConfig(path string, content []byte) (*config.Config, error) {
	if content == nil {
		var err error
		if content, err = a.readConfig(path); err != nil {
			return nil, err
		}
	}
	return config.Parse(path, content, config.Options{
		SensorTypes: all.Options(),
		Check:       func(c *config.Config) error { return agent.CheckConfig(c, all.Types()) },
		DigestKey:   a.digestKey(),
	})
}

// readConfig returns the content of a config file.
func (a *app) readConfig(path string) ([]byte, error) {
	data, err := config.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && a.configPath == "" && path == a.configFile() {
		return nil, missingConfig{a.paths().Base}
	}
	return data, err
}

// missingConfig says that the base dir holds no config under any name.
type missingConfig struct{ base string }

func (e missingConfig) Error() string {
	return fmt.Sprintf("no config: neither %s nor %s exists; write one (docs/configuration.md) or name it with --config",
		filepath.Join(e.base, "config.toml"), filepath.Join(e.base, "config.json"))
}

func (missingConfig) Is(target error) bool { return target == fs.ErrNotExist }

// digestKey derives the key of effective_config_hash from the device's privacy
// key, so that every verb and the agent give the same hash. Nil, which stands
// for a fixed key, when there is none or this user may not read it.
func (a *app) digestKey() []byte {
	key, err := privacy.LoadKey(a.paths().PrivacyKey)
	if err != nil {
		return nil
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("effective_config_hash"))
	return mac.Sum(nil)
}

// addBuildVerbs adds what only some builds have; see man.go.
var addBuildVerbs = func(*cobra.Command) {}
