package recordfile

import (
	"encoding/json"
	"strconv"
	"time"

	"github.com/google/uuid"
)

// Text returns a column as PostgreSQL reads it, nil for NULL.
func (r *Record) Text(column string) *string {
	text := func(s string) *string { return &s }
	switch v := columns[column](r).(type) {
	case *string:
		return v
	case **string:
		return *v
	case *int:
		return text(strconv.Itoa(*v))
	case **int:
		if *v != nil {
			return text(strconv.Itoa(**v))
		}
	case **bool:
		if *v != nil {
			return text(strconv.FormatBool(**v))
		}
	case *uuid.UUID:
		return text(v.String())
	case **uuid.UUID:
		if *v != nil {
			return text((*v).String())
		}
	case *time.Time:
		return text(string(appendTimeText(nil, v.UTC())))
	case **time.Time:
		if *v != nil {
			return text(string(appendTimeText(nil, (*v).UTC())))
		}
	case *json.RawMessage:
		if *v != nil {
			return text(string(*v))
		}
	}
	return nil
}
