package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/choria-io/fisk"

	"jetkeep/store/seal"
	"jetkeep/store/sign"
)

// Where secret keys come from if no flag says so. A command line is for all to
// see, so no flag takes a secret itself.
const (
	envIdentity     = "JETKEEP_IDENTITY"
	envIdentityFile = "JETKEEP_IDENTITY_FILE"
)

// identitySource is the flag and the environment that identities come from.
type identitySource struct{ file string }

func (s *identitySource) flags(clause *fisk.CmdClause) {
	clause.Flag("identity", "File with the secret key of an operator, as age-keygen writes it; or the key itself in $"+envIdentity).
		Envar(envIdentityFile).PlaceHolder("FILE").StringVar(&s.file)
}

// read returns the secret keys, none if nothing names any.
func (s *identitySource) read() ([]string, error) {
	text, from := os.Getenv(envIdentity), "$"+envIdentity
	if s.file != "" {
		b, err := os.ReadFile(s.file)
		if err != nil {
			return nil, fmt.Errorf("read identity: %w", err)
		}
		text, from = string(b), s.file
	}
	if text == "" {
		return nil, nil
	}
	ids, err := seal.ParseIdentities(text)
	if err != nil {
		return nil, fmt.Errorf("read identity from %s: %w", from, err)
	}
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = id.Secret()
	}
	return out, nil
}

// recipientSource is the flags that say who may read a repository.
type recipientSource struct {
	recipients []string
	files      []string
	generate   string
}

func (s *recipientSource) flags(clause *fisk.CmdClause) {
	clause.Flag("recipient", "Public key (age1…) of an operator; can be given several times").PlaceHolder("KEY").StringsVar(&s.recipients)
	clause.Flag("recipients-file", "File with public keys of operators, one a line").PlaceHolder("FILE").StringsVar(&s.files)
	clause.Flag("generate-operator", "File for the secret key of an operator, which is made unless it exists").PlaceHolder("FILE").StringVar(&s.generate)
}

// read returns the recipients and makes the key that is to be made, of kind.
func (s *recipientSource) read(kind seal.Kind) ([]string, error) {
	out := append([]string{}, s.recipients...)
	for _, name := range s.files {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read recipients: %w", err)
		}
		keys, err := seal.ParseRecipients(string(b))
		if err != nil {
			return nil, fmt.Errorf("read recipients from %s: %w", name, err)
		}
		for _, k := range keys {
			out = append(out, k.String())
		}
	}
	if s.generate != "" {
		ids, err := operatorFile(s.generate, kind)
		if err != nil {
			return nil, err
		}
		for _, id := range ids {
			out = append(out, id.Recipient().String())
		}
	}
	return out, nil
}

// operatorFile reads an identity file, or makes one as age-keygen does.
func operatorFile(name string, kind seal.Kind) ([]seal.Identity, error) {
	text, err := readOrMake(name, func() (string, error) {
		id, err := seal.Generate(kind)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("# created: %s\n# public key: %s\n%s\n", time.Now().UTC().Format(time.RFC3339), id.Recipient(), id.Secret()), nil
	})
	if err != nil {
		return nil, fmt.Errorf("operator's key: %w", err)
	}
	ids, err := seal.ParseIdentities(text)
	if err != nil {
		return nil, fmt.Errorf("operator's key in %s: %w", name, err)
	}
	return ids, nil
}

// signerFile reads the seed of a signing key, or makes one.
func signerFile(name string) (*sign.Signer, error) {
	text, err := readOrMake(name, func() (string, error) {
		seed, err := sign.Generate()
		return seed + "\n", err
	})
	if err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	s, err := sign.ParseSeed(text)
	if err != nil {
		return nil, fmt.Errorf("signing key in %s: %w", name, err)
	}
	return s, nil
}

// readOrMake returns what a file holds. One that does not exist is made, for
// the user's eyes alone, and survives a power cut from then on: it is the only
// copy of a secret that other things will depend on.
func readOrMake(name string, generate func() (string, error)) (string, error) {
	b, err := os.ReadFile(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return string(b), err
	}
	text, err := generate()
	if err != nil {
		return "", err
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(name))
	}
	if runtime.GOOS == "windows" {
		return text, nil // directories cannot be flushed there
	}
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		return "", err
	}
	return text, errors.Join(dir.Sync(), dir.Close())
}

// short is a public key as it can be recognised in a table.
func short(key string) string {
	if len(key) <= 40 {
		return key
	}
	return key[:24] + "…" + key[len(key)-8:]
}
