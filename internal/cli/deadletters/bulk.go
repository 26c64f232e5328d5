package deadletters

import (
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
	"soniq/internal/pg"
	"soniq/internal/unit"
)

// target is what replay and delete work on: single ids, or in bulk.
type target struct {
	IDs []string `arg:"" optional:"" name:"id" help:"Ids, as 'soniq dead-letter list' shows them. The first digits are enough."`
	All bool     `help:"All dead letters; replay takes only those in the state dead."`
	selection
	Limit  *int `placeholder:"N" help:"At most N, from 1 on. Default no limit."`
	DryRun bool `help:"Say what would be done, and change nothing."`
	Yes    bool `short:"y" help:"Don't ask."`
	app.Authorship
}

// resolve checks the whole command line before anything is done. Exactly one
// of ids and filter is meant: bulk says which.
func (t *target) resolve(now time.Time) (bulk bool, f deadletter.Filter, err error) {
	if len(t.IDs) > 0 {
		if t.All || t.given() || t.Limit != nil {
			return false, f, app.Usagef("give either ids, or --all and filters")
		}
		return false, f, app.CheckIDs(t.IDs...)
	}
	if !t.All && !t.given() {
		return true, f, app.Usagef("which dead letters? give ids, a filter such as --filter or --reason, or --all")
	}
	if f, err = t.filter(now); err != nil {
		return true, f, err
	}
	f.All = t.All
	if t.Limit != nil {
		if f.Limit = *t.Limit; f.Limit < 1 {
			return true, f, app.Usagef("--limit must be at least 1, not %d; leave it out for no limit", f.Limit)
		}
	}
	return true, f, nil
}

// clockAhead is by how much a dead letter must be dated ahead of the server's clock to be
// told of: what dies just now is not.
const clockAhead = time.Minute

const serverTimeSQL = `select clock_timestamp()`

// pin limits f to dead letters that exist now, by the server's clock. Jobs that die while
// the user reads the question are not affected. It says how many are left out because a
// clock that was ahead dated them.
func pin(a *app.App, pool *pgxpool.Pool, queue *deadletter.Queue, f *deadletter.Filter) error {
	var now time.Time
	if err := (pg.Schema{}).Pool(pool).QueryRow(a.Ctx, serverTimeSQL).Scan(&now); err != nil {
		return fmt.Errorf("read the server's time: %w", err)
	}
	// Keep a --since in the future: it must match nothing.
	if !f.To.IsZero() && !f.To.After(now) || f.From.After(now) {
		return nil
	}
	ahead := *f
	ahead.From, ahead.Limit = now.Add(clockAhead), 0
	f.To = now
	if !ahead.To.IsZero() && ahead.To.Before(ahead.From) {
		return nil
	}
	n, err := queue.Count(a.Ctx, ahead)
	if err == nil && n > 0 {
		a.Note("left out: %s of times that are still to come, by the server's clock: give their ids ('soniq dead-letter list' has them), or wait", terminal.Letters(n))
	}
	return err
}

// shownRows is how many dead letters a preview shows.
const shownRows = 10

// preview shows the first of the n dead letters that a bulk command would take.
func preview(a *app.App, verb string, n int64, list func() ([]deadletter.Job, error)) error {
	if a.JSON {
		return a.Out.Document(map[string]any{"dry_run": true, "count": n})
	}
	a.Out.Printf("Would %s %s.", verb, terminal.Letters(n))
	return previewRows(a, n, list)
}

// previewRows prints the first of n dead letters, and how many more there are.
func previewRows(a *app.App, n int64, list func() ([]deadletter.Job, error)) error {
	jobs, err := list()
	if err != nil {
		return err
	}
	for i := range jobs {
		jobs[i] = jobs[i].Redacted()
	}
	if err := printLetters(a, jobs); err != nil {
		return err
	}
	if rest := n - int64(len(jobs)); rest > 0 {
		a.Out.Printf("... and %s more", unit.Thousands(rest))
	}
	return nil
}

// unfinished is the error of a bulk command that changed some dead letters and was
// stopped, by a signal or by the loss of the connection for example: it says what was
// done, and that the same command goes on. What the database refuses, it refuses again.
func unfinished(a *app.App, done string, n int64, err error) error {
	var refused *pgconn.PgError
	if err == nil || n == 0 || errors.As(err, &refused) {
		return app.Partly(n, err)
	}
	return app.Partly(n, fmt.Errorf("%s; %s; the same command goes on", a.Describe(err), done))
}

// errNothingMatched ends a bulk command that found nothing to do.
var errNothingMatched = &app.ExitError{Code: app.ExitNothing, Err: errors.New("no dead letter matches; nothing was changed")}
