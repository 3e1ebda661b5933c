package main

import (
	"bufio"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pyvorin/pyvorin-edge/internal/atomicfile"
	"github.com/pyvorin/pyvorin-edge/internal/cli"
	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/ota/bundle/pack"
	"github.com/pyvorin/pyvorin-edge/trust"
)

func newBundle() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bundle",
		Short: "Make and check the bundles in which releases travel",
	}
	cmd.AddCommand(newBundleCreate(), newBundleSign(), newBundleInspect(), newBundleVerify())
	return cmd
}

// bundleFlags describe a release.
type bundleFlags struct {
	o                   pack.Options
	expires, created    string
	minHealthy, timeout time.Duration
	deltaFrom           []string
	out                 string
	asJSON              bool
	keys                signingKeys
}

func (f *bundleFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.o.From, "from", "", "folder with the files of the release")
	flags.StringVar(&f.o.Name, "name", "pyvorin-edge", "component that it is a release of")
	flags.StringVar(&f.o.Version, "version", "", "semantic version of the release")
	flags.Uint64Var(&f.o.Counter, "counter", 0, "number of the release, which must grow: devices refuse a lower one")
	flags.StringVar(&f.o.OS, "os", "linux", "operating system")
	flags.StringVar(&f.o.Arch, "arch", "", "arm64, armv7, armv6 (which armv7 runs too), amd64, or any for what is not compiled")
	flags.StringArrayVar(&f.o.Hardware, "hardware", []string{"*"}, "model, where * is any characters, such as 'raspberrypi,*'; may be repeated")
	flags.StringVar(&f.expires, "expires", "8760h", "date, or time after its making, from which on no device begins to install it")
	flags.StringVar(&f.created, "created", "", "date of its making (default SOURCE_DATE_EPOCH, or now)")
	flags.DurationVar(&f.minHealthy, "min-healthy", 0, "how long it must be healthy to be kept (default: as the device says)")
	flags.DurationVar(&f.timeout, "deadline", 0, "by when (default: as the device says)")
	flags.StringSliceVar(&f.o.Health.Required, "require", nil, "check that must be ok to keep it, such as sensors; may be repeated")
	flags.StringSliceVar(&f.deltaFrom, "delta-from", nil, "older full bundle, for which a delta is written beside --out; may be repeated")
	flags.StringVar(&f.out, "out", "", "file to write")
	flags.BoolVar(&f.asJSON, "json", false, "print JSON")
	f.keys.addFlags(flags)
}

func newBundleCreate() *cobra.Command {
	var f bundleFlags
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make and sign a bundle",
		Long: `Make a bundle of the files in a folder, and sign it. The same files, flags and
SOURCE_DATE_EPOCH make the same bytes.

With --delta-from, a delta for devices that run that older release is written
beside the bundle, under the name OUT.delta-DIGEST. Publish both: a device that
finds a delta for what it runs takes it, and else the bundle.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needFlags(cmd, "version", "counter", "arch", "key", "from", "out"); err != nil {
				return err
			}
			if err := f.complete(cmd); err != nil {
				return err
			}
			written, err := f.create(cmd)
			if err != nil {
				return err
			}
			return printWritten(cmd.OutOrStdout(), written, f.asJSON)
		},
	}
	f.add(cmd.Flags())
	return cmd
}

// complete fills in the options that are not flags themselves.
func (f *bundleFlags) complete(cmd *cobra.Command) (err error) {
	if f.o.CreatedAt, err = creationTime(f.created); err != nil {
		return err
	}
	if f.o.ExpiresAt, err = parseWhen(f.expires, f.o.CreatedAt); err != nil {
		return err
	}
	f.o.Health.MinHealthySeconds = int(f.minHealthy / time.Second)
	f.o.Health.DeadlineSeconds = int(f.timeout / time.Second)
	f.o.Keys, err = f.keys.load(cmd)
	return err
}

func creationTime(text string) (time.Time, error) {
	if text != "" {
		return parseWhen(text, time.Now())
	}
	epoch := os.Getenv("SOURCE_DATE_EPOCH")
	if epoch == "" {
		return time.Now(), nil
	}
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil || seconds < 0 {
		return time.Time{}, cli.Usagef("SOURCE_DATE_EPOCH is not a number of seconds")
	}
	return time.Unix(seconds, 0), nil
}

// written is a bundle that was made, or a delta that was not worth it.
type written struct {
	File     string          `json:"file,omitempty"`
	Size     int64           `json:"size,omitempty"`
	Base     string          `json:"base,omitempty"` // of a delta
	Skipped  string          `json:"skipped,omitempty"`
	Manifest bundle.Manifest `json:"manifest,omitzero"`
}

// create writes the bundle and its deltas.
func (f *bundleFlags) create(cmd *cobra.Command) ([]written, error) {
	full := written{File: f.out}
	err := writeWhole(f.out, func(w io.Writer) (err error) {
		full.Manifest, err = pack.Create(cmd.Context(), w, f.o)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("create bundle: %w", err)
	}
	if full.Size, err = fileSize(f.out); err != nil {
		return nil, err
	}
	list := []written{full}
	for _, older := range f.deltaFrom {
		delta, err := f.delta(cmd, older)
		if err != nil {
			return nil, fmt.Errorf("create delta from %s: %w", older, err)
		}
		list = append(list, delta)
	}
	return list, nil
}

func (f *bundleFlags) delta(cmd *cobra.Command, older string) (written, error) {
	before, err := os.Open(older)
	if err != nil {
		return written{}, err
	}
	defer before.Close()
	u, err := bundle.Inspect(bufio.NewReader(before))
	if err != nil {
		return written{}, err
	}
	if _, err := before.Seek(0, io.SeekStart); err != nil {
		return written{}, err
	}
	after, err := os.Open(f.out)
	if err != nil {
		return written{}, err
	}
	defer after.Close()
	d := written{File: bundle.DeltaName(f.out, u.Manifest.Digest()), Base: u.Manifest.Version}
	err = writeWhole(d.File, func(w io.Writer) (err error) {
		d.Manifest, err = pack.Delta(cmd.Context(), w, bufio.NewReader(before), bufio.NewReader(after), f.o.Keys)
		return err
	})
	if errors.Is(err, pack.ErrNotSmaller) {
		return written{Base: d.Base, Skipped: err.Error()}, nil
	} else if err != nil {
		return written{}, err
	}
	d.Size, err = fileSize(d.File)
	return d, err
}

func printWritten(out io.Writer, list []written, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(list)
	}
	full := list[0]
	m := full.Manifest
	fmt.Fprintf(out, "%s  %s %s (%d) for %s/%s, %d bytes, content %.16s\n", full.File, m.Name, m.Version, m.Counter, m.OS, m.Arch, full.Size, m.Digest())
	for _, d := range list[1:] {
		if d.Skipped != "" {
			fmt.Fprintf(out, "no delta from %s: %s\n", d.Base, d.Skipped)
			continue
		}
		fmt.Fprintf(out, "%s  delta from %s, %d bytes, %.1f %% of the bundle\n", d.File, d.Base, d.Size, float64(d.Size)/float64(full.Size)*100)
	}
	return nil
}

// writeWhole writes a file that is there complete or, after an error, as it was.
func writeWhole(path string, write func(w io.Writer) error) (err error) {
	temp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".tmp-*")
	if err != nil {
		return err
	}
	defer func() {
		temp.Close()
		if err != nil {
			os.Remove(temp.Name())
		}
	}()
	buffered := bufio.NewWriter(temp)
	for _, step := range []func() error{
		func() error { return write(buffered) }, buffered.Flush,
		func() error { return temp.Chmod(0o644) }, temp.Sync, temp.Close,
		func() error { return os.Rename(temp.Name(), path) },
		func() error { return atomicfile.SyncDir(filepath.Dir(path)) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func fileSize(path string) (int64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func newBundleSign() *cobra.Command {
	var keys signingKeys
	cmd := &cobra.Command{
		Use:   "sign FILE",
		Short: "Add signatures to a bundle, where the keys' holders do not meet",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := needFlags(cmd, "key"); err != nil {
				return err
			}
			private, err := keys.load(cmd)
			if err != nil {
				return err
			}
			ids, err := addSignatures(args[0], private)
			if err != nil {
				return fmt.Errorf("sign %s: %w", args[0], err)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s  signed by %s\n", args[0], strings.Join(ids, ", "))
			return err
		},
	}
	keys.addFlags(cmd.Flags())
	return cmd
}

func addSignatures(path string, keys []ed25519.PrivateKey) (ids []string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	err = writeWhole(path, func(w io.Writer) (err error) {
		ids, err = pack.AddSignatures(w, bufio.NewReader(f), keys)
		return err
	})
	return ids, err
}

func newBundleInspect() *cobra.Command {
	var anchorPath string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "inspect FILE",
		Short: "Show what a bundle says of itself",
		Long: `Show what a bundle says of itself. With --trust-anchor, whether its signatures
hold is shown too; the payload is not looked at (see verify).`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			u, err := bundle.Inspect(f)
			if err != nil {
				return fmt.Errorf("inspect %s: %w", args[0], err)
			}
			signed := "not verified"
			if anchorPath != "" {
				a, err := trust.LoadAnchor(anchorPath)
				if err != nil {
					return err
				}
				signed = "enough for " + anchorPath
				if _, err := bundle.Verify(u.Envelope, a, time.Now()); err != nil {
					signed = err.Error()
				}
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"manifest": u.Manifest, "keyids": u.KeyIDs, "signatures": signed, "digest": u.Manifest.Digest()})
			}
			return printManifest(cmd.OutOrStdout(), u.Manifest, fmt.Sprintf("by %s (%s)", strings.Join(u.KeyIDs, ", "), signed))
		},
	}
	cmd.Flags().StringVar(&anchorPath, "trust-anchor", "", "keys to check the signatures with")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printManifest(out io.Writer, m bundle.Manifest, signed string) error {
	kind := string(m.Payload.Kind)
	if m.Payload.Kind == bundle.Delta {
		kind = fmt.Sprintf("delta against %.16s", m.Payload.BaseSHA256)
	}
	var b strings.Builder
	fmt.Fprintf(&b, `release   %s %s, number %d
for       %s/%s, hardware %s
made      %s
expires   %s
signed    %s
payload   %s, %d bytes in %d parts
content   %s, %d bytes in %d files
`, m.Name, m.Version, m.Counter, m.OS, m.Arch, strings.Join(m.Hardware, " "),
		m.CreatedAt.Format(time.RFC3339), m.ExpiresAt.Format(time.RFC3339), signed,
		kind, m.Payload.Size, len(m.Payload.Parts), m.Digest(), m.InstalledSize, len(m.Files))
	for _, f := range m.Files {
		fmt.Fprintf(&b, "  %s %10d  %.16s  %s\n", f.Mode, f.Size, f.SHA256, f.Path)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func newBundleVerify() *cobra.Command {
	var anchorPath string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "Check a bundle as a device does: signatures, expiry and all content",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := trust.LoadAnchor(anchorPath)
			if err != nil {
				return err
			}
			v, err := verifyBundle(cmd, args[0], a)
			if err != nil {
				return fmt.Errorf("verify %s: %w", args[0], err)
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"manifest": v.Manifest(), "signers": v.Signers(), "digest": v.Manifest().Digest()})
			}
			return printManifest(cmd.OutOrStdout(), v.Manifest(), "by "+strings.Join(v.Signers(), ", ")+" (verified)")
		},
	}
	cmd.Flags().StringVar(&anchorPath, "trust-anchor", "trust_anchor.json", "keys to trust")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func verifyBundle(cmd *cobra.Command, path string, a *trust.Anchor) (bundle.Verified, error) {
	f, err := os.Open(path)
	if err != nil {
		return bundle.Verified{}, err
	}
	defer f.Close()
	now := time.Now()
	r, err := bundle.Open(f, a, now)
	if err != nil {
		return bundle.Verified{}, err
	}
	v := r.Verified()
	m := v.Manifest()
	if err := errors.Join(m.CheckExpiry(now), r.Check(cmd.Context())); err != nil {
		return bundle.Verified{}, err
	}
	if m.Payload.Kind == bundle.Delta {
		return v, nil // what it makes is known only where its base is
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return bundle.Verified{}, err
	}
	u, err := bundle.Inspect(f)
	if err != nil {
		return bundle.Verified{}, err
	}
	return v, u.Files(cmd.Context(), func(_ bundle.File, content io.Reader) error {
		_, err := io.Copy(io.Discard, content)
		return err
	})
}
