package dashboard

import (
	"encoding/json"
	"net/http"

	"soniq/internal/safetext"
)

// writeJSON answers a program.
func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(safetext.NewJSONWriter(w))
	enc.SetEscapeHTML(false)
	// Somebody who has gone is told nothing.
	_ = enc.Encode(v)
}
