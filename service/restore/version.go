package restore

import (
	"fmt"
	"strconv"
	"strings"
)

// A version is that of a server, without what follows the patch number.
type version struct{ major, minor, patch int }

// Versions that the way of restoring depends on.
var (
	// minimum is the oldest server whose restores were tried.
	minimum = version{2, 6, 0}
	// archiveV2 is the first that takes the new format, and with it memory
	// streams.
	archiveV2 = version{2, 15, 0}
	// promotion is the first that makes a mirror a normal stream by an update.
	promotion = version{2, 12, 0}
	// identities is the first that notes in the source header which origin it
	// was, so that a recreated one is told apart.
	identities = version{2, 15, 0}
)

func parseVersion(s string) (version, error) {
	s = strings.TrimPrefix(s, "v")
	core, _, _ := strings.Cut(s, "-")
	parts := strings.Split(core, ".")
	if len(parts) != 3 {
		return version{}, fmt.Errorf("server version %q is not of the form 2.10.0", s)
	}
	var n [3]int
	for i, p := range parts {
		v, err := strconv.Atoi(p)
		if err != nil || v < 0 {
			return version{}, fmt.Errorf("server version %q is not of the form 2.10.0", s)
		}
		n[i] = v
	}
	return version{n[0], n[1], n[2]}, nil
}

func (v version) before(o version) bool {
	if v.major != o.major {
		return v.major < o.major
	}
	if v.minor != o.minor {
		return v.minor < o.minor
	}
	return v.patch < o.patch
}

func (v version) String() string { return fmt.Sprintf("%d.%d.%d", v.major, v.minor, v.patch) }
