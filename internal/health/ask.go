package health

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
)

// Ask returns the report of a [Handler] in this process.
//
// Errors: that h is no such handler.
func Ask(h http.Handler) (r Report, err error) {
	request, err := http.NewRequest(http.MethodGet, ReadyPath, http.NoBody)
	if err != nil {
		return r, err
	}
	request.Header.Set("Accept", "application/json")
	answer := answer{header: http.Header{}}
	h.ServeHTTP(&answer, request)
	if err := json.Unmarshal(answer.body.Bytes(), &r); err != nil {
		return r, fmt.Errorf("ask the worker how it is: %w", err)
	}
	return r, nil
}

// answer keeps what a handler writes.
type answer struct {
	header http.Header
	body   bytes.Buffer
}

func (a *answer) Header() http.Header            { return a.header }
func (a *answer) Write(text []byte) (int, error) { return a.body.Write(text) }
func (a *answer) WriteHeader(int)                {}
