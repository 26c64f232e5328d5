package main

import (
	"errors"
	"fmt"
	"math"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
)

type replayCmd struct {
	target
	ResetAttempts  bool    `default:"true" negatable:"keep-attempts" help:"Start over at attempt 0; or go on counting, which needs --new-max-attempts above the attempts made."`
	NewMaxAttempts *int    `placeholder:"N" help:"Give it N attempts."`
	NewQueue       *string `placeholder:"QUEUE" help:"Put it into another queue."`
	NewPriority    *int    `placeholder:"N" help:"Give it another priority; lower runs first."`
	Force          bool    `help:"With ids: even where a replay is under way or has succeeded."`
}

func (replayCmd) Help() string {
	return `A replay is a new job with the same name and arguments. The dead letter stays as the record; it is resolved once a replay succeeds.

    soniq dead-letter replay 01890a5d-ac96-774b-bcce-b302099a8057
    soniq dead-letter replay --filter send_welcome_email --dry-run
    soniq dead-letter replay --all --reason timeout --yes`
}

func (c *replayCmd) options(bulk bool) (o deadletter.ReplayOptions, err error) {
	if bulk && c.Force {
		return o, usagef("--force is for ids: in bulk only what is dead is replayed")
	}
	o = deadletter.ReplayOptions{
		KeepAttempts: !c.ResetAttempts,
		Priority:     c.NewPriority,
		Force:        c.Force,
	}
	if c.NewQueue != nil {
		if o.Queue = *c.NewQueue; o.Queue == "" || !utf8.ValidString(o.Queue) {
			return o, usagef("--new-queue must be the name of a queue, not %q", o.Queue)
		}
	}
	if p := c.NewPriority; p != nil && int(int32(*p)) != *p {
		return o, usagef("--new-priority must fit into 32 bits, not %d", *p)
	}
	if c.NewMaxAttempts != nil {
		if o.MaxAttempts = *c.NewMaxAttempts; o.MaxAttempts < 1 || o.MaxAttempts > math.MaxInt32 {
			return o, usagef("--new-max-attempts must be from 1 to %d, not %d", math.MaxInt32, o.MaxAttempts)
		}
	}
	return o, nil
}

func (c *replayCmd) Run(a *app) error {
	bulk, f, err := c.resolve(a.now())
	if err != nil {
		return err
	}
	o, err := c.options(bulk)
	if err != nil {
		return err
	}
	pool, err := a.open()
	if err != nil {
		return err
	}
	queue := deadletter.NewQueue(pool)
	if bulk {
		return c.bulk(a, pool, queue, f, o)
	}
	ids, failed, err := findIDs(a.ctx, queue, c.IDs)
	if err != nil {
		return err
	}
	return c.single(a, queue, ids, failed, o)
}

func (c *replayCmd) single(a *app, queue *deadletter.Queue, ids []uuid.UUID, failed []failure, o deadletter.ReplayOptions) error {
	replayed := []deadletter.Replayed{}
	var broken error
	for _, id := range ids {
		said, newID, err := c.one(a, queue, id, o)
		if err != nil {
			text, single := replayError(err)
			if !single {
				broken = err
				break
			}
			failed = append(failed, failure{id.String(), text})
			continue
		}
		replayed = append(replayed, deadletter.Replayed{From: id, To: newID})
		if !a.JSON {
			a.out.printf("%s", said)
		}
	}
	if a.JSON {
		if err := a.out.document(c.result(replayed, failed)); err != nil {
			return err
		}
	}
	return a.brokenOutcome(len(replayed), failed, broken)
}

// one replays a dead letter, or finds out whether it could be. said is the line
// for a person.
func (c *replayCmd) one(a *app, queue *deadletter.Queue, id uuid.UUID, o deadletter.ReplayOptions) (said string, newID uuid.UUID, err error) {
	if !c.DryRun {
		newID, err = queue.Replay(a.ctx, id, o)
		return fmt.Sprintf("Replayed %s as %s", id, newID), newID, err
	}
	j, err := queue.Get(a.ctx, id)
	if err == nil {
		err = queue.CheckReplay(a.ctx, id, o)
	}
	return fmt.Sprintf("Would replay %s (%s, %s)", id, oneLine(j.JobName), oneLine(string(j.Reason))), newID, err
}

func (c *replayCmd) result(replayed []deadletter.Replayed, failed []failure) any {
	if !c.DryRun {
		return map[string]any{"replayed": replayed, "failed": failed}
	}
	ids := make([]uuid.UUID, len(replayed))
	for i, r := range replayed {
		ids[i] = r.From
	}
	return map[string]any{"dry_run": true, "ids": ids, "failed": failed}
}

// replayError is the text of an error that concerns one dead letter; single is
// false for one that would meet every other, too.
func replayError(err error) (text string, single bool) {
	var attempts *deadletter.AttemptsError
	var duplicate *deadletter.DuplicateError
	var stateErr *deadletter.StateError
	switch {
	case errors.As(err, &stateErr):
		return replayRefused(stateErr), true
	case errors.Is(err, deadletter.ErrNotFound):
		return deadletter.ErrNotFound.Error(), true
	case errors.As(err, &duplicate):
		return fmt.Sprintf("an equal job is queued already: %s", duplicate.ID), true
	case errors.As(err, &attempts):
		return fmt.Sprintf("it made %d of %d attempts: with --keep-attempts it needs --new-max-attempts above %d",
			attempts.Attempts, attempts.MaxAttempts, attempts.Attempts), true
	default:
		return "", false
	}
}

// replayAllError is the error of a bulk replay, which one dead letter without
// attempts left fails.
func replayAllError(err error) error {
	var attempts *deadletter.AttemptsError
	if errors.As(err, &attempts) {
		text, _ := replayError(err)
		return fmt.Errorf("%s: %s; nothing was changed", attempts.ID, text)
	}
	return err
}

func replayRefused(e *deadletter.StateError) string {
	text := e.State
	switch e.State {
	case deadletter.StateReplaying:
		text = "a replay is under way"
	case deadletter.StateResolved:
		text = "a replay succeeded already"
	}
	if e.ReplayJobID != nil {
		text += fmt.Sprintf(" (job %s)", *e.ReplayJobID)
	}
	return text + "; --force replays it again"
}

func (c *replayCmd) bulk(a *app, pool *pgxpool.Pool, queue *deadletter.Queue, f deadletter.Filter, o deadletter.ReplayOptions) error {
	if err := pin(a.ctx, pool, &f); err != nil {
		return err
	}
	n, err := queue.ReplayCount(a.ctx, f, o)
	if err != nil {
		return replayAllError(err)
	}
	if n == 0 {
		return errNothingMatched
	}
	if c.DryRun {
		return a.preview("replay", n, func() ([]deadletter.Job, error) {
			return queue.ReplayList(a.ctx, f, previewRows)
		})
	}
	question := fmt.Sprintf("This will queue %s again. Where the cause isn't mended they will fail again.", letters(n))
	if err := a.confirm(c.Yes, question); err != nil {
		return err
	}
	result, err := queue.ReplayAll(a.ctx, f, o)
	if err != nil {
		return replayAllError(err)
	}
	if a.JSON {
		if result.Replayed == nil {
			result.Replayed = []deadletter.Replayed{}
		}
		if err := a.out.document(result); err != nil {
			return err
		}
	} else {
		for _, r := range result.Replayed {
			a.out.printf("Replayed %s as %s", r.From, r.To)
		}
	}
	a.note("replayed %s", letters(int64(len(result.Replayed))))
	if result.Skipped == 0 {
		return nil
	}
	code := exitPartly
	if len(result.Replayed) == 0 {
		code = exitFailed
	}
	return &exitError{code, fmt.Errorf("skipped %s: an equal unique job is queued already", letters(int64(result.Skipped)))}
}
