package client

import (
	"encoding/base64"
	"fmt"

	"github.com/nats-io/nkeys"
)

// SealIdentity seals the text of an identity file for a request's
// "identity_sealed", to the xkey that repository.info names. Only the service
// can open it; two calls give different results.
func SealIdentity(xkey, identity string) (string, error) {
	sender, err := nkeys.CreateCurveKeys()
	if err != nil {
		return "", fmt.Errorf("seal identity: %w", err)
	}
	defer sender.Wipe()
	public, err := sender.PublicKey()
	if err != nil {
		return "", fmt.Errorf("seal identity: %w", err)
	}
	box, err := sender.Seal([]byte(identity), xkey)
	if err != nil {
		return "", fmt.Errorf("seal identity to %q: %w", xkey, err)
	}
	return public + "." + base64.StdEncoding.EncodeToString(box), nil
}
