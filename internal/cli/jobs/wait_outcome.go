package jobs

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter/classify"
	"soniq/engine"
	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
	"soniq/internal/redact"
	"soniq/internal/unit"
)

// jobOutcome is what --json says of a job that was waited for.
type jobOutcome struct {
	ID        uuid.UUID        `json:"id"`
	Duplicate bool             `json:"duplicate"`
	Name      string           `json:"job_name,omitempty"`
	Status    engine.JobStatus `json:"status"`
	Attempts  int              `json:"attempts,omitempty"`
	Reason    classify.Reason  `json:"dead_letter_reason,omitempty"`
	LastError string           `json:"last_error,omitempty"`
	Result    json.RawMessage  `json:"result"`
}

// outcomeOf describes a job that has ended. A nil j means that its row is gone: the job
// is done, and its worker keeps no results, or somebody has deleted it.
func outcomeOf(e engine.Enqueued, j *engine.Job) jobOutcome {
	if j == nil {
		return jobOutcome{ID: e.ID, Duplicate: e.Duplicate, Status: engine.StatusDone}
	}
	return jobOutcome{
		ID: e.ID, Duplicate: e.Duplicate, Name: j.Name, Status: j.Status, Attempts: j.Attempts,
		Reason: j.DeadLetterReason, LastError: j.LastError, Result: j.Result,
	}
}

// Redacted is the outcome for people's eyes.
func (e jobOutcome) Redacted() jobOutcome {
	e.Name, e.Reason = redact.Text(e.Name), classify.Reason(redact.Text(string(e.Reason)))
	e.LastError, e.Result = redact.Text(e.LastError), redact.JSON(e.Result)
	return e
}

// failure is why a job that has ended is not done, or nil.
func (e *jobOutcome) failure() error {
	switch e.Status {
	case engine.StatusDeadLetter:
		text := fmt.Sprintf("dead letter, %s", e.Reason)
		if e.LastError != "" {
			text += ": " + terminal.ErrorLine(e.LastError)
		}
		return errors.New(text)
	case engine.StatusCancelled:
		return errors.New("cancelled")
	default:
		return nil
	}
}

const goneText = "its row is gone, with a result if there was one: it is done, unless somebody has deleted it"

// waitForResult prints the result of one job.
func (f *waitFlags) waitForResult(a *app.App, pool *pgxpool.Pool, client *engine.Client, job engine.Enqueued) error {
	var outcome jobOutcome
	var gone bool
	err := f.await(a, pool, client, []uuid.UUID{job.ID}, func(_ uuid.UUID, j *engine.Job) {
		outcome, gone = app.Redacted(a, outcomeOf(job, j)), j == nil
	})
	if err != nil {
		return err
	}
	switch {
	case a.JSON:
		err = a.Out.Document(outcome)
	case outcome.Result != nil:
		err = a.Out.Document(outcome.Result)
	case outcome.Status == engine.StatusDone && !gone:
		a.Note("done, without a result")
	}
	if gone {
		a.Note(goneText)
	}
	if err != nil {
		return err
	}
	if failure := outcome.failure(); failure != nil {
		see := "job"
		if outcome.Status == engine.StatusDeadLetter {
			see = "dead-letter show"
		}
		return fmt.Errorf("job %s: %w (see 'soniq %s %[1]s')", job.ID, failure, see)
	}
	return nil
}

// waitForResults prints a line for each of many jobs, as they end.
func (f *waitFlags) waitForResults(a *app.App, pool *pgxpool.Pool, client *engine.Client, jobs []engine.Enqueued) error {
	var ids []uuid.UUID
	first := make(map[uuid.UUID]engine.Enqueued, len(jobs))
	for _, job := range jobs {
		// Lines that are duplicates of each other are one job.
		if _, ok := first[job.ID]; !ok {
			ids = append(ids, job.ID)
			first[job.ID] = job
		}
	}
	failed := 0
	err := f.await(a, pool, client, ids, func(id uuid.UUID, j *engine.Job) {
		outcome := app.Redacted(a, outcomeOf(first[id], j))
		if outcome.failure() != nil {
			failed++
		}
		if a.JSON {
			_ = a.Out.Record(outcome) // the wait looks at a.out.err
			return
		}
		text := string(outcome.Status)
		if err := outcome.failure(); err != nil {
			text = terminal.FirstLine(err.Error())
		} else if outcome.Result != nil {
			text += " " + terminal.CompactJSON(outcome.Result)
		}
		a.Out.Printf("%s %s", id, terminal.OneLine(text))
	})
	if err != nil || failed == 0 {
		return err
	}
	code := app.ExitPartly
	if failed == len(ids) {
		code = app.ExitFailed
	}
	return &app.ExitError{Code: code, Err: fmt.Errorf("%s of %s not done (see 'soniq dead-letter list')",
		unit.Thousands(int64(failed)), unit.Plural(int64(len(ids)), "job"))}
}
