package pg

import (
	"errors"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"
)

// SQLSTATE codes that Soniq decides by, with PostgreSQL's names for them.
const (
	InvalidAuthorization         = "28000"
	InvalidPassword              = "28P01"
	InvalidCatalogName           = "3D000" // no such database
	SerializationFailure         = "40001"
	DeadlockDetected             = "40P01"
	DuplicateDatabase            = "42P04"
	DuplicateTable               = "42P07"
	DuplicateObject              = "42710"
	InsufficientPrivilege        = "42501"
	UndefinedColumn              = "42703"
	UndefinedObject              = "42704"
	UndefinedTable               = "42P01"
	UniqueViolation              = "23505"
	OutOfMemory                  = "53200"
	ProgramLimitExceeded         = "54000"
	ObjectNotInPrerequisiteState = "55000"
	ObjectInUse                  = "55006"
	LockNotAvailable             = "55P03" // lock_timeout has passed, or NOWAIT
	QueryCanceled                = "57014"
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
	return IsClass(err, "21", ClassData, "23", ClassProgramLimit, "P0")
}
