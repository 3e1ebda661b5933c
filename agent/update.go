package agent

import (
	"context"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/internal/buildinfo"
	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/ota/fetch"
	"github.com/pyvorin/pyvorin-edge/ota/update"
	"github.com/pyvorin/pyvorin-edge/ota/window"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// runUpdater takes up updates until ctx ends.
func (g *generation) runUpdater(ctx context.Context, beat func()) error {
	o, err := g.updateOptions()
	if err != nil {
		return err
	}
	o.Target, o.Before, o.Beat = bundle.HostTarget(), g.updatesBefore, beat
	u, err := update.New(o)
	if err != nil {
		return err
	}
	g.updater.Store(u)
	return u.Run(ctx)
}

// updateOptions are what the config says of updates.
func (g *generation) updateOptions() (o update.Options, err error) {
	c, layout := g.cfg.OTA, g.a.layout()
	zone, err := window.Zone(c.TimeZone)
	if err != nil {
		return o, config.Problemf("time_zone", "%v", err)
	}
	download, err := window.Parse(c.DownloadWindow, zone)
	if err != nil {
		return o, config.Problemf("download_window", "%v", err)
	}
	install, err := window.Parse(c.InstallWindow, zone)
	if err != nil {
		return o, config.Problemf("install_window", "%v", err)
	}
	fetcher, err := fetch.New(fetch.Options{
		Dir:          layout.Inbox(),
		Free:         func() (int64, error) { return freeBytes(layout.Base) },
		Reserve:      c.ReserveBytes,
		MaxBandwidth: c.MaxBandwidthBytes,
		CAFile:       c.CAFile,
		CertFile:     c.CertFile,
		KeyFile:      c.KeyFile,
		Log:          g.a.o.Log,
	})
	if err != nil {
		return o, err
	}
	components := map[string]ota.Layout{}
	for _, comp := range c.Components {
		components[comp.Name] = ota.Layout{Base: comp.Root}
	}
	return update.Options{
		Layout:     layout,
		Components: components,
		Fetch:      fetcher,
		Free:       freeBytes,
		Reserve:    c.ReserveBytes,
		DeviceID:   g.a.deviceID,
		Group:      g.cfg.Device.Group,
		Version:    buildinfo.Version,
		Disabled:   !c.Enabled,
		Delta:      c.Delta,
		Download:   download,
		Install:    install,
		MinHealthy: config.Seconds(c.MinHealthySeconds),
		Deadline:   config.Seconds(c.DeadlineSeconds),
		Hold:       g.a.hold,
		Clock:      g.a.o.Clock,
		Build:      buildinfo.Time(),
		Log:        g.a.o.Log,
	}, nil
}

// layout names the files of the agent's slots.
func (a *Agent) layout() ota.Layout { return ota.Layout{Base: a.o.Paths.Base} }

// hold says why this is no time for an update.
func (a *Agent) hold() string { return holdFor(a.Document().Checks) }

// holdFor is hold for these checks. A machine in such a state would make a good
// release look bad, or a download make it worse.
func holdFor(checks map[string]wire.CheckState) string {
	for _, check := range []struct{ name, until string }{
		{"disk_space", "the disk to have space again"},
		{"memory", "the machine to have memory again"},
		{"temperature", "the machine to cool down"},
	} {
		if checks[check.name] == wire.CheckCritical {
			return fmt.Sprintf("%s: the check %s is critical", check.until, check.name)
		}
	}
	return ""
}

// updateHealth is what /health says of updates.
func (g *generation) updateHealth() wire.OTAHealth {
	if u := g.updater.Load(); u != nil {
		return u.Health()
	}
	return g.updatesBefore
}

// freeBytes is what this user may still write to the disk that dir is on.
func freeBytes(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}
