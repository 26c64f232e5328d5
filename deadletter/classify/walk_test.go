package classify_test

import (
	"errors"
	"fmt"
	"testing"

	"soniq/deadletter/classify"
)

// counting is an error that counts how often it is unwrapped.
type counting struct {
	error
	unwrapped *int
}

func (c counting) Unwrap() error {
	*c.unwrapped++
	return c.error
}

var builtIn = []classify.Classifier{classify.HTTP(), classify.GRPC(), classify.Postgres()}

// Each error is unwrapped once for an attempt, whatever decides.
func TestDecide_walksTheErrorsOnce(t *testing.T) {
	t.Parallel()
	for name, root := range map[string]error{
		"a text":             errors.New("no"),
		"a marker":           marked{errors.New("no"), true},
		"a marker, to retry": marked{errors.New("no"), false},
		"HTTP":               status(404),
		"gRPC":               rpc(5),
		"PostgreSQL":         sqlState("23514"),
		"a code of its own":  &declined{"4242"},
		"two":                errors.Join(sqlState("40001"), status(404)),
	} {
		for _, kind := range []classify.Kind{classify.KindError, classify.KindPanic, classify.KindTimeout, classify.KindDecode} {
			unwrapped := 0
			err := fmt.Errorf("send: %w", counting{root, &unwrapped})
			classify.Decide(classify.Attempt{JobName: "x", Attempt: 1, MaxAttempts: 3, Kind: kind, Err: err, Classifiers: builtIn})
			if unwrapped != 1 {
				t.Errorf("%s, %s: it was unwrapped %d times", name, kind, unwrapped)
			}
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	for name, err := range map[string]error{
		"text":    wrapped(errors.New("connection refused")),
		"sqlerr":  wrapped(sqlState("40001")),
		"status":  wrapped(status(503)),
		"joined3": fmt.Errorf("all: %w", joined(wrapped(status(503)), wrapped(sqlState("40001")), wrapped(errors.New("no")))),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				classify.Decide(classify.Attempt{JobName: "x", Attempt: 1, MaxAttempts: 3, Err: err, Classifiers: builtIn})
			}
		})
	}
}
