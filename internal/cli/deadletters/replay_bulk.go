package deadletters

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
	"soniq/internal/explain"
	"soniq/internal/unit"
)

// replayPace are the flags of a bulk replay: how fast it goes, and what stops
// it.
type replayPace struct {
	Rate          string         `placeholder:"N/s" help:"At most N jobs a second (50/s), a minute (10/m) or an hour; above 0. Default no limit."`
	Canary        *int           `placeholder:"N" help:"Replay N first, from 1 on. Continue only if all of them succeed."`
	CanaryTimeout *time.Duration `placeholder:"DURATION" help:"How long to wait for them, above 0. Default 10m."`
	Breaker       string         `default:"50%" placeholder:"PERCENT" help:"Stop when this share of the finished replays failed again, once 20 have finished; 0 never stops. Default 50%."`
	MaxReplays    int            `default:"3" placeholder:"N" help:"Skip dead letters that were replayed N times; 0 skips none. Default 3."`
}

// used returns the first of the flags that was given, or an empty string. A flag that is
// given with its default value counts as not given.
func (p *replayPace) used() string {
	switch {
	case p.Rate != "":
		return "--rate"
	case p.Canary != nil:
		return "--canary"
	case p.CanaryTimeout != nil:
		return "--canary-timeout"
	case p.Breaker != "50%":
		return "--breaker"
	case p.MaxReplays != 3:
		return "--max-replays"
	default:
		return ""
	}
}

// pace reads the flags of a bulk replay, and sets what belongs to its options.
func (c *replayCmd) pace(o *deadletter.ReplayOptions) (p deadletter.Pace, err error) {
	if len(c.IDs) > 0 {
		return p, nil
	}
	if p.Rate, err = parseRate(c.Rate); err != nil {
		return p, err
	}
	const most = 1000
	if c.Canary != nil {
		if p.Canary = *c.Canary; p.Canary < 1 || p.Canary > most {
			return p, app.Usagef("--canary must be from 1 to %d, not %d", most, p.Canary)
		}
	}
	if c.CanaryTimeout != nil {
		if p.CanaryTimeout = *c.CanaryTimeout; p.CanaryTimeout <= 0 {
			return p, app.Usagef("--canary-timeout must be above 0, not %s", p.CanaryTimeout)
		}
	}
	percent, err := strconv.ParseFloat(strings.TrimSuffix(c.Breaker, "%"), 64)
	if err != nil || !(percent >= 0 && percent <= 100) {
		return p, app.Usagef("--breaker must be from 0%% to 100%%, not %q", c.Breaker)
	}
	p.Breaker = percent / 100
	if o.MaxReplays = c.MaxReplays; o.MaxReplays < 0 {
		return p, app.Usagef("--max-replays must not be negative: %d", c.MaxReplays)
	}
	return p, nil
}

// parseRate reads 50, 50/s, 10/m or 600/h as jobs a second. Empty is 0.
func parseRate(text string) (float64, error) {
	if text == "" {
		return 0, nil
	}
	number, unit, _ := strings.Cut(text, "/")
	seconds := map[string]float64{"": 1, "s": 1, "m": 60, "h": 3600}[unit]
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || seconds == 0 || strings.HasSuffix(text, "/") || !(n > 0 && n <= 1e6) {
		return 0, app.Usagef("--rate must be a number of jobs such as 50/s, 10/m or 600/h, not %q", text)
	}
	return n / seconds, nil
}

func (c *replayCmd) bulk(
	a *app.App, pool *pgxpool.Pool, queue *deadletter.Queue, f deadletter.Filter, o deadletter.ReplayOptions, pace deadletter.Pace,
) error {
	if err := pin(a, pool, queue, &f); err != nil {
		return err
	}
	if !c.Yes || c.DryRun {
		plan, err := queue.PlanReplay(a.Ctx, f, o)
		if err != nil {
			return replayAllError(err)
		}
		if plan.Picked == 0 {
			return nothingPicked(plan)
		}
		if c.DryRun {
			return c.previewReplay(a, queue, f, o, plan, explain.LeftOut(plan, " (--max-replays)", " (--new-queue)"))
		}
		if err := c.ask(a, queue, f, o, plan); err != nil {
			return err
		}
	}
	run := replayFollower{a: a, canary: int64(pace.Canary)}
	result, err := queue.ReplayAll(a.Ctx, f, deadletter.ReplayAllOptions{ReplayOptions: o, Pace: pace, OnProgress: run.onProgress})
	if !run.started && err == nil {
		// What a plan counts takes as long as some thousand replays: it is made only now.
		plan, err := queue.PlanReplay(a.Ctx, f, o)
		if err != nil {
			return replayAllError(err)
		}
		return nothingPicked(plan)
	}
	if !run.started {
		return replayAllError(err)
	}
	return run.end(result, err)
}

// nothingPicked is the error of a replay that would take nothing.
func nothingPicked(plan deadletter.ReplayPlan) error {
	rest := explain.LeftOut(plan, " (--max-replays)", " (--new-queue)")
	if rest == "" {
		return errNothingMatched
	}
	return &app.ExitError{Code: app.ExitNothing, Err: fmt.Errorf("no dead letter to replay; left alone: %s", rest)}
}

// ask shows what a bulk replay would do, and asks whether it should.
func (c *replayCmd) ask(a *app.App, queue *deadletter.Queue, f deadletter.Filter, o deadletter.ReplayOptions, plan deadletter.ReplayPlan) error {
	if err := c.showEdits(a, queue, f, o); err != nil {
		return err
	}
	question := fmt.Sprintf("This will queue %s again. Where the cause isn't mended they will fail again.", terminal.Letters(plan.Replay))
	if c.replayEdit.used() != "" {
		question = fmt.Sprintf("This will queue %s again, with their arguments changed. Where the cause isn't mended they will fail again.", terminal.Letters(plan.Replay))
	}
	if rest := explain.LeftOut(plan, " (--max-replays)", " (--new-queue)"); rest != "" {
		question += " Left alone: " + rest + "."
	}
	return a.Confirm(false, question)
}

func (c *replayCmd) previewReplay(
	a *app.App, queue *deadletter.Queue, f deadletter.Filter, o deadletter.ReplayOptions, plan deadletter.ReplayPlan, rest string,
) error {
	sample, err := c.sampleEdits(a, queue, f, o)
	if err != nil {
		return err
	}
	if a.JSON {
		result := map[string]any{"dry_run": true, "count": plan.Replay, "plan": plan}
		if sample != nil {
			result["edits"] = sample
		}
		return a.Out.Document(result)
	}
	a.Out.Printf("Would replay %s.", terminal.Letters(plan.Replay))
	if rest != "" {
		a.Out.Printf("Would leave alone: %s.", rest)
	}
	err = previewRows(a, plan.Picked, func() ([]deadletter.Job, error) { return queue.ReplayList(a.Ctx, f, o, shownRows) })
	if err != nil || sample == nil {
		return err
	}
	a.Out.Printf("\nArguments of the first %d", len(sample))
	for _, s := range sample {
		a.Out.Printf("%s", s.ID)
		if err := printChanges(a, s.Changes); err != nil {
			return err
		}
	}
	return nil
}

// shownEdits is the number of dead letters whose changes a preview shows.
const shownEdits = 3

// sampleEdits are the changes of the first dead letters that a bulk replay takes;
// nil where it changes none.
func (c *replayCmd) sampleEdits(a *app.App, queue *deadletter.Queue, f deadletter.Filter, o deadletter.ReplayOptions) ([]edited, error) {
	if c.replayEdit.used() == "" {
		return nil, nil
	}
	jobs, err := queue.ReplayList(a.Ctx, f, o, shownEdits)
	if err != nil {
		return nil, err
	}
	if err := c.reveal(a, queue, app.LetterIDs(jobs)...); err != nil {
		return nil, err
	}
	sample := []edited{}
	for _, j := range jobs {
		changes, err := c.changes(a, j.Args, o)
		if err != nil {
			return nil, err
		}
		sample = append(sample, edited{j.ID, changes})
	}
	return sample, nil
}

// showEdits shows before the question what would change.
func (c *replayCmd) showEdits(a *app.App, queue *deadletter.Queue, f deadletter.Filter, o deadletter.ReplayOptions) error {
	sample, err := c.sampleEdits(a, queue, f, o)
	if err != nil || len(sample) == 0 {
		return err
	}
	a.Note("Arguments of the first:")
	for _, s := range sample {
		a.Note("%s", s.ID)
		if err := noteChanges(a, s.Changes); err != nil {
			return err
		}
	}
	return nil
}

// resume continues an operation that was stopped.
func (c *replayCmd) resume(a *app.App) error {
	if len(c.IDs) > 0 || c.All || c.given() || c.Limit != nil || c.DryRun || c.replayPace.used() != "" || c.replayEdit.used() != "" {
		return app.Usagef("--resume goes on as the replay was started: give it alone")
	}
	id, err := uuid.Parse(*c.Resume)
	if err != nil {
		return app.Usagef("--resume must be the id of an operation, as 'soniq dead-letter history' shows it, not %q", *c.Resume)
	}
	_, queue, err := c.Authorship.Open(a)
	if err != nil {
		return err
	}
	run := replayFollower{a: a}
	result, err := queue.ResumeReplay(a.Ctx, id, run.onProgress)
	if errors.Is(err, deadletter.ErrNoOperation) {
		return fmt.Errorf("%s: %w", id, deadletter.ErrNoOperation)
	}
	if result.Operation.ID == uuid.Nil {
		return err
	}
	return run.end(result, err)
}

// linesUpTo is how many lines about single replays a terminal shows; more of
// them tell a person nothing.
const linesUpTo = 20

// A replayFollower shows the progress of a bulk replay, and how it ended.
type replayFollower struct {
	a *app.App
	// canary is how many are replayed first, or 0.
	canary  int64
	started bool
	bar     *terminal.ProgressBar
	// lines: there is a line for each replay.
	lines bool
}

// onProgress is called at the start and after each batch.
func (f *replayFollower) onProgress(op deadletter.Operation, made []deadletter.Replayed) {
	if op.ID == uuid.Nil {
		return // nothing is picked
	}
	if !f.started {
		f.started = true
		f.a.HintOnAbort(fmt.Sprintf("'soniq dead-letter replay --resume %s' goes on", op.ID))
		if f.canary > 0 {
			f.a.Note("replaying %s first; the others follow when all of these have succeeded", unit.Thousands(min(f.canary, op.Total)))
		}
		f.bar = f.a.Progress("replaying", int(op.Total), linesUpTo+1)
		f.lines = !f.a.JSON && (!f.a.StdoutIsTTY || op.Total <= linesUpTo)
	}
	_ = f.bar.Set64(op.Done + op.Skipped)
	for _, r := range made {
		if f.lines {
			f.a.Out.Printf("Replayed %s as %s", r.From, r.To)
		}
	}
}

// end shows the result. err is the replay's error.
func (f *replayFollower) end(result deadletter.ReplayResult, err error) error {
	if f.bar != nil {
		_ = f.bar.Finish()
	}
	op, done := result.Operation, int64(len(result.Replayed))
	if f.a.JSON {
		if printErr := f.a.Out.Document(map[string]any{
			"operation": op.ID, "state": op.State, "stopped_by": op.StoppedBy,
			"total": op.Total, "replayed": result.Replayed, "skipped": op.Skipped,
		}); printErr != nil {
			return printErr
		}
	}
	if err != nil {
		return f.broken(op, done, err)
	}
	f.a.Note("replayed %s", terminal.Letters(done))
	if op.Skipped == 0 {
		return nil
	}
	code := app.ExitPartly
	if op.Done == 0 {
		code = app.ExitFailed
	}
	return &app.ExitError{Code: code, Err: fmt.Errorf("skipped %s: an equal unique job is queued already, or somebody else was faster", terminal.Letters(op.Skipped))}
}

// broken is the error of a replay that did not reach its end: how far it came, and
// how to resume it.
func (f *replayFollower) broken(op deadletter.Operation, done int64, err error) error {
	if errors.Is(err, deadletter.ErrNotResumable) && op.Action == deadletter.ActionReplay && op.State == deadletter.OperationStopped {
		return fmt.Errorf("%s: %w: it was stopped on %s and not resumed for %d days; replay by the filter again",
			op.ID, deadletter.ErrNotResumable, op.UpdatedAt.UTC().Format(time.DateOnly), int(deadletter.ResumableFor.Hours())/24)
	}
	if errors.Is(err, deadletter.ErrNotResumable) {
		return fmt.Errorf("%s: %w: it is a %s, and %s", op.ID, deadletter.ErrNotResumable, op.Action, op.State)
	}
	code := app.ExitPartly
	if done == 0 {
		code = app.ExitFailed
	}
	why := f.a.Describe(err)
	var stopped *deadletter.StoppedError
	switch {
	case errors.As(err, &stopped):
		why = stopped.Error()
	}
	return &app.ExitError{Code: code, Err: fmt.Errorf("%s; replayed %s of %s; 'soniq dead-letter replay --resume %s' goes on",
		why, unit.Thousands(op.Done), terminal.Letters(op.Total), op.ID)}
}
