package store

import (
	"encoding/json"
)

// forgetBody is what a forget entry says.
type forgetBody struct {
	Points []string `json:"points"`
}

func decodeForget(e *entry) ([]string, error) {
	var b forgetBody
	if err := json.Unmarshal(e.body, &b); err != nil {
		return nil, damaged(entryName(e.chain, e.number), err, "body")
	}
	return b.Points, nil
}
