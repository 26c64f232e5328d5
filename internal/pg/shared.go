package pg

import (
	"context"
	"math/rand/v2"

	"github.com/jackc/pgx/v5"
)

// asks is how often two connections are asked where they lead. Behind a busy pooler one
// of them may be given the same session a few times in a row, by chance.
const asks = 24

// A backend is a session of a server. Behind poolers that lead to several servers the
// numbers of two processes may be the same.
type backend struct {
	PID    uint32
	Server float64
}

const backendSQL = `
select pg_catalog.pg_backend_pid()::pg_catalog.int8,
  extract(epoch from pg_catalog.pg_postmaster_start_time())::pg_catalog.float8`

func askBackend(ctx context.Context, conn *pgx.Conn) (b backend, err error) {
	// Simple protocol: a pooler may not keep prepared statements apart.
	err = conn.QueryRow(ctx, backendSQL, pgx.QueryExecModeSimpleProtocol).Scan(&b.PID, &b.Server)
	return b, err
}

// IsPooled reports whether a pooler is between a connection and the server: another
// process answers than the one that took the connection.
//
// Errors: those of the database.
func IsPooled(ctx context.Context, conn *pgx.Conn) (bool, error) {
	b, err := askBackend(ctx, conn)
	return err == nil && b.PID != conn.PgConn().PID(), err
}

// SharesSessions reports whether it was seen that a pooler gives a connection another
// session of the server for each transaction. other is a second connection to the same
// pooler. True is certain: the connection's session has changed, or other was given it.
// False is not, where nobody else uses the pooler's process that the connection leads to.
//
// It asks the two in an order of chance: poolers pass on what was given back last, or
// longest ago, and a fixed order may fit one of these. Nothing is held meanwhile, as a
// pooler may have one session only.
//
// Errors: those of the database.
func SharesSessions(ctx context.Context, conn, other *pgx.Conn) (bool, error) {
	own, err := askBackend(ctx, conn)
	if err != nil {
		return false, err
	}
	for i := range asks {
		asked := conn
		if i == 0 || rand.N(2) == 0 {
			asked = other
		}
		b, err := askBackend(ctx, asked)
		if err != nil {
			return false, err
		}
		if (asked == conn) != (b == own) {
			return true, nil
		}
	}
	return false, nil
}
