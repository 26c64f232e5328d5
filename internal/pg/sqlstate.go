package pg

import (
	"cmp"
	"errors"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// SQLSTATE codes that Soniq decides by, with PostgreSQL's names for them.
const (
	InvalidAuthorization         = "28000"
	InvalidPassword              = "28P01"
	InvalidCatalogName           = "3D000" // no such database
	SerializationFailure         = "40001"
	DeadlockDetected             = "40P01"
	ReadOnlyTransaction          = "25006" // also what a standby answers to a write
	InvalidStatementName         = "26000" // a pooler has changed the connection
	DuplicateStatement           = "42P05" // as before
	DuplicateDatabase            = "42P04"
	DuplicateTable               = "42P07"
	DuplicateObject              = "42710"
	InsufficientPrivilege        = "42501"
	UndefinedColumn              = "42703"
	UndefinedFunction            = "42883"
	UndefinedObject              = "42704"
	UndefinedTable               = "42P01"
	UniqueViolation              = "23505"
	DiskFull                     = "53100"
	OutOfMemory                  = "53200"
	ProgramLimitExceeded         = "54000"
	ObjectNotInPrerequisiteState = "55000"
	ObjectInUse                  = "55006"
	LockNotAvailable             = "55P03" // lock_timeout has passed, or NOWAIT
	QueryCanceled                = "57014"
	AdminShutdown                = "57P01" // also of one session, by pg_terminate_backend
	CannotConnectNow             = "57P03" // the server is starting up
	InternalError                = "XX000"
)

// Classes of SQLSTATE codes: their first two characters.
const (
	ClassConnection            = "08"
	ClassData                  = "22"
	ClassSyntaxOrAccess        = "42"
	ClassInsufficientResources = "53"
	ClassProgramLimit          = "54"
	ClassOperatorIntervention  = "57"
	ClassInternal              = "XX"
)

// sqlStateLength is two characters of the class and three of the condition.
const sqlStateLength = 5

// Code returns the SQLSTATE of the server's error in err. It returns "" for an
// error that did not come from the server, such as a broken connection.
func Code(err error) string {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || len(pgErr.Code) != sqlStateLength {
		return ""
	}
	return pgErr.Code
}

// Class returns the class of the SQLSTATE in err, or "" as [Code] does.
func Class(err error) string {
	code := Code(err)
	if code == "" {
		return ""
	}
	return code[:2]
}

// IsCode reports whether err is an error of the server's with one of these codes.
func IsCode(err error, codes ...string) bool {
	code := Code(err)
	return code != "" && slices.Contains(codes, code)
}

// IsClass reports whether err is an error of the server's in one of these classes.
func IsClass(err error, classes ...string) bool {
	class := Class(err)
	return class != "" && slices.Contains(classes, class)
}

// IsTooLarge reports whether a statement failed because a value is larger than
// PostgreSQL can return: it makes no text over 1 GiB.
func IsTooLarge(err error) bool {
	return IsCode(err, ProgramLimitExceeded, OutOfMemory, InternalError)
}

// IsDataError reports whether err is about a value or a constraint: the same statement
// would fail again. Class 21 is a cardinality violation, 23 a constraint, and P0 is what
// a trigger raises.
func IsDataError(err error) bool {
	return IsClass(err, "21", ClassData, "23", ClassProgramLimit, "P0") && !IsNotifyQueueFull(err)
}

// IsNotifyQueueFull reports whether a transaction was refused at its end because the
// server's queue of notifications is full.
func IsNotifyQueueFull(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == ProgramLimitExceeded && pgErr.Routine == notifies
}

// Refused reports whether the database itself answered a statement with an error, and the
// connection can go on. Then another statement may succeed, so the error concerns what
// this one writes, or the rights for it, whatever its SQLSTATE is. A database that is away,
// starting, shutting down or read-only refuses nothing: there every statement fails, until
// it is back. Nor is it a refusal where a pooler has taken the prepared statement away.
func Refused(err error) bool {
	var pgErr *pgconn.PgError
	var connecting *pgconn.ConnectError
	if errors.As(err, &connecting) || !errors.As(err, &pgErr) {
		return false
	}
	switch pgErr.Code {
	case ReadOnlyTransaction, InvalidStatementName, DuplicateStatement:
		return false
	}
	severity := cmp.Or(pgErr.SeverityUnlocalized, pgErr.Severity)
	return severity != "FATAL" && severity != "PANIC"
}

// NoServer reports whether no server that takes writes was reached: the connection could not be made,
// or a pooler has no server for it, or the server is a standby, read-only, starting or shutting
// down. What the statement writes has no part in it.
func NoServer(err error) bool {
	var connecting *pgconn.ConnectError
	if errors.As(err, &connecting) || IsReadOnly(err) {
		return true
	}
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || cmp.Or(pgErr.SeverityUnlocalized, pgErr.Severity) != "FATAL" {
		return false
	}
	return IsClass(err, ClassConnection) || IsCode(err, AdminShutdown, CannotConnectNow)
}

// Momentary reports whether a refusal may be over in a moment: it is about what other
// transactions do at the same time.
func Momentary(err error) bool {
	return IsCode(err, SerializationFailure, DeadlockDetected, LockNotAvailable)
}

// notifies is the routine of the server that a transaction with a notification ends in.
const notifies = "PreCommit_Notify"

// Remedy says what an operator can do about a refusal, in one sentence for the log.
func Remedy(err error) string {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		if NoServer(err) {
			return "there is no server to write to; it goes on when there is one"
		}
		return "see the error"
	}
	if remedy, ok := renamed(err); ok {
		return remedy + ": functions of Soniq look for names that are no longer there, as after 'alter schema ... rename'"
	}
	var denied *DeniedError
	switch code := pgErr.Code; {
	case code == ReadOnlyTransaction:
		return "the server takes no writes: a standby, or one that is being promoted; it goes on with one that does"
	case NoServer(err):
		return "there is no server to write to; it goes on when there is one"
	case errors.As(err, &denied):
		return denied.grant() + " (" + denied.remedy() + ")"
	case code == InsufficientPrivilege:
		return "grant the role of this connection what it lacks"
	case code == UndefinedTable, code == UndefinedColumn, code == UndefinedFunction, code == "3F000":
		return "run 'soniq setup'; if a trigger of the application's fails, mend the trigger"
	case IsNotifyQueueFull(err):
		return "end the session that listens and is idle in a transaction (see pg_stat_activity): it keeps the NOTIFY queue from being emptied"
	case code == ProgramLimitExceeded:
		return "the server has no room for a value, or its NOTIFY queue is full (select pg_notification_queue_usage())"
	case code == DiskFull:
		return "make room on the disk of the database server"
	case strings.HasPrefix(code, ClassInsufficientResources):
		return "the database server lacks memory, disk or connections"
	case strings.HasPrefix(code, "23"):
		return "a constraint refuses the row: if it is the application's, change it"
	case strings.HasPrefix(code, ClassData):
		return "the database can't hold a value of the row"
	case code == LockNotAvailable:
		return "end the session that holds the lock (select pg_blocking_pids(pid), * from pg_stat_activity)"
	case code == QueryCanceled:
		return "find what takes so long (a trigger of the application's), or who cancels it"
	case strings.HasPrefix(code, "P0"):
		return "a trigger raises this error: if it is the application's, change it"
	}
	return "the error says what the database refuses"
}
