package settle

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter/classify"
	"soniq/internal/pg"
	"soniq/internal/tracecontext"
)

// form is one way to write an outcome. The first is the outcome as it is. Each of the
// others leaves out something that the database may refuse, and keeps what becomes of
// the job.
type form struct {
	way     way
	outcome Outcome
	// instead: this form is tried after such a refusal of the one before.
	instead func(error) bool
}

// unstorable replaces an error text that the database refuses.
const unstorable = "the error could not be stored"

// forms are the ways to write o, which the database has refused for this reason.
func (s *Writer) forms(o Outcome, refusal error) []form {
	way := s.wayOf(o)
	forms := []form{{way: way, outcome: o}}
	if way == writeRequeue {
		// Its unique twin is queued, or about to be.
		way = writeRequeuePlain
		forms = append(forms, form{way, o, func(err error) bool { return isValue(err) || pg.IsCode(err, pg.LockNotAvailable) }})
	}
	switch {
	case o.Kind == Done && o.Result != nil:
		o.Result = NoResult(asciiText("the database refuses it: " + refusal.Error()))
		forms = append(forms, form{way, o, isValue})
	case o.Verdict.Message != "":
		// In a database that is not UTF-8, the rest of the text can be stored.
		plain := o
		plain.Verdict = ascii(o.Verdict)
		if plain.Verdict.Message != o.Verdict.Message {
			forms = append(forms, form{way, plain, isValue})
		}
		plain.Verdict.Message, plain.Verdict.Stack = unstorable, ""
		forms = append(forms, form{way, plain, isValue})
	}
	return forms
}

// isValue reports whether a refusal may be about a value, and not about rights, the
// server or the moment.
func isValue(err error) bool {
	return pg.IsDataError(err) || pg.IsClass(err, pg.ClassInternal)
}

// NoResult is stored in the place of the result of a job that is done, if the result
// can't be stored: the work is done, and must not be done again for its sake.
func NoResult(why string) json.RawMessage {
	note, _ := json.Marshal(map[string]string{"result_not_stored": pg.Storable(why, classify.MaxErrorBytes)})
	return note
}

// ascii is a verdict with a question mark in the place of each character that not every
// encoding has.
func ascii(v classify.Verdict) classify.Verdict {
	for _, text := range []*string{&v.Message, &v.Stack, &v.Type, &v.Code, &v.DecidedBy} {
		*text = asciiText(*text)
	}
	return v
}

func asciiText(s string) string {
	return strings.Map(func(r rune) rune {
		if r > '~' {
			return '?'
		}
		return r
	}, s)
}

// writeOne writes an outcome by itself that was refused, in the first form that the
// database takes, and reports it. The error is that of the first form.
func (s *Writer) writeOne(ctx context.Context, o Outcome, refusal error, patience time.Duration) (err error) {
	var last error
	for _, f := range s.forms(o, refusal) {
		if last != nil && !f.instead(last) {
			continue
		}
		var ids []uuid.UUID
		group := []Outcome{f.outcome}
		ids, last = s.exec(ctx, f.way, group, patience)
		if pg.IsNotifyQueueFull(last) {
			// The next try finds what room there is now.
			_, _ = pg.FreeNotifyQueue(ctx, s.Pool)
		}
		if last == nil {
			if o.Result != nil && !slices.Equal(group[0].Result, o.Result) {
				s.Logger.Error("the database refuses the result of a job; the job is done, with a note in its place",
					tracecontext.Attrs(o.Trace, "job", o.ID, "job_name", o.Name, "error", err)...)
			}
			s.report(ctx, group, ids, o.unsure)
			return nil
		}
		if err == nil {
			err = last
		}
		if !pg.Refused(last) {
			break
		}
		if pg.IsCode(last, pg.LockNotAvailable) {
			if locked, ok := s.locked(ctx, group); !ok || len(locked) > 0 {
				return &lockedError{last}
			}
		}
	}
	return err
}

// lockedError is that of an outcome whose row another session has locked.
type lockedError struct{ error }

func (e *lockedError) Unwrap() error { return e.error }

func (e *lockedError) Error() string {
	return fmt.Sprintf("another session holds the row locked: %v", e.error)
}
