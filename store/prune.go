package store

import (
	"encoding/json"
)

// pruneBody is what a prune entry says: objects that nothing may refer to any
// more.
type pruneBody struct {
	Objects []Used `json:"objects"`
}

func decodePrune(e *entry) (pruneBody, error) {
	var b pruneBody
	if err := json.Unmarshal(e.body, &b); err != nil {
		return b, damaged(entryName(e.chain, e.number), err, "body")
	}
	return b, nil
}
