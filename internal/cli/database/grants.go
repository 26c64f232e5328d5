package database

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"soniq"
	"soniq/internal/cli/app"
	"soniq/internal/pg"
	"soniq/internal/roles"
)

// GrantsCommand prints or runs what gives roles their rights.
type GrantsCommand struct {
	Producer       []string `sep:"none" placeholder:"ROLE" help:"A role that enqueues jobs. Repeatable."`
	UniqueProducer []string `sep:"none" placeholder:"ROLE" help:"A producer that also enqueues unique jobs, or jobs with a dedup key. Repeatable."`
	Worker         []string `sep:"none" placeholder:"ROLE" help:"A role that runs jobs: 'soniq worker --no-hooks'. Repeatable."`
	Dispatcher     []string `sep:"none" placeholder:"ROLE" help:"A role that sends hooks: 'soniq hooks run', and workers without --no-hooks. Repeatable."`
	Operator       []string `sep:"none" placeholder:"ROLE" help:"A role that replays, deletes, cancels and pauses. Repeatable."`
	Viewer         []string `sep:"none" placeholder:"ROLE" help:"A role that reads. Repeatable."`
	Metrics        []string `sep:"none" placeholder:"ROLE" help:"A role that counts for a monitor, and reads no job: 'soniq metrics'. Repeatable."`
	Scaler         []string `sep:"none" placeholder:"ROLE" help:"A role that counts due jobs, such as KEDA's. Repeatable."`
	Revoke         bool     `help:"Take the rights away instead."`
	Execute        bool     `name:"run" help:"Run the statements, in one transaction. Without it they are printed, and no database is needed."`
}

// Help implements [kong.HelpProvider].
func (GrantsCommand) Help() string {
	return `Each role gets the least that its programs need; docs/security.md says what it can do at worst. The roles must exist: this command makes none, and no passwords. To grant what is granted already changes nothing. A role may have several kinds: a worker that sends hooks is --worker and --dispatcher. After --revoke of one kind, grant the others of that role again.

--run needs the owner of the tables.

    soniq grants --producer app --worker jobs --dispatcher jobs --viewer grafana
    soniq grants --operator oncall --run
    soniq grants --viewer grafana --schema jobs | psql "$OWNER_URL"`
}

// assignment is a role that gets, or loses, the rights of a kind.
type assignment struct {
	Kind roles.Kind `json:"kind"`
	Role string     `json:"role"`
}

// granted is what --json prints.
type granted struct {
	Schema     string       `json:"schema"`
	Revoke     bool         `json:"revoke"`
	Run        bool         `json:"run"`
	Roles      []assignment `json:"roles"`
	Statements []string     `json:"statements"`
}

// assignments are the roles of the flags, by kind.
func (c *GrantsCommand) assignments() (list []assignment, err error) {
	for _, of := range []struct {
		kind  roles.Kind
		names []string
	}{
		{roles.Producer, c.Producer},
		{roles.UniqueProducer, c.UniqueProducer},
		{roles.Worker, c.Worker},
		{roles.Dispatcher, c.Dispatcher},
		{roles.Operator, c.Operator},
		{roles.Viewer, c.Viewer},
		{roles.Metrics, c.Metrics},
		{roles.Scaler, c.Scaler},
	} {
		for _, name := range of.names {
			if err := checkRole(name); err != nil {
				return nil, app.Usagef("--%s: %w", of.kind, err)
			}
			list = append(list, assignment{of.kind, name})
		}
	}
	if len(list) == 0 {
		return nil, app.Usagef("name a role, such as --producer ROLE")
	}
	return list, nil
}

// mostName is how many bytes PostgreSQL keeps of a name; it cuts a longer one in silence.
const mostName = 63

func checkRole(name string) error {
	switch {
	case len(name) > mostName:
		return fmt.Errorf("the name of the role has %d bytes; PostgreSQL cuts names to %d", len(name), mostName)
	case strings.ContainsRune(name, 0):
		return errors.New("the name of the role contains a NUL byte")
	}
	return nil
}

// Run runs the command.
func (c *GrantsCommand) Run(a *app.App) error {
	done, schema, err := c.plan(a)
	if err == nil && c.Execute {
		err = runGrants(a, schema, done)
	}
	switch {
	case err != nil:
		return err
	case a.JSON:
		return a.Out.Document(done)
	}
	if !c.Execute {
		a.Out.Printf("begin;")
	}
	for _, statement := range done.Statements {
		a.Out.Printf("%s;", statement)
	}
	if !c.Execute {
		a.Out.Printf("commit;")
		return nil
	}
	a.Note("Done.")
	return nil
}

// plan is what there is to do.
func (c *GrantsCommand) plan(a *app.App) (done granted, schema pg.Schema, err error) {
	if schema, err = a.TableSchema(); err != nil {
		return done, schema, err
	}
	list, err := c.assignments()
	if err != nil {
		return done, schema, err
	}
	done = granted{Schema: schema.Name(), Revoke: c.Revoke, Run: c.Execute, Roles: list, Statements: []string{}}
	statements := roles.SQL
	if c.Revoke {
		statements = roles.RevokeSQL
	}
	for _, to := range list {
		for _, sql := range statements(to.Kind, schema.Quoted(), pgx.Identifier{to.Role}.Sanitize()) {
			// Two kinds of one role both use the schema.
			if !slices.Contains(done.Statements, sql) {
				done.Statements = append(done.Statements, sql)
			}
		}
	}
	return done, schema, nil
}

// runGrants runs the statements, in one transaction.
func runGrants(a *app.App, schema pg.Schema, done granted) error {
	pool, err := a.Open()
	if err != nil {
		return err
	}
	if err := requireSchema(a, pool); err != nil {
		return err
	}
	if err := soniq.Check(a.Ctx, pool, config(a)); err != nil && !pg.IsCode(err, pg.InsufficientPrivilege) {
		return migrationError(err)
	}
	return pg.InTx(a.Ctx, pg.Schema{}.Pool(pool), func(tx pgx.Tx) error {
		if err := requireOwner(a, tx, schema, "grant rights to"); err != nil {
			return err
		}
		if err := requireRoles(a, tx, done.Roles); err != nil {
			return err
		}
		for _, statement := range done.Statements {
			if _, err := tx.Exec(a.Ctx, statement); err != nil {
				return fmt.Errorf("%s: %w", statement, err)
			}
		}
		return verify(a, tx, schema, done)
	})
}

const missingRolesSQL = `
select coalesce(array_agg(distinct r.name), '{}')
from unnest($1::text[]) r (name)
where not exists (select from pg_roles p where p.rolname = r.name)`

// requireRoles returns an error that names the roles which don't exist.
func requireRoles(a *app.App, tx pgx.Tx, list []assignment) error {
	names := make([]string, len(list))
	for i, to := range list {
		names[i] = to.Role
	}
	var missing []string
	if err := tx.QueryRow(a.Ctx, missingRolesSQL, names).Scan(&missing); err != nil {
		return fmt.Errorf("look up the roles: %w", err)
	}
	switch len(missing) {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("the role %s does not exist: create it first, as by 'create role NAME login'", missing[0])
	}
	return fmt.Errorf("the roles %s do not exist: create them first, as by 'create role NAME login'", strings.Join(missing, ", "))
}

// $1 the schema, $2 tables.
const ownerSQL = `
select quote_ident(current_user), coalesce(min(quote_ident(pg_get_userbyid(c.relowner))) filter (where not pg_has_role(c.relowner, 'USAGE')), '')
from pg_namespace n
join pg_class c on c.relnamespace = n.oid
where n.nspname = $1
  and c.relname = any ($2)`

// requireOwner returns an error where the role doesn't own the tables. PostgreSQL only warns
// where such a role grants something, if it has rights to a table itself.
func requireOwner(a *app.App, db pg.Querier, schema pg.Schema, what string) error {
	var role, owner string
	if err := db.QueryRow(a.Ctx, ownerSQL, schema.Name(), roles.Tables()).Scan(&role, &owner); err != nil {
		return fmt.Errorf("look up the owner of the tables: %w", err)
	}
	if owner != "" {
		return fmt.Errorf("the role %s may not %s Soniq's tables: run this as their owner, %s", role, what, owner)
	}
	return nil
}

// The rights of the statements, of which those that a role has not, or still has. $1
// roles, $2 tables, $3 rights, $4 columns, or ” for all, $5 the schema, $6 whether they
// were revoked. What a role has by another role or by PUBLIC is not looked at then.
const verifySQL = `
select min(quote_ident(t.role) || case when $6 then ' keeps ' else ' lacks ' end || t.privilege || ' on ' || t.name
  || coalesce(', which ' || quote_ident(g.rolname) || ' has granted', ''))
from unnest($1::text[], $2::text[], $3::text[], $4::text[]) t (role, name, privilege, col)
join pg_namespace n on n.nspname = $5
join pg_class c on c.relnamespace = n.oid and c.relname = t.name
join pg_roles r on r.rolname = t.role
left join pg_attribute a on a.attrelid = c.oid and a.attname = t.col
left join lateral aclexplode(case when t.col = '' then c.relacl else a.attacl end) x
  on $6 and x.grantee = r.oid and lower(x.privilege_type) = t.privilege and x.grantee <> c.relowner
left join pg_roles g on g.oid = x.grantor
where case when $6 then x.grantee is not null
  when t.col = '' then not has_table_privilege(r.oid, c.oid, t.privilege)
  else not has_column_privilege(r.oid, c.oid, a.attnum, t.privilege) end`

// verify compares what the roles have with what the statements were to do: PostgreSQL
// only warns where whoever grants may not.
func verify(a *app.App, tx pgx.Tx, schema pg.Schema, done granted) error {
	var names, tables, rights, columns []string
	for _, to := range done.Roles {
		for _, g := range roles.Of(to.Kind) {
			for _, r := range g.Each() {
				names, tables = append(names, to.Role), append(tables, r.Table)
				rights, columns = append(rights, r.Right), append(columns, r.Column)
			}
		}
	}
	var wrong *string
	err := tx.QueryRow(a.Ctx, verifySQL, names, tables, rights, columns, schema.Name(), done.Revoke).Scan(&wrong)
	switch {
	case err != nil:
		return fmt.Errorf("read the rights: %w", err)
	case wrong == nil:
		return nil
	case done.Revoke:
		return fmt.Errorf("nothing was changed: the role %s; only that role can take it back", *wrong)
	}
	return fmt.Errorf("nothing was changed: the role %s after the grant: run this as the owner of the tables", *wrong)
}
