package config

import (
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"strconv"
)

// Bits that a mode of a local repository may have and must have: files are
// never executed, nobody but the owner and the group writes, and what the
// service could not read it could not verify.
const (
	modeMay  = 0o664
	modeMust = 0o600
)

// FileMode returns the permissions of a local repository's files as Mode says,
// 0 if it says nothing. An error names the field.
func (r *Repository) FileMode() (fs.FileMode, error) {
	if r.Mode == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(r.Mode, 8, 32)
	switch {
	case r.Kind != KindLocal && r.Kind != "":
		return 0, fmt.Errorf("mode: a repository of kind %s has none", r.Kind)
	case err != nil || n&^modeMay != 0 || n&modeMust != modeMust:
		return 0, fmt.Errorf(`mode: %q is none; "0600" is for the owner alone, "0640" lets the group read, "0660" write as well, "0644" everybody read, and "0664" both`, r.Mode)
	case n&0o060 == 0o020:
		return 0, fmt.Errorf("mode: %q lets the group write and not read", r.Mode)
	case runtime.GOOS == "windows":
		return 0, errors.New("mode: has no meaning on Windows; give the directory an access control list that is inherited")
	}
	return fs.FileMode(n), nil
}
