package app

import (
	"cmp"
	"encoding/json"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
)

// RevealFlags are the flags of commands that show jobs and dead letters. Secrets
// are hidden. --reveal shows them, and the history records it.
type RevealFlags struct {
	Reveal bool `help:"Show secrets too: values of keys such as password or api_key, and tokens in texts. The history records who did."`
	Authorship
}

// Check refuses --as and --comment where nothing is recorded.
func (r *RevealFlags) Check() error {
	if !r.Reveal && (r.As != "" || r.Comment != "") {
		return Usagef("--as and --comment are for the record of --reveal")
	}
	return nil
}

// Show shows the secrets of these dead letters, or jobs, from now on. Without
// --reveal it does nothing.
func (r *RevealFlags) Show(a *App, pool *pgxpool.Pool, ids ...uuid.UUID) error {
	if !r.Reveal {
		return nil
	}
	queue, err := r.DeadLetters(a, pool)
	if err != nil {
		return err
	}
	return a.revealed(queue.Reveal(a.Ctx, ids...))
}

// ShowList is reveal for a list: picked is what picked it.
func (r *RevealFlags) ShowList(a *App, pool *pgxpool.Pool, picked any, ids []uuid.UUID) error {
	if !r.Reveal {
		return nil
	}
	filter, err := json.Marshal(picked)
	if err != nil {
		return err
	}
	queue, err := r.DeadLetters(a, pool)
	if err != nil {
		return err
	}
	return a.revealed(queue.RevealList(a.Ctx, filter, ids))
}

// revealed lets secrets through to standard output once it is recorded who sees
// them; err is that of the record. What goes to standard error has none of them
// all the same: it ends up in logs.
func (a *App) revealed(err error) error {
	if err != nil {
		return a.NotRevealed(err)
	}
	a.Out.Reveal()
	return nil
}

// NotRevealed is the error of a command whose --reveal could not be recorded.
func (a *App) NotRevealed(err error) error {
	return fmt.Errorf("nothing is shown, since who sees secrets is recorded and that failed: %s", a.Describe(err))
}

// Redacted hides the secrets of v, unless they were revealed.
func Redacted[T interface{ Redacted() T }](a *App, v T) T {
	if a.Out.Revealed {
		return v
	}
	return v.Redacted()
}

// AllRedacted is Redacted for each of all.
func AllRedacted[T interface{ Redacted() T }](a *App, all []T) []T {
	for i, v := range all {
		all[i] = Redacted(a, v)
	}
	return all
}

// LetterIDs are the ids of dead letters.
func LetterIDs(jobs []deadletter.Job) []uuid.UUID {
	ids := make([]uuid.UUID, len(jobs))
	for i, j := range jobs {
		ids[i] = j.ID
	}
	return ids
}

// Authorship are the flags that name who changes dead letters, and why. The history
// keeps both.
type Authorship struct {
	As      string `placeholder:"NAME" help:"Your name in the history. Default USER@HOST."`
	Comment string `empty:"" placeholder:"TEXT" help:"Why you do it. The history keeps it."`
}

// Open connects to the database, as [App.Open] does, and returns its dead-letter
// queue too. The history of what is changed through it names the author.
func (w *Authorship) Open(a *App) (*pgxpool.Pool, *deadletter.Queue, error) {
	pool, err := a.Open()
	if err != nil {
		return nil, nil, err
	}
	queue, err := w.DeadLetters(a, pool)
	return pool, queue, err
}

// DeadLetters returns the dead-letter queue, whose history names the author.
func (w *Authorship) DeadLetters(a *App, pool *pgxpool.Pool) (*deadletter.Queue, error) {
	queue, err := a.DeadLetters(pool)
	if err != nil {
		return nil, err
	}
	return queue.As(cmp.Or(w.As, a.Actor), w.Comment), nil
}
