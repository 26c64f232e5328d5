package jobs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/engine"
	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
	"soniq/internal/pg"
	"soniq/internal/unit"
)

const (
	// batchJobs and batchBytes bound one INSERT of --from. A thousand rows is
	// where a larger batch no longer gains; eight megabytes of arguments bound
	// the memory.
	batchJobs  = 1_000
	batchBytes = 8 << 20
	// shownMistakes is how many mistakes of a file are named; the others are
	// counted. More is no list that a person works through.
	shownMistakes = 20
	// lineOverhead is what a line may have beside its arguments.
	lineOverhead = 64 << 10
)

// many enqueues the lines of --from: a first pass checks them all, a second
// one inserts them, in one transaction.
func (c *EnqueueCommand) many(a *app.App, defaults order) error {
	lines, err := openLines(a, c.From, c.mostArgs()+lineOverhead)
	if err != nil {
		return err
	}
	defer lines.close()
	if c.From == "-" && a.StdinIsTTY {
		a.Note("One JSON object a line; Ctrl-D ends the input.")
	}
	// Mistakes are told without a server, too.
	total, err := checkLines(a, c.config(a), lines, defaults)
	if err != nil {
		return err
	}
	pool, client, err := c.client(a)
	if err != nil {
		return err
	}
	jobs, served, err := insertLines(a, pool, client, lines, defaults, total)
	if err != nil {
		return err
	}
	if !c.Wait {
		for _, j := range jobs {
			if !a.JSON {
				a.Out.Printf("%s", j.ID)
			} else if err := a.Out.Record(enqueued{j.ID, j.Duplicate}); err != nil {
				return err
			}
		}
	}
	noteEnqueued(a, jobs)
	served.warn(a, client)
	if c.Wait {
		ids := make([]uuid.UUID, len(jobs))
		for i, j := range jobs {
			ids[i] = j.ID
		}
		if err := c.ShowList(a, pool, map[string]string{"source": "enqueue --from"}, ids); err != nil {
			return err
		}
		return c.waitForResults(a, pool, client, jobs)
	}
	return nil
}

// noteEnqueued says how many jobs are new.
func noteEnqueued(a *app.App, jobs []engine.Enqueued) {
	duplicates := 0
	for _, j := range jobs {
		if j.Duplicate {
			duplicates++
		}
	}
	text := unit.Plural(int64(len(jobs)-duplicates), "job") + " enqueued"
	switch duplicates {
	case 0:
	case 1:
		text += ", 1 was a duplicate"
	default:
		text += fmt.Sprintf(", %s were duplicates", unit.Thousands(int64(duplicates)))
	}
	a.Note("%s", text)
}

// checkLines counts the jobs. Every mistake is named, by line.
func checkLines(a *app.App, config engine.ClientConfig, lines *lineFile, defaults order) (total int, err error) {
	mistakes := 0
	err = lines.each(func(number int, text []byte, tooLong bool) error {
		if err := a.Ctx.Err(); err != nil {
			return err
		}
		total++
		err := checkLine(config, text, tooLong, lines.limit, defaults)
		if err == nil {
			return nil
		}
		if mistakes++; mistakes <= shownMistakes {
			a.Note("soniq: line %d: %s", number, terminal.OneLine(err.Error()))
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	if mistakes == 0 {
		return total, nil
	}
	if more := mistakes - shownMistakes; more > 0 {
		a.Note("soniq: and %s more", unit.Plural(int64(more), "line"))
	}
	verb := "are"
	if mistakes == 1 {
		verb = "is"
	}
	a.Note("soniq: %s of %s %s wrong; nothing was enqueued (see 'soniq enqueue --help')",
		unit.Thousands(int64(mistakes)), unit.Plural(int64(total), "line"), verb)
	return 0, &app.ExitError{Code: app.ExitUsage, Err: app.ErrReported}
}

func checkLine(config engine.ClientConfig, text []byte, tooLong bool, limit int, defaults order) error {
	if tooLong {
		return fmt.Errorf("longer than %d bytes; %s", limit, storeElsewhere)
	}
	o, err := parseLine(text, defaults)
	if err != nil {
		return err
	}
	if most := limit - lineOverhead; len(o.args) > most {
		return fmt.Errorf("args are %d bytes, over the limit of %d; %s", len(o.args), most, storeElsewhere)
	}
	if err := checkFields(text); err != nil {
		return err
	}
	return config.CheckJob(o.name, o.args, o.options()...)
}

// insertLines enqueues all lines, or none. It returns where they wait, too.
func insertLines(a *app.App, pool *pgxpool.Pool, client *engine.Client, lines *lineFile, defaults order, total int) ([]engine.Enqueued, *places, error) {
	at := &places{}
	done := make([]engine.Enqueued, 0, total)
	bar := a.Progress("enqueueing", total, app.ProgressFrom)
	defer func() { _ = bar.Clear() }()
	// Above read committed, another program's unique job would make it fail.
	err := pg.InTxWith(a.Ctx, pg.Schema{}.Pool(pool), pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		*at, done = places{}, done[:0] // a pooler may have refused the first try
		if err := lines.again(); err != nil {
			return err
		}
		var batch []engine.Insert
		var size, from, to int
		flush := func() error {
			if len(batch) == 0 {
				return nil
			}
			jobs, err := client.EnqueueManyTx(a.Ctx, tx, batch)
			if err != nil {
				return fmt.Errorf("lines %d to %d: %w", from, to, err)
			}
			done = append(done, jobs...)
			_ = bar.Add(len(jobs))
			batch, size = batch[:0], 0
			return nil
		}
		err := lines.each(func(number int, text []byte, tooLong bool) error {
			o, err := parseLine(text, defaults)
			if err != nil || tooLong {
				return fmt.Errorf("line %d has changed since it was checked", number)
			}
			if len(batch) == 0 {
				from = number
			}
			to = number
			at.add(placeOf(o.queue, o.name))
			// The line's memory is the next line's too.
			o.args = json.RawMessage(bytes.Clone(o.args))
			batch = append(batch, engine.Insert{Name: o.name, Args: o.args, Options: o.options()})
			if size += len(text); len(batch) == batchJobs || size >= batchBytes {
				return flush()
			}
			return nil
		})
		if err != nil {
			return err
		}
		return flush()
	})
	var wrong *engine.ArgumentError
	if errors.As(err, &wrong) {
		return nil, nil, app.Usagef("%w; nothing was enqueued", err)
	}
	return done, at, err
}
