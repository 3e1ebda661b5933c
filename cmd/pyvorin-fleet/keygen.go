package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/pyvorin/pyvorin-edge/internal/cli"
	"github.com/pyvorin/pyvorin-edge/trust"
	"github.com/pyvorin/pyvorin-edge/trust/keyfile"
)

// passphraseEnv may hold the passphrase of private keys.
const passphraseEnv = "PYVORIN_KEY_PASSPHRASE"

func newKeygen() *cobra.Command {
	var dir, name string
	var encrypt, asJSON bool
	var secret passphrase
	cmd := &cobra.Command{
		Use:   "keygen",
		Short: "Make a key for signing",
		Long: `Make an Ed25519 key: NAME.key, which only its owner can read, and NAME.pub to
share. Neither is ever overwritten. Keep root and release keys away from the
controller and from the network, with a passphrase (--encrypt, --passphrase-file
or ` + passphraseEnv + `).`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needFlags(cmd, "out", "name"); err != nil {
				return err
			}
			phrase, err := secret.forNewKey(cmd, encrypt)
			if err != nil {
				return err
			}
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return err
			}
			public, err := keyfile.Create(dir, name, phrase)
			if err != nil {
				return err
			}
			keyPath, pubPath := keyfile.Paths(dir, name)
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{
					"keyid": trust.KeyID(public), "public_key": trust.FormatPublicKey(public),
					"private_file": keyPath, "public_file": pubPath, "encrypted": len(phrase) > 0,
				})
			}
			note := ""
			if len(phrase) == 0 {
				note = " (not encrypted)"
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "key id   %s\nprivate  %s%s\npublic   %s\n", trust.KeyID(public), keyPath, note, pubPath)
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&dir, "out", "", "folder for the two files; made if need be")
	flags.StringVar(&name, "name", "", "name of the key, such as release-1")
	flags.BoolVar(&encrypt, "encrypt", false, "ask for a passphrase")
	flags.BoolVar(&asJSON, "json", false, "print JSON")
	secret.addFlag(flags)
	return cmd
}

// passphrase is where the passphrase of private keys comes from.
type passphrase struct{ file string }

func (p *passphrase) addFlag(flags *pflag.FlagSet) {
	flags.StringVar(&p.file, "passphrase-file", "", "file with the passphrase of the private keys (or "+passphraseEnv+", or a question)")
}

// given returns a passphrase that nobody has to be asked for, or nil.
func (p *passphrase) given() ([]byte, error) {
	if p.file == "" {
		return []byte(os.Getenv(passphraseEnv)), nil
	}
	data, err := os.ReadFile(p.file)
	if err != nil {
		return nil, err
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	if line = bytes.TrimSuffix(line, []byte("\r")); len(line) == 0 {
		return nil, fmt.Errorf("%s: its first line, the passphrase, is empty", p.file)
	}
	return line, nil
}

// forNewKey returns the passphrase for a new key, empty for none.
func (p *passphrase) forNewKey(cmd *cobra.Command, ask bool) ([]byte, error) {
	phrase, err := p.given()
	if err != nil || len(phrase) > 0 || !ask {
		return phrase, err
	}
	if phrase, err = prompt(cmd, "passphrase for the new key: "); err != nil {
		return nil, err
	}
	again, err := prompt(cmd, "once more: ")
	if err != nil {
		return nil, err
	}
	if len(phrase) == 0 || !bytes.Equal(phrase, again) {
		return nil, errors.New("the passphrase is empty, or the two are not the same; nothing was made")
	}
	return phrase, nil
}

// prompt asks on the terminal, which does not show what is typed.
func prompt(cmd *cobra.Command, question string) ([]byte, error) {
	in, ok := cmd.InOrStdin().(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return nil, fmt.Errorf("no terminal to ask for the passphrase on; use --passphrase-file or %s", passphraseEnv)
	}
	fmt.Fprint(cmd.ErrOrStderr(), question)
	phrase, err := term.ReadPassword(int(in.Fd()))
	fmt.Fprintln(cmd.ErrOrStderr())
	return phrase, err
}

// signingKeys is the --key flag of the verbs that sign.
type signingKeys struct {
	paths  []string
	secret passphrase
}

func (k *signingKeys) addFlags(flags *pflag.FlagSet) {
	flags.StringSliceVar(&k.paths, "key", nil, "private key to sign with; may be repeated")
	k.secret.addFlag(flags)
}

func (k *signingKeys) load(cmd *cobra.Command) ([]ed25519.PrivateKey, error) {
	if len(k.paths) > trust.MaxSignatures {
		return nil, cli.Usagef("more than %d keys", trust.MaxSignatures)
	}
	var keys []ed25519.PrivateKey
	for _, path := range k.paths {
		key, err := keyfile.Load(path, func() ([]byte, error) {
			if phrase, err := k.secret.given(); err != nil || len(phrase) > 0 {
				return phrase, err
			}
			return prompt(cmd, fmt.Sprintf("passphrase of %s: ", path))
		})
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// needFlags returns a usage error unless all these flags were given.
func needFlags(cmd *cobra.Command, names ...string) error {
	for _, name := range names {
		if !cmd.Flags().Changed(name) {
			return cli.Usagef("--%s is missing (see '%s --help')", name, cmd.CommandPath())
		}
	}
	return nil
}

// parseWhen reads a time as a date, as a date with a time, or as how long after
// from.
func parseWhen(text string, from time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(text); err == nil && d > 0 {
		return from.Add(d), nil
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, cli.Usagef("%q is neither a date such as 2027-01-31 nor a time to come such as 8760h", text)
}
