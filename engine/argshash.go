package engine

import (
	"encoding/json"

	"soniq/internal/argshash"
)

// argsHash is the args_hash of both languages.
func argsHash(raw json.RawMessage) (string, error) { return argshash.Sum(raw) }
