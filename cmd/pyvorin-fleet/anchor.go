package main

import (
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pyvorin/pyvorin-edge/internal/atomicfile"
	"github.com/pyvorin/pyvorin-edge/internal/cli"
	"github.com/pyvorin/pyvorin-edge/trust"
)

func newAnchor() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "anchor",
		Short: "Make and change the keys that devices trust",
		Long: `A trust anchor names the keys that a device trusts. Root keys sign the next
anchor, release keys sign bundles, and command keys sign commands and configs.`,
	}
	cmd.AddCommand(newAnchorCreate(), newAnchorRotate(), newAnchorShow())
	return cmd
}

// anchorFlags describe an anchor.
type anchorFlags struct {
	keys      map[trust.Role]*[]string
	threshold map[trust.Role]*int
	expires   string
}

func (f *anchorFlags) add(flags *pflag.FlagSet) {
	f.keys, f.threshold = map[trust.Role]*[]string{}, map[trust.Role]*int{}
	for _, role := range trust.Roles {
		f.keys[role] = flags.StringSlice(string(role), nil, fmt.Sprintf("public key of the role %s: a .pub file or 64 hex digits; may be repeated", role))
		f.threshold[role] = flags.Int(string(role)+"-threshold", 0, fmt.Sprintf("how many %s keys must sign", role))
	}
	flags.StringVar(&f.expires, "expires", "", "date, or time to come such as 43800h, from which on it is not trusted (default never)")
}

// fill puts what the flags say into spec.
func (f *anchorFlags) fill(cmd *cobra.Command, spec *trust.AnchorSpec) error {
	for _, role := range trust.Roles {
		if cmd.Flags().Changed(string(role)) {
			spec.Keys[role] = nil
			for _, text := range *f.keys[role] {
				key, err := readPublicKey(text)
				if err != nil {
					return fmt.Errorf("--%s: %w", role, err)
				}
				spec.Keys[role] = append(spec.Keys[role], key)
			}
		}
		if n := *f.threshold[role]; n != 0 {
			if n < 1 {
				return cli.Usagef("--%s-threshold must be 1 or more", role)
			}
			spec.Threshold[role] = n
		}
	}
	if f.expires == "" {
		return nil
	}
	var err error
	spec.ExpiresAt, err = parseWhen(f.expires, time.Now())
	return err
}

// readPublicKey takes a key itself, or a file that holds it.
func readPublicKey(text string) (ed25519.PublicKey, error) {
	if len(text) == hex.EncodedLen(ed25519.PublicKeySize) {
		if _, err := os.Stat(text); err != nil {
			return trust.ParsePublicKey(text)
		}
	}
	data, err := readFile(text, trust.MaxAnchorBytes)
	if err != nil {
		return nil, fmt.Errorf("neither 64 hex digits nor a file with them: %w", err)
	}
	key, err := trust.ParsePublicKey(string(data))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", text, err)
	}
	return key, nil
}

func newAnchorCreate() *cobra.Command {
	var f anchorFlags
	var out string
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make the first trust anchor of a fleet",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needFlags(cmd, "root", "release", "command", "out"); err != nil {
				return err
			}
			spec := trust.AnchorSpec{Version: 2, Keys: map[trust.Role][]ed25519.PublicKey{}, Threshold: map[trust.Role]int{}}
			if err := f.fill(cmd, &spec); err != nil {
				return err
			}
			a, err := trust.NewAnchor(spec)
			if err != nil {
				return cli.Usagef("%w", err)
			}
			if _, err := os.Lstat(out); !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%s is there already; devices that trust it follow only 'anchor rotate'", out)
			}
			if err := trust.InstallAnchor(out, a); err != nil {
				return err
			}
			warnOfSharedKeys(cmd, a)
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s  %s\n", out, a)
			return err
		},
	}
	f.add(cmd.Flags())
	cmd.Flags().StringVar(&out, "out", "", "file to write")
	return cmd
}

// warnOfSharedKeys says when taking over the controller would be enough to ship
// code.
func warnOfSharedKeys(cmd *cobra.Command, a *trust.Anchor) {
	for _, id := range a.Role(trust.CommandRole).KeyIDs {
		if a.Allows(trust.ReleaseRole, id) || a.Allows(trust.RootRole, id) {
			fmt.Fprintf(cmd.ErrOrStderr(), "note: key %s signs commands and more; who takes over the controller then can ship code\n", id)
		}
	}
}

func newAnchorRotate() *cobra.Command {
	var f anchorFlags
	var keys signingKeys
	var from, out, outAnchor string
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Make and sign the next trust anchor",
		Long: `Make the next version of a trust anchor, with other keys for the roles that are
named and the same for the others, and sign it. Enough root keys of both the old
and the new anchor have to sign; where their holders do not meet, each runs
'pyvorin-fleet sign --type anchor' on the file in turn.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needFlags(cmd, "from", "key", "out"); err != nil {
				return err
			}
			old, err := trust.LoadAnchor(from)
			if err != nil {
				return err
			}
			next, err := f.successor(cmd, old)
			if err != nil {
				return err
			}
			private, err := keys.load(cmd)
			if err != nil {
				return err
			}
			payload, err := json.Marshal(next)
			if err != nil {
				return err
			}
			envelope, err := trust.Sign(trust.AnchorType, payload, private...)
			if err != nil {
				return err
			}
			_, missing := old.Rotate(time.Now(), envelope)
			if missing != nil && !errors.Is(missing, trust.ErrThreshold) && !errors.Is(missing, trust.ErrNotSigned) {
				return missing
			}
			if err := atomicfile.Write(out, append(envelope, '\n'), 0o644); err != nil {
				return err
			}
			if outAnchor != "" {
				if err := trust.InstallAnchor(outAnchor, next); err != nil {
					return err
				}
			}
			warnOfSharedKeys(cmd, next)
			if missing != nil {
				fmt.Fprintf(cmd.ErrOrStderr(), "note: devices do not follow it yet: %v\n", missing)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s  %s\n", out, next)
			return err
		},
	}
	f.add(cmd.Flags())
	keys.addFlags(cmd.Flags())
	cmd.Flags().StringVar(&from, "from", "", "present trust anchor")
	cmd.Flags().StringVar(&out, "out", "", "file for the signed next one, which devices get")
	cmd.Flags().StringVar(&outAnchor, "out-anchor", "", "file for the next one as a trust anchor, for new devices")
	return cmd
}

// successor returns the anchor after old.
func (f *anchorFlags) successor(cmd *cobra.Command, old *trust.Anchor) (*trust.Anchor, error) {
	spec := trust.AnchorSpec{
		Version: old.Version() + 1, ExpiresAt: old.ExpiresAt(),
		Keys: map[trust.Role][]ed25519.PublicKey{}, Threshold: map[trust.Role]int{},
	}
	for _, role := range trust.Roles {
		rk := old.Role(role)
		spec.Threshold[role] = rk.Threshold
		for _, id := range rk.KeyIDs {
			spec.Keys[role] = append(spec.Keys[role], old.Keys()[id])
		}
	}
	if err := f.fill(cmd, &spec); err != nil {
		return nil, err
	}
	next, err := trust.NewAnchor(spec)
	if err != nil {
		return nil, cli.Usagef("%w", err)
	}
	return next, nil
}

func newAnchorShow() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show FILE",
		Short: "Show a trust anchor, or a signed next one",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			data, err := readFile(args[0], trust.MaxEnvelopeBytes)
			if err != nil {
				return err
			}
			var signers []string
			if u, err := trust.Inspect(data); err == nil {
				if u.Type != trust.AnchorType {
					return fmt.Errorf("%s holds %q, not a trust anchor", args[0], u.Type)
				}
				data, signers = u.Payload, u.KeyIDs
			}
			a, err := trust.ParseAnchor(data)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(a)
			}
			return printAnchor(cmd.OutOrStdout(), a, signers)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printAnchor(out io.Writer, a *trust.Anchor, signers []string) error {
	expires := "never"
	if !a.ExpiresAt().IsZero() {
		expires = a.ExpiresAt().Format(time.RFC3339)
		if a.Expired(time.Now()) {
			expires += " (it has)"
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "version  %d\nexpires  %s\n", a.Version(), expires)
	for _, role := range trust.Roles {
		rk := a.Role(role)
		fmt.Fprintf(&b, "%-7s  %d of %s\n", role, rk.Threshold, strings.Join(rk.KeyIDs, ", "))
	}
	keys := a.Keys()
	for _, id := range slices.Sorted(maps.Keys(keys)) {
		fmt.Fprintf(&b, "key      %s  %s\n", id, trust.FormatPublicKey(keys[id]))
	}
	if signers != nil {
		fmt.Fprintf(&b, "signed   by %s (not verified)\n", strings.Join(signers, ", "))
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// readFile reads a file of at most limit bytes; - is the standard input.
func readFile(path string, limit int64) ([]byte, error) {
	in := os.Stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return data, nil
}
