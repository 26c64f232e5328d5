package pg

import (
	"context"
	"errors"
	"maps"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// What a session needs, whatever the role, the database or the server sets. These are
// parameters of the start packet, which cost no round trip, and those that poolers keep
// for each client.
//
// pgx writes the strings of Go as they are, and so UTF-8; it refuses the simple protocol
// under another standard_conforming_strings, and reads times in the ISO style.
var pinned = map[string]string{
	"client_encoding":             "UTF8",
	"standard_conforming_strings": "on",
	"DateStyle":                   "ISO",
}

// These too, where the server itself answers. PgBouncer refuses them, so nothing may rely
// on them: a statement that must not be cut off sets its own limits. A value that the
// URL gives stays.
var pinnedDirectly = map[string]string{
	"default_transaction_isolation":       "read committed",
	"statement_timeout":                   "0",
	"lock_timeout":                        "0",
	"idle_in_transaction_session_timeout": "0",
	"idle_session_timeout":                "0",
	"IntervalStyle":                       "postgres",
	"bytea_output":                        "hex",
	"extra_float_digits":                  "1",
	"quote_all_identifiers":               "off",
}

// Pin makes the sessions of a configuration speak UTF-8, sets what else they need, and
// has connections leave a server that takes no writes: at connect, where the server says
// so, and after a write that it refused. With several hosts the next one is tried. A
// ValidateConnect that is there, such as that of target_session_attrs, stays. Connect
// with [Connect], or see [Unpin].
func Pin(config *pgx.ConnConfig) {
	PinSession(config)
	var refused atomic.Int64 // when a write was, in Unix nanoseconds
	if config.ValidateConnect == nil {
		config.ValidateConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
			if time.Since(time.Unix(0, refused.Load())) < doubt {
				return pgconn.ValidateConnectTargetSessionAttrsReadWrite(ctx, conn)
			}
			return RequireWrites(ctx, conn)
		}
	}
	before := config.OnPgError
	config.OnPgError = func(conn *pgconn.PgConn, err *pgconn.PgError) (keep bool) {
		if err.Code == ReadOnlyTransaction {
			refused.Store(time.Now().UnixNano())
			return false
		}
		return before == nil || before(conn, err)
	}
}

// doubt is how long after a refused write each server is asked whether it takes writes. A
// pooler says what was so when it started: it would be chosen again and again where
// another host of the URL takes writes.
const doubt = 10 * time.Minute

// PinSession is [Pin] for sessions that only read: any server will do.
func PinSession(config *pgx.ConnConfig) {
	for name, value := range pinned {
		maps.DeleteFunc(config.RuntimeParams, func(given, _ string) bool { return strings.EqualFold(given, name) })
		config.RuntimeParams[name] = value
	}
	for name, value := range pinnedDirectly {
		if !names(config, name) {
			config.RuntimeParams[name] = value
		}
	}
}

// names reports whether a configuration sets a parameter.
func names(config *pgx.ConnConfig, name string) bool {
	for given := range config.RuntimeParams {
		if strings.EqualFold(given, name) {
			return true
		}
	}
	return false
}

// Unpin takes back what a pooler refuses in the start packet, after an error of
// connecting, and reports whether that may help.
func Unpin(config *pgx.ConnConfig, err error) bool {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || !strings.Contains(pgErr.Message, "parameter") {
		return false
	}
	had := len(config.RuntimeParams)
	for name, value := range pinnedDirectly {
		if config.RuntimeParams[name] == value {
			delete(config.RuntimeParams, name)
		}
	}
	return len(config.RuntimeParams) < had
}

// Connect makes a connection, again without what a pooler refuses. It changes config
// then.
//
// Errors: those of pgx.ConnectConfig.
func Connect(ctx context.Context, config *pgx.ConnConfig) (*pgx.Conn, error) {
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil && Unpin(config, err) {
		return pgx.ConnectConfig(ctx, config)
	}
	return conn, err
}

// RequireWrites is a ValidateConnect that refuses a standby and a server whose
// transactions are read-only. It believes a server that says it is neither, and asks one
// that says it is: a pooler tells what was so when it started.
//
// Errors: pgconn.ErrReadOnlyConnection; those of the database.
func RequireWrites(ctx context.Context, conn *pgconn.PgConn) error {
	if conn.ParameterStatus("in_hot_standby") != "on" && conn.ParameterStatus("default_transaction_read_only") != "on" {
		return nil
	}
	return pgconn.ValidateConnectTargetSessionAttrsReadWrite(ctx, conn)
}

// IsReadOnly reports whether err says that a server takes no writes: when connecting, or
// at a write.
func IsReadOnly(err error) bool {
	return errors.Is(err, pgconn.ErrReadOnlyConnection) || errors.Is(err, pgconn.ErrStandbyConnection) || IsCode(err, ReadOnlyTransaction)
}

// IsStatementPooling reports whether err says that a pooler allows no transactions.
func IsStatementPooling(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == protocolViolation && strings.Contains(pgErr.Message, "statement pooling")
}
