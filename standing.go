package soniq

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/pg"
)

// standingSQL is whether the server or the session refuses writes, and whether the role may act as the
// owner of the tables. Parameter: $1 the owner.
const standingSQL = `
select
  pg_is_in_recovery(),
  current_setting('default_transaction_read_only')::bool,
  coalesce(pg_has_role(current_user, to_regrole(quote_ident($1))::oid, 'MEMBER'), true)`

// standing looks, in a transaction that writes nothing, whether this role on this server can change the
// tables. Where it can't, but nothing is to be changed, all is done: a deployment may run setup under
// any role. Else the error names who can.
func standing(ctx context.Context, pool *pgxpool.Pool, cfg Config, to string) (result SetupResult, done bool, err error) {
	tx, err := pool.BeginTx(ctx, readOnly)
	if err != nil {
		return result, false, err
	}
	// It has written nothing.
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	tx = pg.PlainTx(tx)
	h, err := findHome(ctx, tx, cfg)
	if err != nil {
		return result, false, err
	}
	var standby, readOnly, member bool
	if err := tx.QueryRow(ctx, standingSQL, h.owner).Scan(&standby, &readOnly, &member); err != nil {
		return result, false, fmt.Errorf("read the server's state: %w", err)
	}
	var remedy string
	switch {
	case standby:
		remedy = "this server is a standby: run it on the primary server"
	case readOnly:
		remedy = fmt.Sprintf("role %q or this database has default_transaction_read_only: run it as a role that may write", h.user)
	case h.tables && !member:
		remedy = fmt.Sprintf("role %q can't change the tables, which belong to role %q: run it as that role or as a member of it", h.user, h.owner)
	default:
		return result, false, nil
	}
	pending, result, err := h.pending(ctx, tx, to)
	switch {
	case isCode(err, insufficientPrivilege):
		return result, false, fmt.Errorf("role %q may not read soniq_migrations, which belongs to role %q: grant select on %s to it, or run it as that role",
			h.user, h.owner, h.sql("public.soniq_migrations"))
	case err != nil:
		return result, false, err
	case len(pending) > 0:
		return result, false, fmt.Errorf("%s is pending, and %s", strings.Join(pending, ", "), remedy)
	}
	return result, true, nil
}

// pending are the migrations up to a version, and what else setup would do.
func (h *home) pending(ctx context.Context, tx pgx.Tx, to string) (list []string, result SetupResult, err error) {
	recorded := versions{}
	if h.tables {
		if recorded, err = h.recorded(ctx, tx); err != nil {
			if IsMissing(errors.Unwrap(err)) || IsMissing(err) {
				return names(migrations()), result, nil
			}
			return nil, result, err
		}
	}
	for _, m := range recorded.missing() {
		if m.Version <= to {
			list = append(list, m.String())
		}
	}
	result.Newer = recorded.newer()
	if !h.tables || len(list) > 0 {
		return list, result, nil
	}
	a, err := h.audit(ctx, tx, h.owner)
	if err != nil {
		return nil, result, err
	}
	if len(result.Newer) == 0 && len(recorded.missing()) == 0 && a.needsMending() {
		list = append(list, "the mending of what is missing or was changed")
	}
	result.Findings, err = h.findings(ctx, tx, a)
	return list, result, err
}
