package store

import (
	"encoding/hex"
	"fmt"
)

// A place says where objects of one stream lie and what new ones are named
// with. A writer takes it when it begins.
type place struct {
	chain string
	since uint64 // number of the log's last entry then
	epoch uint64
}

func (r *Repository) packName(chain string, h hash256) string {
	return r.hashName(packsPrefix, chain, h)
}

func (r *Repository) metaName(chain string, h hash256) string {
	return r.hashName(metaPrefix, chain, h)
}

// hashName names an object by its hash. In format 1 the objects of all streams
// lay together.
func (r *Repository) hashName(prefix, chain string, h hash256) string {
	if r.marker.Format == 1 {
		return fmt.Sprintf("%s%02x/%x", prefix, h[0], h)
	}
	return chainObject(prefix, chain, hex.EncodeToString(h[:]))
}
