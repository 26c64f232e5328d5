package pg

import (
	"context"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"log/slog"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/redact"
)

// A mode is how the statements of one pool are sent. All wrappers of a pool share it.
//
// A pooler that moves a client from one server connection to another after each
// transaction breaks two of pgx's five modes. cache_statement prepares a statement under
// a name: another connection has no such name, or has it already. describe_exec prepares
// in one round trip and executes in the next, which may reach what another client has
// prepared in between. cache_describe does all in one round trip, and knows the types of
// parameters too. So it is what the other two fall back to: cache_statement when the
// server says so, as it is the fastest where it works, and describe_exec at once.
type mode struct {
	base pgx.QueryExecMode
	// fallback is cache_describe, or exec if the pool keeps no descriptions.
	fallback pgx.QueryExecMode
	// foreign: of a transaction that somebody else began, and that is not run again.
	foreign bool
	// user is the role of the URL.
	user string
	// asking is held while somebody asks which right lacks, on a connection of their own.
	asking sync.Mutex
	// forced is the mode of the statements, if it is not base: a pgx.QueryExecMode.
	forced atomic.Int32

	log      atomic.Pointer[slog.Logger]
	mu       sync.Mutex
	readOnly time.Time // when a read-only server was last met
}

func newMode(config *pgx.ConnConfig) *mode {
	m := &mode{base: config.DefaultQueryExecMode, fallback: pgx.QueryExecModeCacheDescribe, user: config.User}
	if config.DescriptionCacheCapacity <= 0 {
		m.fallback = pgx.QueryExecModeExec
	}
	if m.base == pgx.QueryExecModeDescribeExec {
		m.forced.Store(int32(m.fallback))
	}
	return m
}

// modes has the mode of each pool, so that what one wrapper learns all know.
var modes sync.Map // of weak.Pointer[pgxpool.Pool] to *mode

func modeOf(pool *pgxpool.Pool) *mode {
	key := weak.Make(pool)
	if m, ok := modes.Load(key); ok {
		return m.(*mode)
	}
	m, had := modes.LoadOrStore(key, newMode(pool.Config().ConnConfig))
	if !had {
		runtime.AddCleanup(pool, func(key weak.Pointer[pgxpool.Pool]) { modes.Delete(key) }, key)
	}
	return m.(*mode)
}

// SetLogger says where the pool tells that it sends statements in another way, and that
// the server is read-only. Default slog.Default().
func (p *Pool) SetLogger(logger *slog.Logger) { p.mode.log.Store(logger) }

func (m *mode) logger() *slog.Logger {
	if log := m.log.Load(); log != nil {
		return log
	}
	return redact.Logger(slog.Default())
}

// args returns what is passed to pgx for these arguments, and the mode that it means; 0
// is the pool's own.
func (m *mode) args(args []any) ([]any, pgx.QueryExecMode) {
	forced := pgx.QueryExecMode(m.forced.Load())
	if len(args) > 0 && m.isText(forced) {
		args = textArgs(args)
	}
	if forced != 0 {
		args = append([]any{forced}, args...)
	}
	return args, forced
}

// isText reports whether parameters are sent as text, without knowing the type that the
// statement wants.
func (m *mode) isText(forced pgx.QueryExecMode) bool {
	if forced == 0 {
		forced = m.base
	}
	return forced == pgx.QueryExecModeExec || forced == pgx.QueryExecModeSimpleProtocol
}

// protocolViolation is what PgBouncer says of a prepared statement that it can't find.
const protocolViolation = "08P01"

// IsLostStatement reports whether the server or a pooler refused a statement for the
// name under which it was prepared. It has not run.
func IsLostStatement(err error) bool {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return false
	}
	switch pgErr.Code {
	case DuplicateStatement, InvalidStatementName:
		return true
	case protocolViolation:
		return strings.Contains(pgErr.Message, "prepared statement")
	}
	return false
}

// learn takes in the error of a statement that was sent in a mode, and reports whether
// the same statement may succeed in the mode that is used from now on.
func (m *mode) learn(err error, sent pgx.QueryExecMode) bool {
	if err == nil || sent != 0 || m.foreign || m.base != pgx.QueryExecModeCacheStatement || !IsLostStatement(err) {
		return false
	}
	if m.forced.CompareAndSwap(0, int32(m.fallback)) {
		m.logger().Info("a pooler does not keep prepared statements apart: from now on none is used "+
			"(say default_query_exec_mode=cache_describe in the database's URL to begin so)", "error", err)
	}
	return true
}

// rest is how long a server must not have been read-only before one is told of again.
const rest = time.Minute

// metReadOnly tells that the server is read-only, and reports whether it was.
func (m *mode) metReadOnly(err error) bool {
	if !IsCode(err, ReadOnlyTransaction) {
		return false
	}
	m.mu.Lock()
	first := time.Since(m.readOnly) > rest
	m.readOnly = time.Now()
	m.mu.Unlock()
	if first {
		m.logger().Warn("the connection leads to a standby or a read-only server: leaving it; trying again on new connections", "error", err)
	}
	return true
}

// textArgs returns the arguments for a mode that knows no types. What the other modes
// make of a value by the type of its parameter, such as JSON, is made of it here.
func textArgs(args []any) []any {
	converted := make([]any, len(args))
	for i, arg := range args {
		converted[i] = textArg(arg)
	}
	return converted
}

// textArg: a value that can't be made text is left to pgx, which says so.
func textArg(arg any) any {
	switch v := arg.(type) {
	case nil, string, bool, int, int16, int32, int64, float64, time.Time, time.Duration, uuid.UUID, pgx.QueryExecMode:
		return arg
	case []byte:
		// No column of Soniq's holds bytes: it is text or JSON.
		if v == nil {
			return nil
		}
		return string(v)
	case json.RawMessage:
		if v == nil {
			return nil
		}
		return string(v)
	case driver.Valuer:
		return arg
	}
	return textOf(reflect.ValueOf(arg))
}

func textOf(v reflect.Value) any {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return textArg(v.Elem().Interface())
	case reflect.String:
		return v.String()
	case reflect.Slice:
		if v.IsNil() {
			return nil
		}
		return textSlice(v)
	case reflect.Map, reflect.Struct:
		return jsonText(v)
	}
	return v.Interface()
}

// textSlice: a list of values is an array, and one of documents is JSON.
func textSlice(v reflect.Value) any {
	element := v.Type().Elem()
	switch kind := element.Kind(); {
	case element == reflect.TypeFor[time.Time]() || element != reflect.TypeFor[uuid.UUID]() && element.Implements(reflect.TypeFor[driver.Valuer]()):
		return v.Interface() // pgx knows them
	case kind == reflect.Map || kind == reflect.Struct:
		return jsonText(v)
	}
	texts := make([]*string, v.Len())
	for i := range texts {
		switch element := textArg(v.Index(i).Interface()).(type) {
		case nil:
		case string:
			texts[i] = &element
		case uuid.UUID:
			text := element.String()
			texts[i] = &text
		default:
			return v.Interface() // numbers, of which pgx makes an array itself
		}
	}
	return texts
}

func jsonText(v reflect.Value) any {
	if v.Kind() == reflect.Map && v.IsNil() {
		return nil
	}
	encoded, err := json.Marshal(v.Interface())
	if err != nil {
		return v.Interface()
	}
	return string(encoded)
}

// InTx runs do in a transaction, and again in a new one if a pooler refused one of its
// statements for how it was sent: then nothing of it has been done.
//
// Errors: those of do, and those of the transaction.
func InTx(ctx context.Context, db Beginner, do func(pgx.Tx) error) error {
	err := pgx.BeginFunc(ctx, db, do)
	if IsLostStatement(err) {
		err = pgx.BeginFunc(ctx, db, do)
	}
	return err
}

// InTxWith is [InTx] for a transaction with these options.
//
// Errors: those of do, and those of the transaction.
func InTxWith(ctx context.Context, db interface {
	BeginTx(ctx context.Context, options pgx.TxOptions) (pgx.Tx, error)
}, options pgx.TxOptions, do func(pgx.Tx) error,
) error {
	err := pgx.BeginTxFunc(ctx, db, options, do)
	if IsLostStatement(err) {
		err = pgx.BeginTxFunc(ctx, db, options, do)
	}
	return err
}

// A Beginner begins transactions: a pool, a connection or a transaction.
type Beginner interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}
