// Package rights finds out which rights a worker's role lacks, and how to grant them.
package rights

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"soniq/internal/pg"
)

// grantsSQL lists the tables on which the role lacks rights that a worker needs
// (docs/security.md grants them), and which rights. vital are those without which it
// can't claim jobs at all. A right on some columns counts: the grants of older releases
// named columns. Tables that don't exist are the business of soniq.Check.
const grantsSQL = `
with needs (name, privileges, vital) as (values
  ('public.soniq_jobs', array['select', 'update'], true),
  ('public.soniq_jobs', array['delete'], false),
  ('public.soniq_queues', array['select'], true),
  ('public.soniq_queues', array['update', 'delete'], false),
  ('public.soniq_workers', array['select', 'insert', 'update'], true),
  ('public.soniq_workers', array['delete'], false),
  ('public.soniq_waiters', array['select', 'insert', 'update', 'delete'], true),
  ('public.soniq_task_registry', array['select', 'insert', 'update', 'delete'], true),
  ('public.soniq_migrations', array['select'], true),
  ('public.soniq_kept_outcomes', array['select', 'insert', 'delete'], false),
  ('public.soniq_leader_tasks', array['select', 'insert', 'update', 'delete'], false),
  ('public.soniq_dead_letter_jobs', array['select', 'insert', 'update', 'delete'], false),
  ('public.soniq_dead_letter_operations', array['select', 'insert', 'update', 'delete'], false),
  ('public.soniq_dead_letter_selections', array['select', 'update', 'delete'], false),
  ('public.soniq_dead_letter_audit', array['select', 'update', 'delete'], false)
), lacking as (
  select n.name, p.privilege, n.vital, p.place
  from needs n, unnest(n.privileges) with ordinality p (privilege, place)
  where to_regclass(n.name) is not null
    and not has_table_privilege(to_regclass(n.name), p.privilege)
    and not (p.privilege <> 'delete' and has_any_column_privilege(to_regclass(n.name), p.privilege))
)
select 'grant ' || string_agg(l.privilege, ', ' order by l.vital desc, l.place) || ' on ' || l.name || ' to ' || quote_ident(current_user), bool_or(l.vital)
from lacking l
group by l.name
order by l.name`

// Lacking are the rights that the role of db lacks to run a worker, as statements that grant
// them. vital reports whether a worker can't work at all without one of them.
//
// Errors: that the role may not use the schema, or that row-level security hides what a worker
// needs, each with what to do; those of the database.
func Lacking(ctx context.Context, db *pg.Pool) (grants []string, vital bool, err error) {
	rows, _ := db.Query(ctx, grantsSQL)
	var grant string
	var needed bool
	_, err = pgx.ForEachRow(rows, []any{&grant, &needed}, func() error {
		grants = append(grants, grant)
		vital = vital || needed
		return nil
	})
	switch {
	case pg.IsCode(err, pg.InsufficientPrivilege):
		return nil, true, fmt.Errorf("the worker's role may not use the schema: %w; grant usage on schema %s to it", err, db.Schema().Quoted())
	case err != nil:
		return nil, false, fmt.Errorf("check rights: %w", err)
	case vital:
		return grants, vital, nil
	}
	return grants, vital, pg.CheckRowSecurity(ctx, db, pg.ChangesRows, "soniq_jobs", "soniq_workers", "soniq_waiters", "soniq_task_registry",
		"soniq_kept_outcomes", "soniq_leader_tasks", "soniq_dead_letter_jobs")
}
