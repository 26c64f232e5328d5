package deadletters

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
	"soniq/internal/pg"
	"soniq/internal/unit"
)

type watchCmd struct{ traits }

func (watchCmd) Help() string {
	return `Prints dead letters from now on, as they are announced. With --json each line is the notification itself.

    soniq dead-letter watch
    soniq dead-letter watch --reason timeout --json`
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
	// A closed pipe ends the watch like Ctrl-C, but not well.
	ctx, cancel := context.WithCancel(a.Ctx)
	defer cancel()
	var failed error
	var told bool
	err = deadletter.Subscribe(ctx, pool.Config().ConnConfig, deadletter.SubscribeOptions{
		Schema: a.SchemaName(),
		Logger: a.Log,
		OnConnect: func(context.Context) {
			if told {
				a.Note("some dead letters may have been missed; 'soniq dead-letter list' has all")
				return
			}
			told = true
			a.Note("watching for dead letters; Ctrl-C stops")
		},
	}, func(ctx context.Context, e deadletter.Event) {
		e.JobName = c.fullName(ctx, queue, e)
		if !matches(f, e) {
			return
		}
		// The rest isn't in the notification.
		if len(c.Group)+len(c.Tag) > 0 || c.Error != nil {
			picked, err := queue.Picks(ctx, f, e.ID)
			if err != nil {
				a.Note("soniq: %s: %s", e.ID, terminal.OneLine(a.Describe(err)))
				return
			}
			if !picked {
				return
			}
		}
		if failed = printEvent(a, e); failed != nil {
			cancel()
		}
	})
	if failed != nil {
		return failed
	}
	return err
}

const tablesSQL = `select pg_catalog.to_regclass($1) is not null`

// hasTables returns an error where the schema has no dead letters: nobody would ever announce one.
func hasTables(a *app.App, pool *pgxpool.Pool) error {
	schema, err := a.TableSchema()
	if err != nil {
		return err
	}
	var exists bool
	err = pool.QueryRow(a.Ctx, tablesSQL, schema.SQL("public.soniq_dead_letter_jobs")).Scan(&exists)
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

// fullName is the job's name, read from the table where the notification has
// only its beginning and a filter asks for it.
func (c *watchCmd) fullName(ctx context.Context, queue *deadletter.Queue, e deadletter.Event) string {
	if e.Truncated && (c.Filter != nil || len(c.Job) > 0) {
		if j, err := queue.Get(ctx, e.ID); err == nil {
			return j.JobName
		}
	}
	return e.JobName
}

func printEvent(a *app.App, e deadletter.Event) error {
	if a.JSON {
		return a.Out.Record(e)
	}
	moved := unit.FormatTime(e.MovedAt)
	return a.Out.Spans(
		terminal.Span{Text: moved + "  " + e.ID.String() + "  " + terminal.OneLine(e.JobName) + "  "},
		terminal.Span{Text: terminal.OneLine(string(e.Reason)), Style: reasonStyle(string(e.Reason))},
		terminal.Span{Text: "  " + terminal.Plural(int64(e.Attempts), "attempt") + "\n"},
	)
}

// matches is the filter of the queries, for one notification.
func matches(f deadletter.Filter, e deadletter.Event) bool {
	return (f.NameLike == "" || nameLike(f.NameLike, e.JobName)) &&
		(len(f.JobNames) == 0 || slices.Contains(f.JobNames, e.JobName)) &&
		(len(f.Queues) == 0 || slices.Contains(f.Queues, e.Queue)) &&
		(len(f.Reasons) == 0 || slices.Contains(f.Reasons, e.Reason))
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
