package pg

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Commands that policies are for, as pg_policy.polcmd has them.
const (
	ReadsRows   = "r"
	ChangesRows = "rwd"
)

// $1 the commands.
const rowSecuritySQL = `
select t.name, string_agg(c.name, ', ' order by c.place), quote_ident(current_user)
from unnest(array['%s']) t (name)
cross join (values (1, 'r', 'select'), (2, 'w', 'update'), (3, 'd', 'delete')) c (place, command, name)
where to_regclass(t.name) is not null
  and row_security_active(to_regclass(t.name)::oid)
  and strpos($1, c.command) > 0
  and not exists (
    select from pg_policy p
    where p.polrelid = to_regclass(t.name)
      and p.polpermissive
      and p.polcmd in ('*', c.command)
      and (0 = any (p.polroles) or exists (select from unnest(p.polroles) r (role) where pg_has_role(r.role, 'USAGE')))
  )
group by t.name
order by t.name`

// CheckRowSecurity returns an error that says what to do if row-level security hides all rows of a table,
// such as 'soniq_jobs', from the role for one of the commands. PostgreSQL gives no error then: a table looks
// empty, and a change changes nothing. What the policies of others let through is theirs to say.
//
// Errors: that; else those of the database.
func CheckRowSecurity(ctx context.Context, db Querier, commands string, tables ...string) error {
	rows, _ := db.Query(ctx, fmt.Sprintf(rowSecuritySQL, "public."+strings.Join(tables, "', 'public.")), commands)
	var table, hidden, role string
	var list []string
	_, err := pgx.ForEachRow(rows, []any{&table, &hidden, &role}, func() error {
		list = append(list, fmt.Sprintf("of %s (%s): alter table %s disable row level security, or create policy soniq on %s to %s using (true) with check (true)",
			table, hidden, table, table, role))
		return nil
	})
	switch {
	case err != nil:
		return fmt.Errorf("look for row-level security: %w", err)
	case len(list) == 0:
		return nil
	}
	return errors.New("row-level security hides all rows from this role: those " + strings.Join(list, "; those "))
}
