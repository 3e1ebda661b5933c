// Package fetch brings bundles into the inbox.
//
// The parties are the caller, who says from where and has the last word on what
// is admitted; the server, the proxy, the cable or the USB stick, which are
// believed in nothing; and the watchdog, which verifies all of it again. The
// manifest comes first, alone, and nothing of the payload is asked for before its
// signatures were verified and the caller has admitted it. Then come the parts,
// each checked by its hash before it counts.
//
// # Files
//
//	NAME         a complete bundle, verified after it was written
//	NAME.part    the bundle so far: its head, and the parts that are good
//	NAME.piece   what came so far of the head, or of the first part that is missing
//
// After a restart, or a power cut at any instant, all of it is hashed again and
// nothing else is trusted: there is no record of what was done. A part that broke
// off goes on where it broke. If it then is not what was signed, because one of
// its two halves was not, it is fetched once more as a whole. So a link that is
// cut again and again costs nearly nothing twice, and a flipped bit costs a part.
//
// # Bounds
//
// Nothing is read beyond what was signed. A server that sends next to nothing is
// left after a minute; failures are tried again with growing random waits, and
// not more than a few times in a row without getting further. What has changed on
// the server is begun anew, twice at most. No byte is written that leaves less
// free space than the reserve.
package fetch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/pyvorin/pyvorin-edge/internal/buildinfo"
	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/trust"
)

// Why a bundle was not fetched, where a caller may want to know. Others are
// those of package bundle, of package trust, of the Admit function, and
// syscall.ENOSPC.
var (
	// ErrNotFound: there is nothing at that place.
	ErrNotFound = errors.New("not there")
	// ErrRefused: the server does not give it to this device, or not in a way
	// that is accepted. Someone has to act.
	ErrRefused = errors.New("refused by the server")
	// ErrOther: it is a good bundle, and not the one that was asked for.
	ErrOther = errors.New("another bundle than the one that was asked for")
)

// Options are what a Fetcher needs.
type Options struct {
	Dir string // the inbox

	// Free tells how many bytes may still be written there, of which Reserve
	// are left alone.
	Free    func() (int64, error)
	Reserve int64

	MaxBandwidth int64 // bytes a second; 0 is no cap, else at least MinBandwidth

	CAFile            string // PEM; authorities to trust instead of the system's
	CertFile, KeyFile string // PEM; client certificate, read again for each connection

	UserAgent string // "" is pyvorin-edge/VERSION
	Log       zerolog.Logger

	Transport http.RoundTripper // replaces the network; tests
	Stall     time.Duration     // how long minFlow bytes may take; 0 is a minute
	Wait      time.Duration     // first bound of the random wait after a failure; 0 is a second
}

// MinBandwidth is the least cap: below it a server would count as stalled.
const MinBandwidth = 1 << 10

// Job is one bundle to fetch.
type Job struct {
	Source string // http, https or file URL, or the absolute path of a file
	Name   string // of the file in the inbox

	Anchor *trust.Anchor
	Now    time.Time // with which expiries are compared

	// SHA256 is that of the whole file, 64 hex digits; "" for any.
	SHA256 string

	// Admit is asked before anything of the payload is fetched. Its error ends
	// the job as it is. May be nil.
	Admit func(bundle.Verified) error

	// Room is how many bytes must be free besides, for what is done with the
	// bundle afterwards. May be nil.
	Room func(bundle.Verified) int64

	// Progress is called now and then, by one goroutine, with the bytes that
	// are there. May be nil.
	Progress func(done, total int64)
}

// StagingRoom is the Room of a bundle that is installed from the same disk: the
// watchdog's copy of it, and the files in it.
func StagingRoom(v bundle.Verified) int64 { return v.Size() + v.Manifest().InstalledSize }

// Fetcher fetches bundles, one at a time.
type Fetcher struct {
	o    Options
	log  zerolog.Logger
	pace pacer
}

// namePattern is what a bundle in the inbox may be called.
var namePattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._+~-]{0,191}$`)

// The ends of the names of what is not complete.
const (
	PartSuffix  = ".part"
	PieceSuffix = ".piece"
)

// New checks o and does no I/O.
func New(o Options) (*Fetcher, error) {
	if o.UserAgent == "" {
		o.UserAgent = "pyvorin-edge/" + buildinfo.Version
	}
	if o.Stall == 0 {
		o.Stall = time.Minute
	}
	if o.Wait == 0 {
		o.Wait = time.Second
	}
	switch {
	case o.Dir == "" || o.Free == nil:
		return nil, errors.New("internal error: a fetcher needs a folder and to know its free space")
	case (o.CertFile == "") != (o.KeyFile == ""):
		return nil, errors.New("cert_file and key_file belong together: set both or none")
	case o.MaxBandwidth != 0 && o.MaxBandwidth < MinBandwidth:
		return nil, fmt.Errorf("the bandwidth must be 0 for no cap, or at least %d bytes a second", MinBandwidth)
	case o.Reserve < 0 || o.Stall < 0 || o.Wait < 0:
		return nil, errors.New("internal error: a fetcher with a negative bound")
	}
	return &Fetcher{
		o: o, log: o.Log.With().Str("component", "fetch").Logger(),
		pace: pacer{bytesPerSecond: o.MaxBandwidth},
	}, nil
}

// Fetch brings the job's bundle into the inbox and returns its manifest. What is
// there of it already is used. When ctx ends, all that has come stays, and the
// error is the cause.
func (f *Fetcher) Fetch(ctx context.Context, j Job) (bundle.Verified, error) {
	if !namePattern.MatchString(j.Name) || j.Anchor == nil {
		return bundle.Verified{}, fmt.Errorf("internal error: %q cannot be fetched", j.Name)
	}
	d := &download{f: f, j: j, waits: f.waits()}
	if v, err := d.complete(ctx); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return v, err
	}
	src, err := f.open(j.Source)
	if err != nil {
		return bundle.Verified{}, err
	}
	defer src.close()
	d.feed = feed{f: f, src: src}
	defer d.feed.close()
	if err := d.openFiles(); err != nil {
		return bundle.Verified{}, err
	}
	defer d.closeFiles()
	if err := d.run(ctx); err != nil {
		return bundle.Verified{}, fmt.Errorf("fetch %s: %w", src.name(), err)
	}
	return d.v, nil
}

// complete returns the manifest of a bundle that is there already, complete. One
// that is not what was asked for is removed: fs.ErrNotExist.
func (d *download) complete(ctx context.Context) (bundle.Verified, error) {
	path := filepath.Join(d.f.o.Dir, d.j.Name)
	var v bundle.Verified
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	switch {
	case err == nil:
		defer file.Close()
		if err = fmt.Errorf("%s is no plain file", d.j.Name); isPlain(file) {
			v, err = d.check(ctx, file)
		}
	case !errors.Is(err, unix.ELOOP):
		return bundle.Verified{}, fmt.Errorf("look for a fetched bundle: %w", err)
	}
	if ctx.Err() != nil {
		return bundle.Verified{}, context.Cause(ctx)
	}
	if err == nil {
		d.v, d.done = v, v.Size()
		d.progress(0)
		return v, d.admit(v)
	}
	d.f.log.Warn().Err(err).Str("name", d.j.Name).Msg("fetched bundle is no good, fetched anew")
	if err := os.Remove(path); err != nil {
		return bundle.Verified{}, fmt.Errorf("remove a bundle that is no good: %w", err)
	}
	return bundle.Verified{}, fs.ErrNotExist
}
