package classify_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"soniq/deadletter/classify"
)

// status is an error with the status of an HTTP response, as clients of APIs
// have them.
type status int

func (s status) Error() string   { return fmt.Sprintf("the server answered %d", int(s)) }
func (s status) StatusCode() int { return int(s) }

// awsStatus is the other way to name it.
type awsStatus struct{ status }

func (a awsStatus) HTTPStatusCode() int { return int(a.status) }
func (awsStatus) StatusCode() string    { return "not a number" }

// declinedStatus also has a code of its own.
type declinedStatus struct{ status }

func (declinedStatus) ErrorCode() string { return "card_declined" }

// Code is what gRPC's and Connect's errors have their numbers in.
type Code uint32

// rpcStatus and rpcError are shaped as those of google.golang.org/grpc.
type rpcStatus struct{ code Code }

func (s *rpcStatus) Code() Code {
	if s == nil {
		return 0
	}
	return s.code
}

type rpcError struct{ status *rpcStatus }

func (e *rpcError) Error() string          { return fmt.Sprintf("rpc error %d", e.status.Code()) }
func (e *rpcError) GRPCStatus() *rpcStatus { return e.status }

// connectError is shaped as those of connectrpc.com/connect.
type connectError struct{ code Code }

func (e *connectError) Error() string { return fmt.Sprintf("connect error %d", e.code) }
func (e *connectError) Code() Code    { return e.code }

// Codes that are none of gRPC's.
type (
	intCode    struct{ error }
	stringCode struct{ error }
	askingCode struct{ error }
	exitStatus uint32
	exitCode   struct{ error }
)

func (intCode) Code() int         { return 5 }
func (stringCode) Code() string   { return "5" }
func (askingCode) Code(int) Code  { return 5 }
func (exitCode) Code() exitStatus { return 5 }
func rpc(code Code) error         { return &rpcError{&rpcStatus{code}} }
func sqlState(state string) error {
	return &pgconn.PgError{Severity: "ERROR", Code: state, Message: "no"}
}
func wrapped(err error) error    { return fmt.Errorf("send: %w", fmt.Errorf("call: %w", err)) }
func joined(errs ...error) error { return errors.Join(errs...) }
func always(a classify.Advice) classify.Classifier {
	return classify.Classifier{Name: "always", Judge: func(error) classify.Opinion { return classify.Opinion{Advice: a} }}
}

const (
	none      = classify.NoAdvice
	retry     = classify.AdviseRetry
	permanent = classify.AdvisePermanent
)

func TestHTTP_eachStatus(t *testing.T) {
	t.Parallel()
	passing := []int{401, 407, 408, 409, 421, 423, 425, 429}
	for code := -1; code < 1000; code++ {
		want := classify.Opinion{}
		if code >= 400 && code < 600 {
			want = classify.Opinion{Advice: permanent, Code: fmt.Sprint(code), Err: status(code)}
		}
		if slices.Contains(passing, code) || code >= 500 && code < 600 && code != 501 && code != 505 {
			want.Advice = retry
		}
		if got := classify.HTTP().Opinion(status(code)); got != want {
			t.Errorf("%d: %+v, want %+v", code, got, want)
		}
	}
	for name, err := range map[string]error{
		"wrapped":          wrapped(status(404)),
		"the AWS way":      awsStatus{404},
		"one of two":       joined(io.EOF, status(404)),
		"the worse of two": joined(status(503), status(404)),
		"a wrapped pair":   fmt.Errorf("%w, %w", status(503), wrapped(status(404))),
	} {
		if got := classify.HTTP().Opinion(err); got.Advice != permanent || got.Code != "404" {
			t.Errorf("%s: %+v", name, got)
		}
	}
	for name, err := range map[string]error{
		"the network":  io.ErrUnexpectedEOF,
		"a deadline":   wrapped(context.DeadlineExceeded),
		"a nil":        (*hostile)(nil),
		"itself again": &ouroboros{},
	} {
		if got := classify.HTTP().Opinion(err); got.Advice != none || got.Code != "" {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestGRPC_eachCode(t *testing.T) {
	t.Parallel()
	want := map[Code]struct {
		advice classify.Advice
		code   string
	}{
		1: {none, "CANCELLED"}, 2: {none, "UNKNOWN"}, 3: {permanent, "INVALID_ARGUMENT"}, 4: {none, "DEADLINE_EXCEEDED"},
		5: {permanent, "NOT_FOUND"}, 6: {permanent, "ALREADY_EXISTS"}, 7: {permanent, "PERMISSION_DENIED"},
		8: {retry, "RESOURCE_EXHAUSTED"}, 9: {permanent, "FAILED_PRECONDITION"}, 10: {retry, "ABORTED"},
		11: {permanent, "OUT_OF_RANGE"}, 12: {permanent, "UNIMPLEMENTED"}, 13: {retry, "INTERNAL"}, 14: {retry, "UNAVAILABLE"},
		15: {permanent, "DATA_LOSS"}, 16: {retry, "UNAUTHENTICATED"},
	}
	for code := range Code(30) {
		for _, err := range []error{rpc(code), &connectError{code}, wrapped(rpc(code)), joined(io.EOF, wrapped(&connectError{code}))} {
			got := classify.GRPC().Opinion(err)
			if got.Advice != want[code].advice || got.Code != want[code].code {
				t.Errorf("%d of a %T: %+v, want %+v", code, err, got, want[code])
			}
		}
	}
	for name, err := range map[string]error{
		"no status":        &rpcError{},
		"a nil":            (*rpcError)(nil),
		"a number":         intCode{io.EOF},
		"a text":           stringCode{io.EOF},
		"with a parameter": askingCode{io.EOF},
		"another type":     exitCode{io.EOF},
		"none":             io.EOF,
	} {
		if got := classify.GRPC().Opinion(err); got.Advice != none || got.Code != "" {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestPostgres_eachClass(t *testing.T) {
	t.Parallel()
	for state, want := range map[string]classify.Advice{
		"22001": permanent, "22003": permanent, "22P02": permanent, "22021": permanent,
		"23502": permanent, "23514": permanent, "23000": permanent,
		"23503": retry, "23001": retry, "23505": retry, "23P01": retry,
		"08006": retry, "40001": retry, "40P01": retry, "53300": retry, "55P03": retry, "55006": retry,
		"57014": retry, "57P01": retry, "58030": retry,
		"42P01": none, "42703": none, "42501": none, "42601": none, "25P02": none, "P0001": none, "0A000": none, "XX000": none, "55000": none,
	} {
		for _, err := range []error{sqlState(state), wrapped(sqlState(state)), joined(io.EOF, sqlState(state))} {
			if got := classify.Postgres().Opinion(err); got.Advice != want || got.Code != state {
				t.Errorf("%s in a %T: %+v, want advice %d", state, err, got, want)
			}
		}
	}
	for _, state := range []string{"", "22", "8 40 5", "222222"} {
		if got := classify.Postgres().Opinion(sqlState(state)); got.Advice != none || got.Code != "" {
			t.Errorf("%q: %+v", state, got)
		}
	}
	// One that never reached the server has no state.
	if _, err := pgconn.Connect(t.Context(), "postgres://nobody@127.0.0.1:1/x?sslmode=disable&connect_timeout=1"); err == nil {
		t.Error("somebody listens on port 1")
	} else if got := classify.Postgres().Opinion(err); got.Advice != none || got.Code != "" {
		t.Errorf("connection refused: %+v", got)
	}
}

func TestDecide_classifiers(t *testing.T) {
	t.Parallel()
	http, grpc, postgres := classify.HTTP(), classify.GRPC(), classify.Postgres()
	all := []classify.Classifier{http, grpc, postgres}
	panics := classify.Classifier{Name: "panics", Judge: func(error) classify.Opinion { panic("judge") }}
	tests := []struct {
		name string
		classify.Attempt
		reason  classify.Reason // empty: retry
		decided string
		code    string
		typ     string // default not compared
	}{
		{
			name: "permanent at once", Attempt: classify.Attempt{Err: wrapped(status(404)), Classifiers: all},
			reason: classify.PermanentFailure, decided: "classifier:http", code: "404", typ: "classify_test.status",
		},
		{
			name: "retry while attempts are left", Attempt: classify.Attempt{Err: status(503), Classifiers: all},
			decided: "classifier:http", code: "503",
		},
		{
			name: "retry with none left", Attempt: classify.Attempt{Err: status(503), Attempt: 3, Classifiers: all},
			reason: classify.MaxRetriesExceeded, decided: "budget", code: "503",
		},
		{
			name: "without being asked for", Attempt: classify.Attempt{Err: status(404)},
			decided: "budget", code: "",
		},
		{
			name: "an error that none knows", Attempt: classify.Attempt{Err: io.EOF, Classifiers: all},
			decided: "budget",
		},
		{
			name: "a code without advice", Attempt: classify.Attempt{Err: rpc(4), Classifiers: all},
			decided: "budget", code: "DEADLINE_EXCEEDED",
		},
		{
			name: "Postgres", Attempt: classify.Attempt{Err: wrapped(sqlState("23514")), Classifiers: all},
			reason: classify.PermanentFailure, decided: "classifier:postgres", code: "23514", typ: "*pgconn.PgError",
		},
		{
			name: "the first with advice", Attempt: classify.Attempt{Err: joined(status(503), sqlState("23514")), Classifiers: all},
			decided: "classifier:http", code: "503",
		},
		{
			name:    "the order is the caller's",
			Attempt: classify.Attempt{Err: joined(status(503), sqlState("23514")), Classifiers: []classify.Classifier{postgres, http}},
			reason:  classify.PermanentFailure, decided: "classifier:postgres", code: "23514", typ: "*pgconn.PgError",
		},
		{
			name: "the error's own code comes first", Attempt: classify.Attempt{Err: wrapped(declinedStatus{402}), Classifiers: all},
			reason: classify.PermanentFailure, decided: "classifier:http", code: "card_declined",
		},
		{
			name: "the code is of the error that decided", Attempt: classify.Attempt{Err: joined(sqlState("40001"), status(404)), Classifiers: all},
			reason: classify.PermanentFailure, decided: "classifier:http", code: "404", typ: "classify_test.status",
		},
		{
			name: "an outer status hides an inner one", Attempt: classify.Attempt{Err: statusOver{503, status(404)}, Classifiers: all},
			decided: "classifier:http", code: "503",
		},
		{
			name: "a marker that says stop", Attempt: classify.Attempt{Err: marked{status(503), true}, Classifiers: all},
			reason: classify.PermanentFailure, decided: "marker", code: "503",
		},
		{
			name: "a marker that says try again", Attempt: classify.Attempt{Err: marked{status(404), false}, Classifiers: all},
			decided: "marker", code: "404",
		},
		{
			name:    "the job's rule",
			Attempt: classify.Attempt{Err: status(503), Permanent: func(error) bool { return true }, Classifiers: all},
			reason:  classify.PermanentFailure, decided: "rule", code: "503",
		},
		{
			name:    "a rule that doesn't fit",
			Attempt: classify.Attempt{Err: status(404), Permanent: func(error) bool { return false }, Classifiers: all},
			reason:  classify.PermanentFailure, decided: "classifier:http", code: "404",
		},
		{
			name: "one that panics", Attempt: classify.Attempt{Err: status(404), Classifiers: []classify.Classifier{panics, http}},
			reason: classify.PermanentFailure, decided: "classifier:http", code: "404",
		},
		{
			name: "none but one that panics", Attempt: classify.Attempt{Err: status(404), Classifiers: []classify.Classifier{panics, {}}},
			decided: "budget",
		},
		{
			name: "of an error whose methods panic", Attempt: classify.Attempt{Err: (*hostile)(nil), Classifiers: all},
			decided: "budget",
		},
		{
			name:    "after the job's own deadline",
			Attempt: classify.Attempt{Kind: classify.KindTimeout, Err: status(404), Classifiers: all},
			decided: "budget",
		},
		{
			name:    "on the last attempt, after the job's own deadline",
			Attempt: classify.Attempt{Kind: classify.KindTimeout, Err: status(404), Attempt: 3, Classifiers: all},
			reason:  classify.Timeout, decided: "timeout",
		},
		{
			name: "a panic", Attempt: classify.Attempt{Kind: classify.KindPanic, Err: status(404), Classifiers: all},
			decided: "budget",
		},
		{
			name:    "arguments that can't be read",
			Attempt: classify.Attempt{Kind: classify.KindDecode, Err: status(503), Classifiers: all},
			reason:  classify.InvalidArguments, decided: "arguments",
		},
		{
			name: "a crash", Attempt: classify.Attempt{Kind: classify.KindCrash, Classifiers: []classify.Classifier{always(permanent)}},
			decided: "budget",
		},
		{
			name: "advice that there isn't", Attempt: classify.Attempt{Err: io.EOF, Classifiers: []classify.Classifier{always(7)}},
			decided: "budget",
		},
		{
			name: "one of your own", Attempt: classify.Attempt{Err: io.EOF, Classifiers: []classify.Classifier{always(none), always(permanent)}},
			reason: classify.PermanentFailure, decided: "classifier:always", typ: "*errors.errorString",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.MaxAttempts, tt.Attempt.Attempt = 3, max(1, tt.Attempt.Attempt)
			v := classify.Decide(tt.Attempt)
			if v.Retry != (tt.reason == "") || v.Reason != tt.reason || v.DecidedBy != tt.decided || v.Code != tt.code {
				t.Errorf("retry %v, reason %q, decided by %q, code %q; want %q, %q, %q",
					v.Retry, v.Reason, v.DecidedBy, v.Code, tt.reason, tt.decided, tt.code)
			}
			if tt.typ != "" && v.Type != tt.typ {
				t.Errorf("type %s, want %s", v.Type, tt.typ)
			}
		})
	}
}

// statusOver is a status that wraps an error.
type statusOver struct {
	status
	inner error
}

func (s statusOver) Unwrap() error { return s.inner }

// A judge that goes by single errors may have a code of an outer one and advice
// of an inner one, and may be asked about errors that can't be compared.
func TestClassifier_JudgeEach_theOutermostAdvice(t *testing.T) {
	t.Parallel()
	judge := func(err error) classify.Opinion {
		switch s := err.(type) { //nolint:errorlint // it is asked about each
		case status:
			if s < 100 {
				return classify.Opinion{Code: fmt.Sprint(int(s))}
			}
			return classify.Opinion{Advice: retry}
		case many:
			return classify.Opinion{Advice: permanent, Err: io.EOF}
		default:
			return classify.Opinion{}
		}
	}
	classifier := classify.Classifier{JudgeEach: judge}
	for name, c := range map[string]struct {
		err  error
		want classify.Opinion
	}{
		"no error":                {nil, classify.Opinion{}},
		"a code alone":            {wrapped(status(7)), classify.Opinion{Code: "7", Err: status(7)}},
		"advice below a code":     {statusOver7{wrapped(status(500))}, classify.Opinion{Advice: retry, Err: status(500)}},
		"advice beside a code":    {joined(status(500), status(7)), classify.Opinion{Advice: retry, Err: status(500)}},
		"permanent is enough":     {joined(status(500), many{"a"}), classify.Opinion{Advice: permanent, Err: io.EOF}},
		"one that can't be equal": {many{"a", "b"}, classify.Opinion{Advice: permanent, Err: io.EOF}},
	} {
		if got := classifier.Opinion(c.err); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

type many []string

func (m many) Error() string { return strings.Join(m, ", ") }

type statusOver7 struct{ inner error }

func (statusOver7) Error() string   { return "7" }
func (s statusOver7) Unwrap() error { return joined(status(7), s.inner) }

func TestClassifier_Validate_namesTheMistake(t *testing.T) {
	t.Parallel()
	judge := func(error) classify.Opinion { return classify.Opinion{} }
	for want, c := range map[string]classify.Classifier{
		"no Name":          {Judge: judge},
		"its Judge is nil": {Name: "x"},
		"both set":         {Name: "x", Judge: judge, JudgeEach: judge},
		"valid UTF-8":      {Name: "a\x00", Judge: judge},
		"at most 200 byt":  {Name: strings.Repeat("x", 201), Judge: judge},
	} {
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
	for _, c := range []classify.Classifier{classify.HTTP(), classify.GRPC(), classify.Postgres()} {
		if err := c.Validate(); err != nil {
			t.Error(err)
		}
	}
}
