// Package deadletters has the commands of 'soniq dead-letter': one file a command.
package deadletters

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter"
	"soniq/deadletter/classify"
	"soniq/internal/cli/app"
	"soniq/internal/suggest"
)

// Command groups what can be done with dead letters.
type Command struct {
	List    listCmd    `cmd:"" help:"List dead letters, the newest first."`
	Groups  groupsCmd  `cmd:"" help:"Group dead letters by cause, with count and trend."`
	Show    showCmd    `cmd:"" help:"Show all of one dead letter: error, arguments, replays."`
	Replay  replayCmd  `cmd:"" help:"Queue dead letters again, as new jobs."`
	Delete  deleteCmd  `cmd:"" help:"Delete dead letters for good."`
	Cleanup cleanupCmd `cmd:"" help:"Delete old dead letters; --export writes them to a file first."`
	Export  exportCmd  `cmd:"" help:"Write dead letters as JSON, JSON lines or CSV."`
	Import  importCmd  `cmd:"" help:"Read dead letters back from a file that export wrote."`
	Watch   watchCmd   `cmd:"" help:"Print dead letters as they arrive, until stopped."`
	Tag     tagCmd     `cmd:"" help:"Set tags on dead letters. Filters find them by tag."`
	History historyCmd `cmd:"" help:"Show who changed dead letters, how and why."`
	Stats   statsCmd   `cmd:"" help:"Count dead letters by job, queue, reason, state and day."`
	Check   checkCmd   `cmd:"" help:"Report to a monitor whether too many are dead, or for too long."`
}

// Help implements [kong.HelpProvider].
func (Command) Help() string {
	return `A dead letter is a job that cannot succeed: all its attempts failed, an error was permanent, its handler refused the arguments, it timed out, or no worker has a handler for its name.

    soniq dead-letter groups
    soniq dead-letter list
    soniq dead-letter show ID
    soniq dead-letter replay ID`
}

// selection are the flags that pick dead letters.
type selection struct {
	traits
	State    *string `placeholder:"STATE" help:"dead, replaying or resolved."`
	Replayed *bool   `negatable:"" help:"Replayed at least once, or never."`
	Since    *string `placeholder:"TIME" help:"Died at or after TIME: an age (90m, 24h, 7d) or a time, as any command prints it (2006-01-02, '2006-01-02 15:04:05 UTC', 2006-01-02T15:04:05Z). Without a zone it is in UTC."`
	Until    *string `placeholder:"TIME" help:"Died at or before TIME, or within the second that it names."`
}

// traits are the flags about a dead letter that a notification of it can be
// matched with, too.
type traits struct {
	Filter *string  `placeholder:"NAME" help:"Jobs whose name contains NAME. With * or ? it is a pattern for the whole name."`
	Job    []string `sep:"none" placeholder:"NAME" help:"Jobs with exactly this name. Repeatable: any of them."`
	Queue  []string `sep:"none" placeholder:"QUEUE" help:"Jobs of this queue. Repeatable: any of them."`
	Reason []string `sep:"none" placeholder:"REASON" help:"Why they died: max_retries_exceeded, permanent_failure, job_not_found, invalid_arguments, timeout, manual_move. Repeatable: any of them."`
	Group  []string `sep:"none" placeholder:"GROUP" help:"Of this group, as 'soniq dead-letter groups' shows them. Repeatable: any of them."`
	Error  *string  `placeholder:"TEXT" help:"The last error contains TEXT. Case does not count."`
	Text   *string  `placeholder:"TEXT" help:"The last error or the arguments contain TEXT. Case does not count. It reads each row: narrow it by others on a large table."`
	Tag    []string `sep:"none" once:"=" placeholder:"KEY=VALUE" help:"Has this tag. Repeatable for other keys: all of them."`
}

// given reports whether any of the flags was used.
func (s *selection) given() bool {
	return s.Filter != nil || len(s.Job)+len(s.Queue)+len(s.Reason)+len(s.Group)+len(s.Tag) > 0 ||
		s.Error != nil || s.Text != nil || s.State != nil || s.Replayed != nil || s.Since != nil || s.Until != nil
}

// filter returns the filter that the flags make. An empty value is refused: in a
// script it is a variable that isn't set, and it must not mean 'any'.
func (s *selection) filter(now time.Time) (f deadletter.Filter, err error) {
	// kong drops an empty value where it splits values.
	reasons, groups := app.SplitAll(s.Reason), app.SplitAll(s.Group)
	if err := s.checkEmpty(reasons, groups); err != nil {
		return f, err
	}
	f = deadletter.Filter{JobNames: s.Job, Queues: s.Queue, Groups: groups, Replayed: s.Replayed}
	if s.Filter != nil {
		f.NameLike = *s.Filter
	}
	if s.Error != nil {
		f.ErrorLike = *s.Error
	}
	if s.Text != nil {
		f.Text = *s.Text
	}
	for _, text := range reasons {
		reason, err := classify.ParseReason(text)
		if err != nil {
			return f, app.Usagef("--reason: %w%s", err, suggest.Question(classify.Reason(text), classify.Reasons()))
		}
		f.Reasons = append(f.Reasons, reason)
	}
	if s.State != nil {
		if f.State, err = parseState(*s.State); err != nil {
			return f, err
		}
	}
	if err := s.window(&f, now); err != nil {
		return f, err
	}
	if f.Tags, err = parseTags(s.Tag); err != nil {
		return f, err
	}
	if err := f.Validate(); err != nil {
		return f, app.Usagef("%w", err)
	}
	return f, nil
}

// window sets the ends of the filter's window. A command calls it again once the database
// is open: an age is before now by the database's clock, which has dated the dead letters.
func (s *selection) window(f *deadletter.Filter, now time.Time) (err error) {
	if f.From, err = app.ParseTime("--since", s.Since, now); err != nil {
		return err
	}
	if f.To, err = app.ParseUntil("--until", s.Until, now); err != nil {
		return err
	}
	if !f.From.IsZero() && !f.To.IsZero() && f.To.Before(f.From) {
		return app.Usagef("--until is before --since: nothing is later than %s and earlier than %s", *s.Since, *s.Until)
	}
	return nil
}

// checkEmpty refuses a flag with an empty value.
func (s *selection) checkEmpty(reasons, groups []string) error {
	for _, flag := range []struct {
		name   string
		values []string
	}{
		{"--filter", app.Values(s.Filter)},
		{"--job", s.Job},
		{"--queue", s.Queue},
		{"--reason", reasons},
		{"--group", groups},
		{"--error", app.Values(s.Error)},
		{"--text", app.Values(s.Text)},
		{"--state", app.Values(s.State)},
		{"--since", app.Values(s.Since)},
		{"--until", app.Values(s.Until)},
	} {
		if slices.Contains(flag.values, "") {
			return app.Usagef("%s is empty; leave it out to match any", flag.name)
		}
	}
	return nil
}

// parseState reads the value of --state.
func parseState(text string) (deadletter.State, error) {
	switch state := deadletter.State(text); state {
	case deadletter.StateDead, deadletter.StateReplaying, deadletter.StateResolved:
		return state, nil
	default:
		return "", app.Usagef("--state must be dead, replaying or resolved, not %q%s", text,
			suggest.Question(state, []deadletter.State{deadletter.StateDead, deadletter.StateReplaying, deadletter.StateResolved}))
	}
}

// parseTags reads the values of --tag. It returns nil if there are none.
func parseTags(texts []string) (tags map[string]string, err error) {
	for _, text := range texts {
		key, value, ok := strings.Cut(text, "=")
		if !ok || key == "" {
			return nil, app.Usagef("--tag must be KEY=VALUE, not %q", text)
		}
		if tags == nil {
			tags = map[string]string{}
		}
		tags[key] = value
	}
	return tags, nil
}

// findID completes an id that [app.CheckIDs] has accepted.
func findID(ctx context.Context, queue *deadletter.Queue, text string) (uuid.UUID, error) {
	if id, err := uuid.Parse(text); err == nil {
		return id, nil
	}
	return queue.Find(ctx, text)
}

// findIDs completes ids. An id given twice counts once. Ids that are not found, or
// fit several dead letters, are returned in failed.
func findIDs(ctx context.Context, queue *deadletter.Queue, texts []string) (ids []uuid.UUID, failed []app.Failure, err error) {
	seen := make(map[uuid.UUID]bool, len(texts))
	ids, failed = []uuid.UUID{}, []app.Failure{}
	for _, text := range texts {
		id, err := findID(ctx, queue, text)
		var ambiguous *deadletter.AmbiguousError
		switch {
		case errors.As(err, &ambiguous), errors.Is(err, deadletter.ErrNotFound):
			failed = append(failed, app.Failure{ID: text, Error: err.Error()})
		case err != nil:
			return nil, nil, err
		case !seen[id]:
			seen[id] = true
			ids = append(ids, id)
		}
	}
	return ids, failed, nil
}
