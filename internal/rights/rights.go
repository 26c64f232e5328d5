// Package rights finds out which rights a role lacks, and how to grant them.
package rights

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"soniq/internal/pg"
	"soniq/internal/roles"
)

// A right on some columns counts: the grants of older releases named columns. Tables that
// don't exist are the business of soniq.Check. $1 tables, $2 rights, $3 whether they are vital.
const grantsSQL = `
with needs as (
  select 'public.' || t.name as name, to_regclass('public.' || t.name) as class, t.privilege, t.vital, t.place
  from unnest($1::text[], $2::text[], $3::bool[]) with ordinality t (name, privilege, vital, place)
)
select 'grant ' || string_agg(n.privilege, ', ' order by n.vital desc, n.place) || ' on ' || n.name || ' to ' || quote_ident(current_user), bool_or(n.vital)
from needs n
where n.class is not null
  and not has_table_privilege(n.class, n.privilege)
  and not (n.privilege <> 'delete' and has_any_column_privilege(n.class, n.privilege))
group by n.name
order by n.name`

// Of are the rights of a kind that the role of db lacks, as statements that grant them. vital
// reports whether it can't do without one of them.
//
// Errors: that the role may not use the schema, with what to do; those of the database.
func Of(ctx context.Context, db *pg.Pool, kind roles.Kind) (grants []string, vital bool, err error) {
	var tables, privileges []string
	var needed []bool
	for _, g := range roles.Of(kind) {
		for _, table := range g.Tables {
			for _, right := range g.Rights {
				tables, privileges = append(tables, table), append(privileges, right)
				needed = append(needed, slices.Contains(g.Vital, right))
			}
		}
	}
	rows, _ := db.Query(ctx, grantsSQL, tables, privileges, needed)
	var grant string
	var stops bool
	_, err = pgx.ForEachRow(rows, []any{&grant, &stops}, func() error {
		grants = append(grants, grant)
		vital = vital || stops
		return nil
	})
	switch {
	case pg.IsCode(err, pg.InsufficientPrivilege):
		return nil, true, fmt.Errorf("the %s's role may not use the schema: %w; grant usage on schema %s to it", kind, err, db.Schema().Quoted())
	case err != nil:
		return nil, false, fmt.Errorf("check rights: %w", err)
	}
	return grants, vital, nil
}

// Hint says which 'soniq grants' prints all that a kind needs.
func Hint(db *pg.Pool, kind roles.Kind) string { return pg.GrantsHint(db.Schema(), kind) }

// Lacking are the rights that the role of db lacks to run a worker, as statements that grant
// them. vital reports whether a worker can't work at all without one of them.
//
// Errors: those of [Of], and that row-level security hides what a worker needs, with what to do.
func Lacking(ctx context.Context, db *pg.Pool) (grants []string, vital bool, err error) {
	grants, vital, err = Of(ctx, db, roles.Worker)
	if err != nil || vital {
		return grants, vital, err
	}
	return grants, vital, pg.CheckRowSecurity(ctx, db, pg.ChangesRows, "soniq_jobs", "soniq_workers", "soniq_waiters", "soniq_task_registry",
		"soniq_kept_outcomes", "soniq_leader_tasks", "soniq_job_stats", "soniq_dead_letter_jobs")
}
