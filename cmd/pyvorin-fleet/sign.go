package main

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pyvorin/pyvorin-edge/internal/atomicfile"
	"github.com/pyvorin/pyvorin-edge/internal/cli"
	"github.com/pyvorin/pyvorin-edge/internal/strictjson"
	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/trust"
)

// signable are the types that --type names.
var signable = map[string]trust.PayloadType{
	"command": trust.CommandType, "config": trust.ConfigType, "manifest": trust.ManifestType, "anchor": trust.AnchorType,
}

func newSign() *cobra.Command {
	var typ, in, out string
	var keys signingKeys
	cmd := &cobra.Command{
		Use:   "sign",
		Short: "Sign a command, a config, a manifest or a trust anchor",
		Long: `Sign what devices obey: the envelope holds the payload byte for byte. When --in
is already an envelope of this type, the signatures are added to it.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needFlags(cmd, "type", "key", "in", "out"); err != nil {
				return err
			}
			t, ok := signable[typ]
			if !ok {
				return cli.Usagef("--type is command, config, manifest or anchor, not %q", typ)
			}
			data, err := readFile(in, trust.MaxEnvelopeBytes)
			if err != nil {
				return err
			}
			private, err := keys.load(cmd)
			if err != nil {
				return err
			}
			envelope, err := signPayload(t, data, private)
			if err != nil {
				return fmt.Errorf("sign %s: %w", in, err)
			}
			u, err := trust.Inspect(envelope)
			if err != nil {
				return err
			}
			if out == "-" {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", envelope)
				return err
			}
			if err := atomicfile.Write(out, append(envelope, '\n'), 0o644); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s  %s signed by %s\n", out, typ, strings.Join(u.KeyIDs, ", "))
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&typ, "type", "", "command, config, manifest or anchor")
	flags.StringVar(&in, "in", "", "payload, or an envelope to sign as well; - is the standard input")
	flags.StringVar(&out, "out", "", "file for the envelope; - is the standard output")
	keys.addFlags(flags)
	return cmd
}

// signPayload signs a payload, or an envelope that has one already.
func signPayload(t trust.PayloadType, data []byte, keys []ed25519.PrivateKey) ([]byte, error) {
	u, err := trust.Inspect(data)
	if err != nil {
		if err := checkPayload(t, data); err != nil {
			return nil, err
		}
		return trust.Sign(t, data, keys...)
	}
	if u.Type != t {
		return nil, fmt.Errorf("it is an envelope with %q, not %q", u.Type, t)
	}
	if err := checkPayload(t, u.Payload); err != nil {
		return nil, err
	}
	return trust.AddSignatures(data, keys...)
}

// checkPayload refuses to sign what no device would read.
func checkPayload(t trust.PayloadType, data []byte) error {
	switch t {
	case trust.ManifestType:
		_, err := bundle.ParseManifest(data)
		return err
	case trust.AnchorType:
		_, err := trust.ParseAnchor(data)
		return err
	}
	var object map[string]json.RawMessage
	if err := strictjson.Unmarshal(data, trust.MaxEnvelopeBytes, &object); err != nil {
		return err
	}
	if len(object) == 0 {
		return errors.New("it says nothing")
	}
	return nil
}
