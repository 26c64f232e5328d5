package classify_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"soniq/deadletter/classify"
)

// marked is a wrapper with a verdict, as engine.Permanent makes one.
type marked struct {
	error
	permanent bool
}

func (m marked) Permanent() bool { return m.permanent }
func (m marked) Unwrap() error   { return m.error }

type declined struct{ card string }

func (d *declined) Error() string     { return "card " + d.card + " declined" }
func (d *declined) ErrorCode() string { return "card_declined" }

// hostile has methods that panic, as those of a nil pointer do.
type hostile struct{ text string }

func (h *hostile) Error() string       { return h.text }
func (h *hostile) Permanent() bool     { return h.text == "" }
func (h *hostile) Unwrap() error       { panic(h.text) }
func (h *hostile) ErrorCode() string   { return h.text }
func (h *hostile) Fingerprint() string { return h.text }
func (h *hostile) ErrorType() string   { return h.text }

// mute is an error whose nil pointer can speak.
type mute struct{}

func (*mute) Error() string { return "" }

// chameleon stands for another error by its method As.
type chameleon struct{}

func (chameleon) Error() string { return "chameleon" }
func (chameleon) As(target any) bool {
	p, ok := target.(*interface{ Permanent() bool })
	if ok {
		*p = marked{errors.New("inside"), true}
	}
	return ok
}

// ouroboros wraps itself.
type ouroboros struct{}

func (o *ouroboros) Error() string { return "round and round" }
func (o *ouroboros) Unwrap() error { return o }

func TestDecide_decidesByTheFirstLineThatFits(t *testing.T) {
	t.Parallel()
	plain := errors.New("connection refused")
	permanent := func(err error) error { return marked{err, true} }
	temporary := func(err error) error { return marked{err, false} }
	isPlain := func(err error) bool { return errors.Is(err, plain) }

	tests := []struct {
		name     string
		attempt  classify.Attempt
		retry    bool
		reason   classify.Reason
		decided  string
		wantKind classify.Kind // default the attempt's
	}{
		{
			name:    "an error with attempts left",
			attempt: classify.Attempt{Attempt: 1, MaxAttempts: 3, Err: plain},
			retry:   true, decided: "budget", wantKind: classify.KindError,
		},
		{
			name:    "the last but one attempt",
			attempt: classify.Attempt{Attempt: 2, MaxAttempts: 3, Kind: classify.KindError, Err: plain},
			retry:   true, decided: "budget",
		},
		{
			name:    "the last attempt",
			attempt: classify.Attempt{Attempt: 3, MaxAttempts: 3, Kind: classify.KindError, Err: plain},
			reason:  classify.MaxRetriesExceeded, decided: "budget",
		},
		{
			name:    "an attempt beyond the last",
			attempt: classify.Attempt{Attempt: 4, MaxAttempts: 3, Kind: classify.KindCrash},
			reason:  classify.MaxRetriesExceeded, decided: "budget",
		},
		{
			name:    "no attempts at all",
			attempt: classify.Attempt{Kind: classify.KindError, Err: plain},
			reason:  classify.MaxRetriesExceeded, decided: "budget",
		},
		{
			name:    "a name that nobody knows",
			attempt: classify.Attempt{Attempt: 1, MaxAttempts: 3, Kind: classify.KindUnregistered},
			reason:  classify.JobNotFound, decided: "fleet",
		},
		{
			name:    "arguments that can't be read",
			attempt: classify.Attempt{Attempt: 1, MaxAttempts: 3, Kind: classify.KindDecode, Err: io.ErrUnexpectedEOF},
			reason:  classify.InvalidArguments, decided: "arguments",
		},
		{
			name:    "arguments that a marker calls permanent",
			attempt: classify.Attempt{Attempt: 1, MaxAttempts: 3, Kind: classify.KindDecode, Err: permanent(plain)},
			reason:  classify.InvalidArguments, decided: "arguments",
		},
		{
			name:    "a handler's error that a decoder would return too",
			attempt: classify.Attempt{Attempt: 1, MaxAttempts: 3, Kind: classify.KindError, Err: io.ErrUnexpectedEOF},
			retry:   true, decided: "budget",
		},
		{
			name:    "a marker",
			attempt: classify.Attempt{Attempt: 1, MaxAttempts: 3, Kind: classify.KindError, Err: permanent(plain)},
			reason:  classify.PermanentFailure, decided: "marker",
		},
		{
			name:    "a marker on the last attempt",
			attempt: classify.Attempt{Attempt: 3, MaxAttempts: 3, Kind: classify.KindError, Err: permanent(plain)},
			reason:  classify.PermanentFailure, decided: "marker",
		},
		{
			name:    "a marker deep in the chain",
			attempt: classify.Attempt{Attempt: 1, MaxAttempts: 3, Kind: classify.KindError, Err: fmt.Errorf("a: %w", fmt.Errorf("b: %w", permanent(plain)))},
			reason:  classify.PermanentFailure, decided: "marker",
		},
		{
			name:    "a marker among joined errors",
			attempt: classify.Attempt{Attempt: 1, MaxAttempts: 3, Kind: classify.KindError, Err: errors.Join(plain, temporary(plain), permanent(plain))},
			reason:  classify.PermanentFailure, decided: "marker",
		},
		{
			name:    "a marker in one of two %w",
			attempt: classify.Attempt{Attempt: 1, MaxAttempts: 3, Kind: classify.KindError, Err: fmt.Errorf("%w, %w", plain, permanent(plain))},
			reason:  classify.PermanentFailure, decided: "marker",
		},
		{
			name:    "an outer marker that says try again",
			attempt: classify.Attempt{Attempt: 1, MaxAttempts: 3, Kind: classify.KindError, Err: temporary(permanent(plain))},
			retry:   true, decided: "marker",
		},
		{
			name:    "an outer marker that says stop",
			attempt: classify.Attempt{Attempt: 1, MaxAttempts: 3, Kind: classify.KindError, Err: permanent(temporary(plain))},
			reason:  classify.PermanentFailure, decided: "marker",
		},
		{
			name:    "a marker that says try again, with no attempts left",
			attempt: classify.Attempt{Attempt: 3, MaxAttempts: 3, Kind: classify.KindError, Err: temporary(plain)},
			reason:  classify.MaxRetriesExceeded, decided: "budget",
		},
		{
			name:    "a marker in a panic",
			attempt: classify.Attempt{Attempt: 1, MaxAttempts: 3, Kind: classify.KindPanic, Err: permanent(plain)},
			reason:  classify.PermanentFailure, decided: "marker",
		},
		{
			name:    "a marker in a timeout",
			attempt: classify.Attempt{Attempt: 1, MaxAttempts: 3, Kind: classify.KindTimeout, Err: permanent(plain)},
			reason:  classify.PermanentFailure, decided: "marker",
		},
		{
			name:    "a marker by the method As",
			attempt: classify.Attempt{Attempt: 1, MaxAttempts: 3, Kind: classify.KindError, Err: chameleon{}},
			reason:  classify.PermanentFailure, decided: "marker",
		},
		{
			name:    "the job's rule",
			attempt: classify.Attempt{Attempt: 1, MaxAttempts: 3, Kind: classify.KindError, Err: fmt.Errorf("send: %w", plain), Permanent: isPlain},
			reason:  classify.PermanentFailure, decided: "rule",
		},
		{
			name:    "a rule that doesn't fit",
			attempt: classify.Attempt{Attempt: 1, MaxAttempts: 3, Kind: classify.KindError, Err: io.EOF, Permanent: isPlain},
			retry:   true, decided: "budget",
		},
		{
			name:    "a rule against a marker that says try again",
			attempt: classify.Attempt{Attempt: 1, MaxAttempts: 3, Kind: classify.KindError, Err: temporary(plain), Permanent: isPlain},
			retry:   true, decided: "marker",
		},
		{
			name:    "a rule that panics",
			attempt: classify.Attempt{Attempt: 1, MaxAttempts: 3, Kind: classify.KindError, Err: plain, Permanent: func(error) bool { panic("rule") }},
			retry:   true, decided: "budget",
		},
		{
			name:    "a rule without an error to ask about",
			attempt: classify.Attempt{Attempt: 1, MaxAttempts: 3, Kind: classify.KindCrash, Permanent: func(error) bool { return true }},
			retry:   true, decided: "budget",
		},
		{
			name:    "the job's deadline, with attempts left",
			attempt: classify.Attempt{Attempt: 1, MaxAttempts: 3, Kind: classify.KindTimeout, Err: context.DeadlineExceeded},
			retry:   true, decided: "budget",
		},
		{
			name:    "the job's deadline on the last attempt",
			attempt: classify.Attempt{Attempt: 3, MaxAttempts: 3, Kind: classify.KindTimeout, Err: context.DeadlineExceeded},
			reason:  classify.Timeout, decided: "timeout",
		},
		{
			name:    "another error after the job's deadline",
			attempt: classify.Attempt{Attempt: 3, MaxAttempts: 3, Kind: classify.KindTimeout, Err: plain},
			reason:  classify.Timeout, decided: "timeout",
		},
		{
			name:    "a deadline that isn't the job's",
			attempt: classify.Attempt{Attempt: 3, MaxAttempts: 3, Kind: classify.KindError, Err: fmt.Errorf("get: %w", context.DeadlineExceeded)},
			reason:  classify.MaxRetriesExceeded, decided: "budget",
		},
		{
			name:    "a panic with attempts left",
			attempt: classify.Attempt{Attempt: 1, MaxAttempts: 3, Kind: classify.KindPanic, Message: "index out of range"},
			retry:   true, decided: "budget",
		},
		{
			name:    "a panic on the last attempt",
			attempt: classify.Attempt{Attempt: 3, MaxAttempts: 3, Kind: classify.KindPanic, Message: "index out of range"},
			reason:  classify.MaxRetriesExceeded, decided: "budget",
		},
		{
			name:    "Goexit on the last attempt",
			attempt: classify.Attempt{Attempt: 3, MaxAttempts: 3, Kind: classify.KindGoexit},
			reason:  classify.MaxRetriesExceeded, decided: "budget",
		},
		{
			name:    "a nil pointer as error",
			attempt: classify.Attempt{Attempt: 1, MaxAttempts: 3, Kind: classify.KindError, Err: (*hostile)(nil)},
			retry:   true, decided: "budget",
		},
		{
			name:    "an error that wraps itself",
			attempt: classify.Attempt{Attempt: 1, MaxAttempts: 3, Kind: classify.KindError, Err: &ouroboros{}},
			retry:   true, decided: "budget",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			v := classify.Decide(tt.attempt)
			if v.Retry != tt.retry || v.Reason != tt.reason || v.DecidedBy != tt.decided {
				t.Errorf("retry %v, reason %q, decided by %q; want %v, %q, %q",
					v.Retry, v.Reason, v.DecidedBy, tt.retry, tt.reason, tt.decided)
			}
			want := tt.wantKind
			if want == "" {
				want = tt.attempt.Kind
			}
			if v.Kind != want {
				t.Errorf("kind %q, want %q", v.Kind, want)
			}
			if v.Message == "" {
				t.Error("no message")
			}
			if len(v.Fingerprint) != 16 {
				t.Errorf("fingerprint %q", v.Fingerprint)
			}
		})
	}
}

func TestDecide_namesTheErrorAtTheRoot(t *testing.T) {
	t.Parallel()
	refused := &url.Error{Op: "Get", URL: "http://x", Err: &net.OpError{
		Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED),
	}}
	tests := []struct {
		name      string
		err       error
		typ, code string
		message   string
		standsIn  string
	}{
		{name: "a sentence", err: errors.New("no"), typ: "*errors.errorString", message: "no"},
		{name: "a wrapped sentence", err: fmt.Errorf("send: %w", errors.New("no")), typ: "*errors.errorString", message: "send: no"},
		{name: "a type", err: fmt.Errorf("pay: %w", &declined{"4242"}), typ: "*classify_test.declined", code: "card_declined", message: "pay: card 4242 declined"},
		{name: "a marked type", err: marked{&declined{"4242"}, true}, typ: "*classify_test.declined", code: "card_declined", message: "card 4242 declined"},
		{name: "a marked sentence", err: marked{errors.New("no"), true}, typ: "*errors.errorString", message: "no"},
		{name: "the marked one of two", err: errors.Join(io.EOF, marked{&declined{"1"}, true}), typ: "*classify_test.declined", code: "card_declined", message: "EOF\ncard 1 declined"},
		{name: "the root of a deep chain", err: refused, typ: "syscall.Errno", message: `Get "http://x": dial: connect: connection refused`},
		{name: "Postgres", err: fmt.Errorf("save: %w", &pgconn.PgError{Severity: "ERROR", Code: "23505", Message: "duplicate key"}), typ: "*pgconn.PgError", code: "23505", message: "save: ERROR: duplicate key (SQLSTATE 23505)"},
		{name: "a deadline", err: context.DeadlineExceeded, typ: "context.deadlineExceededError", message: "context deadline exceeded"},
		{name: "a nil pointer", err: (*hostile)(nil), typ: "*classify_test.hostile", message: "an error of type *classify_test.hostile, whose Error method panicked"},
		{name: "a nil pointer with a stand-in", err: (*hostile)(nil), standsIn: "it broke", typ: "*classify_test.hostile", message: "it broke"},
		{name: "no text", err: (*mute)(nil), typ: "*classify_test.mute", message: "an error of type *classify_test.mute without a text"},
		{name: "no error", standsIn: "panic value", message: "panic value"},
		{name: "a NUL", err: errors.New("a\x00b"), typ: "*errors.errorString", message: "a\uFFFDb"},
		{name: "a loop", err: &ouroboros{}, typ: "*classify_test.ouroboros", message: "round and round"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			v := classify.Decide(classify.Attempt{Attempt: 1, MaxAttempts: 3, Err: tt.err, Message: tt.standsIn})
			if v.Type != tt.typ || v.Code != tt.code || v.Message != tt.message {
				t.Errorf("type %q, code %q, message %q; want %q, %q, %q", v.Type, v.Code, v.Message, tt.typ, tt.code, tt.message)
			}
		})
	}
}

func TestDecide_neverStoresMoreThanItMay(t *testing.T) {
	t.Parallel()
	v := classify.Decide(classify.Attempt{Err: errors.New("head " + strings.Repeat("é\x00\xff", 1<<20) + " tail")})
	if len(v.Message) > classify.MaxErrorBytes {
		t.Errorf("message has %d bytes", len(v.Message))
	}
	if !strings.HasPrefix(v.Message, "head ") || !strings.HasSuffix(v.Message, " tail") {
		t.Errorf("lost the head or the tail: %.20q", v.Message)
	}
}

func TestParseReason_knowsTheReasonsItWrites(t *testing.T) {
	t.Parallel()
	for _, r := range classify.Reasons() {
		if got, err := classify.ParseReason(string(r)); err != nil || got != r {
			t.Errorf("%s: %q, %v", r, got, err)
		}
	}
	if _, err := classify.ParseReason("timeouts"); err == nil || !strings.Contains(err.Error(), "timeout,") {
		t.Errorf("an unknown one: %v", err)
	}
}
