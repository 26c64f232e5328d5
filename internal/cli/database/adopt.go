package database

import (
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"soniq"
	"soniq/internal/cli/app"
	"soniq/internal/incarnation"
	"soniq/internal/pg"
)

// AdoptCommand says that this database is the one, after a move.
type AdoptCommand struct {
	Deliveries string `enum:"send,drop" default:"send" help:"What becomes of deliveries that were pending before the move: send or drop. Dropped ones are marked as failed. Default send."`
	DryRun     bool   `help:"Say what would be done, and change nothing."`
	Yes        bool   `short:"y" help:"Don't ask."`
}

// Help implements [kong.HelpProvider].
func (AdoptCommand) Help() string {
	return `A database that was restored, copied, recovered to a point in time or replicated to another server looks like the one that it was made from. So its hooks hold, and workers say so. This command says that it takes the other's place: hooks go on, identity columns that are behind and the epoch of dead letters are set right, and 'soniq setup' is done where functions or triggers are missing. Run it as the owner of the tables. A copy for tests needs nothing. docs/restore.md has each case.

    soniq adopt --dry-run
    soniq adopt --deliveries drop --yes`
}

// adopted is what was done, or would be.
type adopted struct {
	incarnation.Plan
	Setup   []string `json:"setup"`
	Dropped int64    `json:"dropped_deliveries"`
	DryRun  bool     `json:"dry_run"`
}

// Run runs the command.
func (c *AdoptCommand) Run(a *app.App) error {
	pool, err := a.Open()
	if err != nil {
		return err
	}
	if err := soniq.Check(a.Ctx, pool, config(a)); err != nil {
		return migrationError(err)
	}
	schema, err := a.TableSchema()
	if err != nil {
		return err
	}
	if err := requireOwner(a, pg.Schema{}.Pool(pool), schema, "adopt"); err != nil {
		return err
	}
	status, err := soniq.ReadStatus(a.Ctx, pool, config(a))
	if err != nil {
		return migrationError(err)
	}
	done := adopted{Setup: append(append([]string{}, status.Missing...), status.Functions...), DryRun: c.DryRun}
	if done.Plan, err = incarnation.Look(a.Ctx, schema.Pool(pool), schema); err != nil {
		return err
	}
	nothing := done.Nothing() && len(done.Setup) == 0
	if c.DryRun || nothing {
		return c.report(a, done, nothing)
	}
	if err := a.Confirm(c.Yes, "This database becomes the one: its hooks send from now on"+c.fate(done.Plan, done.Pending)+"."); err != nil {
		return err
	}
	if len(done.Setup) > 0 {
		if _, err := soniq.Setup(a.Ctx, pool, config(a)); err != nil {
			return err
		}
	}
	err = pg.InTx(a.Ctx, pg.Schema{}.Pool(pool), func(tx pgx.Tx) (err error) {
		done.Plan, done.Dropped, err = incarnation.Adopt(a.Ctx, schema.Tx(tx), schema, incarnation.Options{Drop: c.Deliveries == "drop"})
		return err
	})
	if err != nil {
		return fmt.Errorf("adopt the database: %w", err)
	}
	// Somebody else may have been faster.
	return c.report(a, done, done.Nothing() && len(done.Setup) == 0)
}

// fate says what becomes of pending deliveries, if they were held.
func (c *AdoptCommand) fate(p incarnation.Plan, pending int64) string {
	switch {
	case pending == 0 || p.Held == "":
		return ""
	case c.Deliveries == "drop":
		return fmt.Sprintf(", and the %d deliveries that are pending are dropped", pending)
	}
	return fmt.Sprintf(", and the %d deliveries that are pending are sent", pending)
}

func (c *AdoptCommand) report(a *app.App, done adopted, nothing bool) error {
	if done.Counters == nil {
		done.Counters = []incarnation.Counter{}
	}
	if a.JSON {
		return a.Out.Document(done)
	}
	if nothing {
		a.Out.Printf("This database is the one already. There is nothing to do.")
		return nil
	}
	verb, pending := "Done", done.Pending
	switch {
	case done.DryRun:
		verb = "Would be done"
	case c.Deliveries == "drop":
		pending = done.Dropped
	}
	if done.Held != "" {
		a.Out.Printf("%s: hooks go on%s. They held: %s", verb, c.fate(done.Plan, pending), done.Held)
	}
	for _, what := range done.Setup {
		name, _, _ := strings.Cut(what, ", which ")
		a.Out.Printf("%s: %s made anew", verb, name)
	}
	for _, n := range done.Counters {
		a.Out.Printf("%s: the identity column %s.%s goes on from %d; it was at %d", verb, n.Table, n.Column, n.Greatest, n.Sequence)
	}
	if done.Epoch {
		a.Out.Printf("%s: a new epoch of dead letters begins, after those that came from elsewhere", verb)
	}
	return nil
}
