package deadletters

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"soniq/deadletter"
	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
)

type replayCmd struct {
	target
	ResetAttempts  bool    `default:"true" negatable:"keep-attempts" help:"Start at attempt 0. --keep-attempts keeps the count, and needs --new-max-attempts above the attempts made."`
	NewMaxAttempts *int    `placeholder:"N" help:"Set the number of attempts, from 1 on."`
	NewQueue       *string `placeholder:"QUEUE" help:"Use another queue."`
	NewPriority    *int    `placeholder:"N" help:"Set another priority; lower runs first."`
	Delay          string  `placeholder:"DURATION" help:"Run it after DURATION: 90s, 10m, 2h, 1d; 0 is now."`
	Force          bool    `help:"With ids: replay even while a replay is under way, or after one succeeded."`

	replayEdit
	replayPace
	Resume *string `placeholder:"OPERATION" help:"Continue a bulk replay that was stopped."`
}

func (replayCmd) Help() string {
	return `A replay is a new job with the same name and arguments. The dead letter stays as the record, and becomes resolved when a replay succeeds.

    soniq dead-letter replay 01890a5d-ac96-774b-bcce-b302099a8057
    soniq dead-letter replay 01890a5d --set user.email=ada@example.com
    soniq dead-letter replay 01890a5d --edit
    soniq dead-letter replay --filter send_welcome_email --dry-run
    soniq dead-letter replay --reason timeout --rate 50/s --canary 5 --comment "the store is back"

--set, --unset, --args and --edit change the arguments of the new job. The dead letter keeps its own, and the history records the change. A PATH is keys with dots between them, and list indexes in brackets, such as items[0].sku; a backslash before a dot makes it part of a key. A VALUE that is valid JSON is JSON: 42 is a number, '"42"' and Ada are strings.

A bulk replay takes only dead letters in the state dead, the oldest first. Ctrl-C stops it after the current batch; --resume continues it.`
}

func (c *replayCmd) options(bulk bool) (o deadletter.ReplayOptions, err error) {
	if bulk && c.Force {
		return o, app.Usagef("--force is for ids: in bulk only what is dead is replayed")
	}
	if !bulk {
		if flag := c.replayPace.used(); flag != "" {
			return o, app.Usagef("%s is for a bulk replay, by a filter or --all", flag)
		}
	}
	o = deadletter.ReplayOptions{
		KeepAttempts: !c.ResetAttempts,
		Priority:     c.NewPriority,
		Force:        c.Force,
	}
	if c.NewQueue != nil {
		if o.Queue = *c.NewQueue; o.Queue == "" || !utf8.ValidString(o.Queue) {
			return o, app.Usagef("--new-queue must be the name of a queue, not %q", o.Queue)
		}
	}
	if p := c.NewPriority; p != nil && int(int32(*p)) != *p {
		return o, app.Usagef("--new-priority must fit into 32 bits, not %d", *p)
	}
	if c.NewMaxAttempts != nil {
		if o.MaxAttempts = *c.NewMaxAttempts; o.MaxAttempts < 1 || o.MaxAttempts > math.MaxInt32 {
			return o, app.Usagef("--new-max-attempts must be from 1 to %d, not %d", math.MaxInt32, o.MaxAttempts)
		}
	}
	if c.Delay != "" {
		if o.Delay, err = app.ParseDuration("--delay", c.Delay); err != nil {
			return o, err
		}
	}
	return o, nil
}

// checkReplay finds what the queue would refuse, before there is a connection.
func checkReplay(o deadletter.ReplayOptions) error {
	switch err := o.Validate(); {
	case err == nil:
		return nil
	case len(o.Queue) > deadletter.MaxNewQueue:
		return app.Usagef("--new-queue must be at most %d bytes, not %d", deadletter.MaxNewQueue, len(o.Queue))
	case o.Delay > deadletter.MaxDelay:
		return app.Usagef("--delay must be at most %dd, not %s", deadletter.MaxDelay/(24*time.Hour), o.Delay)
	default:
		return app.Usagef("%w", err)
	}
}

func (c *replayCmd) Run(a *app.App) error {
	if c.Resume != nil {
		return c.resume(a)
	}
	bulk, f, err := c.resolve(a.Now())
	if err != nil {
		return err
	}
	o, err := c.options(bulk)
	if err == nil {
		err = c.replayEdit.options(a, &o, &c.target)
	}
	if err != nil {
		return err
	}
	pace, err := c.pace(&o)
	if err != nil {
		return err
	}
	if err := checkReplay(o); err != nil {
		return err
	}
	pool, queue, err := c.Authorship.Open(a)
	if err != nil {
		return err
	}
	if err := c.window(&f, a.Now()); err != nil {
		return err
	}
	if bulk {
		return c.bulk(a, pool, queue, f, o, pace)
	}
	ids, failed, err := findIDs(a.Ctx, queue, c.IDs)
	if err != nil {
		return err
	}
	if c.Edit && len(ids) == 1 {
		if o.Args, err = c.edit(a, queue, ids[0], o); err != nil {
			return err
		}
	}
	return c.single(a, queue, ids, failed, o)
}

// edit has the person edit the arguments of a dead letter that can be replayed.
func (c *replayCmd) edit(a *app.App, queue *deadletter.Queue, id uuid.UUID, o deadletter.ReplayOptions) (json.RawMessage, error) {
	j, err := queue.Get(a.Ctx, id)
	if err == nil {
		err = queue.CheckReplay(a.Ctx, id, o)
	}
	if text, single := replayError(err); single {
		return nil, fmt.Errorf("%s: %s", id, text)
	}
	if err != nil {
		return nil, err
	}
	if err := c.reveal(a, queue, id); err != nil {
		return nil, err
	}
	return c.editor(a, j, &c.target)
}

func (c *replayCmd) single(a *app.App, queue *deadletter.Queue, ids []uuid.UUID, failed []app.Failure, o deadletter.ReplayOptions) error {
	if !c.Edit {
		if err := c.reveal(a, queue, ids...); err != nil {
			return err
		}
	}
	replayed, edits := []deadletter.Replayed{}, []edited{}
	var broken error
	for _, id := range ids {
		said, newID, changed, err := c.one(a, queue, id, o)
		if err != nil {
			text, single := replayError(err)
			if !single {
				broken = err
				break
			}
			failed = append(failed, app.Failure{ID: id.String(), Error: text})
			continue
		}
		replayed = append(replayed, deadletter.Replayed{From: id, To: newID})
		if changed != nil {
			edits = append(edits, edited{id, changed})
		}
		if !a.JSON {
			a.Out.Printf("%s", said)
			if changed != nil && !c.Edit || changed != nil && c.DryRun {
				if err := printChanges(a, changed); err != nil {
					return err
				}
			}
		}
	}
	if a.JSON {
		if err := a.Out.Document(c.result(replayed, edits, failed)); err != nil {
			return err
		}
	}
	return a.BrokenOutcome(len(replayed), failed, broken)
}

// one replays a dead letter, or finds out whether it could be. said is the line
// for a person; changed is nil where the arguments stay as they are.
func (c *replayCmd) one(a *app.App, queue *deadletter.Queue, id uuid.UUID, o deadletter.ReplayOptions) (
	said string, newID uuid.UUID, changed []deadletter.ArgsChange, err error,
) {
	var j deadletter.Job
	if c.DryRun || c.replayEdit.used() != "" {
		if j, err = queue.Get(a.Ctx, id); err != nil {
			return "", newID, nil, err
		}
	}
	if c.DryRun {
		err = queue.CheckReplay(a.Ctx, id, o)
		said = fmt.Sprintf("Would replay %s (%s, %s)", id, terminal.OneLine(j.JobName), terminal.OneLine(string(j.Reason)))
	} else {
		newID, err = queue.Replay(a.Ctx, id, o)
		said = fmt.Sprintf("Replayed %s as %s", id, newID)
	}
	if err == nil && c.replayEdit.used() != "" {
		changed, err = c.changes(a, j.Args, o)
	}
	return said, newID, changed, err
}

// edited is what --json prints about a replay with other arguments.
type edited struct {
	ID      uuid.UUID               `json:"id"`
	Changes []deadletter.ArgsChange `json:"changes"`
}

func (c *replayCmd) result(replayed []deadletter.Replayed, edits []edited, failed []app.Failure) any {
	result := map[string]any{"failed": failed}
	if c.DryRun {
		ids := make([]uuid.UUID, len(replayed))
		for i, r := range replayed {
			ids[i] = r.From
		}
		result["dry_run"], result["ids"] = true, ids
	} else {
		result["replayed"] = replayed
	}
	if c.replayEdit.used() != "" {
		result["edits"] = edits
	}
	return result
}

// replayError is the text of an error that concerns one dead letter; single is
// false for one that would meet every other, too.
func replayError(err error) (text string, single bool) {
	var attempts *deadletter.AttemptsError
	var duplicate *deadletter.DuplicateError
	var stateErr *deadletter.StateError
	var misfit *deadletter.EditError
	switch {
	case errors.As(err, &misfit):
		return misfit.Path + ": " + misfit.Why, true
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
// attempts left fails, or without a place for an edit.
func replayAllError(err error) error {
	var attempts *deadletter.AttemptsError
	var misfit *deadletter.EditError
	text, _ := replayError(err)
	switch {
	case errors.As(err, &attempts):
		return fmt.Errorf("%s: %s; nothing was changed", attempts.ID, text)
	case errors.As(err, &misfit):
		return fmt.Errorf("%s: %s; nothing was changed", misfit.ID, text)
	}
	return err
}

func replayRefused(e *deadletter.StateError) string {
	text := string(e.State)
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
