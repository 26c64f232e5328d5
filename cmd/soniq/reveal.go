package main

import (
	"cmp"
	"encoding/json"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
)

// revealFlags belong to the commands that show jobs and dead letters. What they
// show has no secrets in it; --reveal shows them, and the history tells.
type revealFlags struct {
	Reveal bool `help:"Show secrets too: values of keys such as password or api_key, tokens in texts. The history tells who did."`
	authorship
}

// check refuses --as and --because where nothing is recorded.
func (r *revealFlags) check() error {
	if !r.Reveal && (r.As != "" || r.Because != "") {
		return usagef("--as and --because are for the record of --reveal")
	}
	return nil
}

// reveal shows the secrets of these dead letters, or jobs, from now on. Without
// --reveal it does nothing.
func (r *revealFlags) reveal(a *app, pool *pgxpool.Pool, ids ...uuid.UUID) error {
	if !r.Reveal {
		return nil
	}
	queue, err := r.queue(a, pool)
	if err != nil {
		return err
	}
	return a.revealed(queue.Reveal(a.ctx, ids...))
}

// revealList is reveal for a list: picked is what picked it.
func (r *revealFlags) revealList(a *app, pool *pgxpool.Pool, picked any, ids []uuid.UUID) error {
	if !r.Reveal {
		return nil
	}
	filter, err := json.Marshal(picked)
	if err != nil {
		return err
	}
	queue, err := r.queue(a, pool)
	if err != nil {
		return err
	}
	return a.revealed(queue.RevealList(a.ctx, filter, ids))
}

// revealed lets secrets through to standard output once it is recorded who sees
// them; err is that of the record. What goes to standard error has none of them
// all the same: it ends up in logs.
func (a *app) revealed(err error) error {
	if err != nil {
		return notRevealed(err)
	}
	a.out.reveal()
	return nil
}

func notRevealed(err error) error {
	return fmt.Errorf("nothing is shown, since who sees secrets is recorded and that failed: %s", describe(err))
}

// hide redacts what a command is about to show, unless it was revealed.
func hide[T interface{ Redacted() T }](a *app, v T) T {
	if a.out.revealed {
		return v
	}
	return v.Redacted()
}

func hideAll[T interface{ Redacted() T }](a *app, all []T) []T {
	for i, v := range all {
		all[i] = hide(a, v)
	}
	return all
}

// letterIDs are the ids of dead letters.
func letterIDs(jobs []deadletter.Job) []uuid.UUID {
	ids := make([]uuid.UUID, len(jobs))
	for i, j := range jobs {
		ids[i] = j.ID
	}
	return ids
}

// authorship says who changes dead letters, and why: it is kept with them.
type authorship struct {
	As      string `placeholder:"NAME" help:"Who does it, in the history. Default you, on this machine."`
	Because string `placeholder:"TEXT" help:"Why you do it, in the history."`
}

// queue returns the dead-letter queue, whose history names the author.
func (w *authorship) queue(a *app, pool *pgxpool.Pool) (*deadletter.Queue, error) {
	queue, err := a.deadLetters(pool)
	if err != nil {
		return nil, err
	}
	return queue.As(cmp.Or(w.As, a.actor), w.Because), nil
}
