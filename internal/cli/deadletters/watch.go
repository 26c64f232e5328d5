package deadletters

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
	"soniq/internal/pg"
	"soniq/internal/tables"
	"soniq/internal/unit"
)

type watchCmd struct {
	traits
	From *deadletter.Position `placeholder:"CURSOR" help:"Begin after this position: the cursor of the last line of --json that you have dealt with. 0, or an empty one, is the beginning. Default: from now on."`
	app.ListenFlag
}

func (watchCmd) Help() string {
	return `Prints dead letters from now on, as they are announced, with the first line of the error. What dies while
the connection is lost is printed once it is back.

With --json each line has the fields of the notification, a cursor and the error. --from goes on after a
cursor, on another server too if the database has moved.

    soniq dead-letter watch
    soniq dead-letter watch --reason timeout --json
    soniq dead-letter watch --json --from "$CURSOR"`
}

// A watched is what --json prints.
type watched struct {
	deadletter.Event
	Error string `json:"error,omitempty"`
}

func (c *watchCmd) Run(a *app.App) error {
	s := selection{traits: c.traits}
	f, err := s.filter(a.Now())
	if err != nil {
		return err
	}
	pool, queue, err := a.OpenDeadLetters()
	if err != nil {
		return err
	}
	if err := hasTables(a, pool); err != nil {
		return err
	}
	from, err := c.from(a.Ctx, queue)
	if err != nil {
		return err
	}
	listen, err := c.Listen(a, pool)
	if err != nil {
		return err
	}
	// A closed pipe ends the watch like Ctrl-C, but not well.
	ctx, cancel := context.WithCancel(a.Ctx)
	defer cancel()
	logger, unwatch := tables.Watch(ctx, pool, a.SchemaName(), a.Log)
	defer unwatch()
	welcome := sync.OnceFunc(func() { a.Note("watching for dead letters; Ctrl-C stops") })
	var failed error
	err = deadletter.Subscribe(ctx, listen, deadletter.SubscribeOptions{
		Schema:    a.SchemaName(),
		Logger:    logger,
		From:      from,
		Eager:     true,
		OnConnect: func(context.Context) { welcome() },
	}, func(ctx context.Context, e deadletter.Event) {
		if !matches(f, e) {
			return
		}
		if !c.picks(ctx, a, queue, f, e) {
			return
		}
		text := c.error(ctx, a, queue, e)
		if ctx.Err() != nil {
			return
		}
		if failed = printEvent(a, watched{e, text}); failed != nil {
			cancel()
		}
	})
	if failed != nil {
		return failed
	}
	return err
}

// from is the position to begin after: now, if there is no --from.
func (c *watchCmd) from(ctx context.Context, queue *deadletter.Queue) (*deadletter.Position, error) {
	if c.From != nil {
		return c.From, nil
	}
	now, err := queue.Position(ctx)
	return &now, err
}

const tablesSQL = `select pg_catalog.to_regclass($1) is not null`

// hasTables returns an error where the schema has no dead letters: nobody would ever announce one.
func hasTables(a *app.App, pool *pgxpool.Pool) error {
	schema, err := a.TableSchema()
	if err != nil {
		return err
	}
	var exists bool
	err = pg.Schema{}.Pool(pool).QueryRow(a.Ctx, tablesSQL, schema.SQL("public.soniq_dead_letter_jobs")).Scan(&exists)
	if pg.IsCode(err, pg.InsufficientPrivilege) {
		return nil // whoever may only listen can't tell
	}
	if err != nil {
		return fmt.Errorf("look for the tables: %w", err)
	}
	if !exists {
		return fmt.Errorf("schema %q has no Soniq tables: run 'soniq setup', or name the schema with --schema", schema.Name())
	}
	return nil
}

// picks reports whether the filter picks the dead letter by what only the database can compare.
func (c *watchCmd) picks(ctx context.Context, a *app.App, queue *deadletter.Queue, f deadletter.Filter, e deadletter.Event) bool {
	shortened := slices.ContainsFunc(slices.Concat(f.JobNames, f.Queues), pg.IsShortened)
	if len(c.Group)+len(c.Tag) == 0 && c.Error == nil && !shortened {
		return true
	}
	picked, err := patiently(ctx, func() (bool, error) { return queue.Picks(ctx, f, e.ID) })
	if err != nil && ctx.Err() == nil {
		a.Note("soniq: %s: %s", e.ID, terminal.OneLine(a.Describe(err)))
	}
	return err == nil && picked
}

// error is the first line of a dead letter's error, or nothing if it has been deleted.
func (c *watchCmd) error(ctx context.Context, a *app.App, queue *deadletter.Queue, e deadletter.Event) string {
	j, err := patiently(ctx, func() (deadletter.Job, error) { return queue.Get(ctx, e.ID) })
	if err != nil {
		if !errors.Is(err, deadletter.ErrNotFound) && ctx.Err() == nil {
			a.Note("soniq: %s: %s", e.ID, terminal.OneLine(a.Describe(err)))
		}
		return ""
	}
	return terminal.ErrorLine(app.AllRedacted(a, []deadletter.Job{j})[0].LastError)
}

// patiently asks until the database answers: what dies while the connection is lost is printed once
// it is back. Some answers are the same each time: a right is missing, or the dead letter.
func patiently[T any](ctx context.Context, ask func() (T, error)) (T, error) {
	return backoff.Retry(ctx, func() (T, error) {
		answer, err := ask()
		if errors.Is(err, deadletter.ErrNotFound) || pg.IsClass(err, pg.ClassSyntaxOrAccess) {
			err = backoff.Permanent(err)
		}
		return answer, err
	}, backoff.WithMaxElapsedTime(0), backoff.WithBackOff(&backoff.ExponentialBackOff{
		InitialInterval: 50 * time.Millisecond, Multiplier: 2, RandomizationFactor: 0.5, MaxInterval: 10 * time.Second,
	}))
}

func printEvent(a *app.App, e watched) error {
	if a.JSON {
		return a.Out.Record(e)
	}
	moved := unit.FormatTime(e.MovedAt)
	return a.Out.Spans(
		terminal.Span{Text: moved + "  " + e.ID.String() + "  " + terminal.OneLine(e.JobName) + "  "},
		terminal.Span{Text: terminal.OneLine(string(e.Reason)), Style: reasonStyle(string(e.Reason))},
		terminal.Span{Text: "  " + unit.Plural(int64(e.Attempts), "attempt") + "  " + e.Error + "\n"},
	)
}

// matches is the filter of the queries, for one notification.
func matches(f deadletter.Filter, e deadletter.Event) bool {
	return (f.NameLike == "" || nameLike(f.NameLike, e.JobName)) &&
		isOneOf(f.JobNames, e.JobName) &&
		isOneOf(f.Queues, e.Queue) &&
		(len(f.Reasons) == 0 || slices.Contains(f.Reasons, e.Reason))
}

// isOneOf reports whether a name can be one of those, of which none means any. Which name was shortened, and to
// what, only the database knows.
func isOneOf(names []string, name string) bool {
	return len(names) == 0 || slices.Contains(names, name) || slices.ContainsFunc(names, pg.IsShortened)
}

// nameLike reports whether pattern is a part of name or, with * or ?, matches
// all of it.
func nameLike(pattern, name string) bool {
	if !strings.ContainsAny(pattern, "*?") {
		return strings.Contains(name, pattern)
	}
	p, n := []rune(pattern), []rune(name)
	// Where the latest * was, and how much of the name it takes so far.
	star, taken := -1, 0
	i, k := 0, 0
	for k < len(n) {
		switch {
		case i < len(p) && p[i] == '*':
			star, taken = i, k
			i++
		case i < len(p) && (p[i] == '?' || p[i] == n[k]):
			i++
			k++
		case star >= 0:
			taken++
			i, k = star+1, taken
		default:
			return false
		}
	}
	for i < len(p) && p[i] == '*' {
		i++
	}
	return i == len(p)
}
