package pg

import (
	"errors"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// ourFunction finds the function of ours that failed, and its schema, in the context of an error. The server
// says this part of it in the language of its messages, but for the name.
var ourFunction = regexp.MustCompile(`(?:("(?:[^"]|"")+"|[\pL_][\pL\pN_$]*)\.)?soniq_[a-z_]+\(`)

// renamed returns the remedy where one of Soniq's functions looks for a name that is no longer there: the
// schema was renamed, and the functions have its old name inside.
func renamed(err error) (remedy string, ok bool) {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || !IsCode(err, "3F000", UndefinedTable, UndefinedFunction) {
		return "", false
	}
	found := ourFunction.FindStringSubmatch(pgErr.Where)
	if found == nil {
		return "", false
	}
	remedy = "run 'soniq setup'"
	if schema := found[1]; schema != "" && schema != DefaultSchema {
		if quoted, ok := strings.CutPrefix(schema, `"`); ok {
			schema = strings.ReplaceAll(strings.TrimSuffix(quoted, `"`), `""`, `"`)
		}
		remedy = "run 'soniq setup' with --schema " + schema
	}
	return remedy, true
}

// explained is an error with what happened and what to do before it.
type explained struct {
	remedy string
	err    error
}

func (e *explained) Error() string {
	return "functions of Soniq look for names that are no longer there, as after 'alter schema ... rename': " + e.remedy + ": " + e.err.Error()
}

func (e *explained) Unwrap() error { return e.err }

// Explain puts before an error what happened and what to do, where Soniq knows it and the server's text doesn't
// say it. It returns other errors as they are, and reports whether the text is there.
func Explain(err error) (error, bool) {
	var already *explained
	if errors.As(err, &already) {
		return err, true
	}
	if remedy, ok := renamed(err); ok {
		return &explained{remedy, err}, true
	}
	return err, false
}
