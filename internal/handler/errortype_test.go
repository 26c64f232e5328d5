package handler

import (
	"testing"

	"soniq/deadletter/classify"
)

// The groups of 0.1.0's dead letters go on: their errors had these types.
func TestErrors_typesAreThoseOf010(t *testing.T) {
	t.Parallel()
	for want, err := range map[string]error{
		"*main.commandError": &commandError{status: "exit status 1"},
		"*main.httpError":    &httpError{status: 500},
	} {
		v := classify.Decide(classify.Attempt{JobName: "x", Kind: classify.KindError, Err: err, Attempt: 1, MaxAttempts: 1})
		if v.Type != want {
			t.Errorf("the type is %s, want %s", v.Type, want)
		}
	}
}
