package store

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"jetkeep/store/seal"
)

const (
	markerName = "jetkeep.json"
	maxMarker  = 64 << 10
	codecZstd  = "zstd"
	featureAge = "age"
)

// A Marker is what a repository says of itself, in jetkeep.json.
type Marker struct {
	Format  int       `json:"format"`
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
	// Codec is what packs and tables are compressed with.
	Codec string `json:"codec"`
	// Features names what a reader must know beyond the format.
	Features []string `json:"features"`
	// Recipient is the public repository key, if the repository is encrypted.
	Recipient string `json:"recipient,omitempty"`
	// Check is a hash over the rest, against accidents.
	Check string `json:"check"`
}

// newMarker makes the marker of a new repository, encrypted if it has a key.
func newMarker(recipient string) Marker {
	m := Marker{
		Format: Format, ID: strings.ToLower(rand.Text()), Created: time.Now().UTC().Truncate(time.Second),
		Codec: codecZstd, Features: []string{}, Recipient: recipient,
	}
	if recipient != "" {
		m.Features = []string{featureAge}
	}
	m.Check = m.check()
	return m
}

// Encrypted says whether the repository is encrypted.
func (m Marker) Encrypted() bool { return slices.Contains(m.Features, featureAge) }

func (m Marker) check() string {
	h := sha256.New()
	for _, s := range append([]string{fmt.Sprint(m.Format), m.ID, m.Created.Format(time.RFC3339), m.Codec}, m.Features...) {
		fmt.Fprintf(h, "%s\n", s)
	}
	if m.Recipient != "" {
		fmt.Fprintf(h, "recipient: %s\n", m.Recipient)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func (m Marker) encode() []byte {
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		panic(err) // plain strings and a time of this era always marshal
	}
	return append(b, '\n')
}

// decodeMarker reads the version first, so that a newer repository is called
// newer and not damaged.
func decodeMarker(data []byte) (Marker, error) {
	var version struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(data, &version); err != nil {
		return Marker{}, damaged(markerName, err, "is no JSON")
	}
	if version.Format > Format {
		return Marker{}, fmt.Errorf("open repository: %w: format %d, known up to %d", ErrNewerFormat, version.Format, Format)
	}
	var m Marker
	if err := json.Unmarshal(data, &m); err != nil {
		return Marker{}, damaged(markerName, err, "is no marker")
	}
	if m.Format < 1 || m.Check != m.check() || !bytes.Equal(m.encode(), data) {
		return Marker{}, damaged(markerName, nil, "differs from its check")
	}
	for _, f := range m.Features {
		if f != featureAge || m.Format < 2 {
			return Marker{}, fmt.Errorf("open repository: %w: feature %q", ErrNewerFormat, f)
		}
	}
	if m.Codec != codecZstd {
		return Marker{}, fmt.Errorf("open repository: %w: codec %q", ErrNewerFormat, m.Codec)
	}
	if m.Encrypted() != (m.Recipient != "") || len(m.Features) > 1 {
		return Marker{}, damaged(markerName, nil, "feature %s and recipient do not fit together", featureAge)
	}
	if m.Encrypted() {
		if _, err := seal.ParseRecipient(m.Recipient); err != nil {
			return Marker{}, damaged(markerName, err, "recipient")
		}
	}
	return m, nil
}
