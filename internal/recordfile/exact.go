package recordfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"time"

	"soniq/internal/jsondoc"
)

// exactly reads the column exact. It keeps what fits the other columns.
func (a *assignment) exactly(raw json.RawMessage, r *Record) error {
	doc := json.RawMessage(jsondoc.Inner(raw))
	if len(doc) > 0 && string(doc) != "null" && string(doc) != `""` {
		if doc[0] != '{' {
			return errors.New("not a JSON object")
		}
		for key, value := range jsondoc.Members(doc) {
			name := columnName(key)
			if columns[name] == nil || name == exactColumn {
				return fmt.Errorf("unknown column %s", quoted(name))
			}
			if string(value) == null {
				continue // a program that gives all records the same members
			}
			text, err := assignText(value)
			if err == nil {
				// An empty name beside a whole one: the record has the whole one.
				err = a.keep(name, text, r, isMember(doc, "whole_"+name))
			}
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	if len(a.exact) == 0 {
		r.Exact = nil
		return nil
	}
	// A map of texts always has a JSON.
	r.Exact, _ = jsondoc.Append(nil, a.exact)
	return checkStorableJSON(r.Exact)
}

// isMember reports whether the document is an object with this key: where CSV has nothing, exact says
// that a text is empty and not missing.
func isMember(doc []byte, name string) bool {
	if len(doc) == 0 || doc[0] != '{' {
		return false
	}
	for key, value := range jsondoc.Members(doc) {
		if columnName(key) == name && string(value) != null {
			return true
		}
	}
	return false
}

// keep keeps the exact value of a column, if the record still has what stands for it. whole says that
// the record has another column in its place.
func (a *assignment) keep(name, text string, r *Record, whole bool) error {
	fits := false
	switch v := columns[name](r).(type) {
	case *time.Time, **time.Time:
		when, err := parseTime(text)
		if err != nil {
			return err
		}
		if fits = when.exact != ""; fits {
			fits, text = when.fits(name, v, r), when.exact
		}
	case *string:
		fits = *v == "" || whole || text != "" && isName(name)
	case **string:
		if fits = text == "" && (*v == nil || **v == ""); fits {
			*v = &text
		}
	case *json.RawMessage:
		return a.keepJSON(name, text, *v)
	default:
		return errors.New("a column that a record always has exactly")
	}
	if fits {
		a.exact[name] = text
	}
	return nil
}

// isName reports whether the table has a column beside it for the whole text.
func isName(name string) bool {
	return name == "job_name" || name == "queue" || name == wholeNameColumn || name == wholeQueueColumn
}

// keepJSON keeps JSON that is null, and tags that are a text: Python Soniq's.
func (a *assignment) keepJSON(name, text string, doc json.RawMessage) error {
	if !jsondoc.Valid([]byte(text)) {
		return errNoJSON
	}
	if err := checkStorableJSON(json.RawMessage(text)); err != nil {
		return err
	}
	inner := jsondoc.Inner([]byte(text))
	if string(inner) == "null" {
		inner = nil
	}
	if len(inner) == 0 && len(doc) == 0 || sameJSON(inner, doc) {
		a.exact[name] = text
	}
	return nil
}

// sameJSON reports whether two documents have the same value. Numbers are the same if they are
// nearly so: programs that wrote the file anew may have rounded them.
func sameJSON(a, b []byte) bool {
	if string(a) == string(b) {
		return true
	}
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}

// wholeNames reads the columns of the table that our own files don't have: a file of psql has them
// beside the shortened names.
func (a *assignment) wholeNames(c cells, r *Record) error {
	for _, of := range []struct {
		whole, short string
		field        *string
	}{{wholeNameColumn, "job_name", &r.JobName}, {wholeQueueColumn, "queue", &r.Queue}} {
		raw, there := c[of.whole]
		if !there || string(raw) == "null" {
			continue
		}
		whole, err := assignText(raw)
		if err != nil {
			return &fieldError{of.whole, err}
		}
		if whole == "" {
			continue
		}
		if a.exact[of.short] = *of.field; whole == *of.field {
			a.exact[of.whole] = whole
		}
		*of.field = whole
	}
	return nil
}

// EarliestTime and LatestTime stand for the times before and after them.
var (
	EarliestTime = time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC)
	LatestTime   = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
)

// fits reports whether the field of a column has what stands for this time.
func (w when) fits(name string, field any, r *Record) bool {
	switch t := field.(type) {
	case *time.Time:
		return t.Equal(w.nearest) || name == "original_created_at" && t.Equal(r.MovedAt)
	case **time.Time:
		return *t == nil
	}
	return false
}
