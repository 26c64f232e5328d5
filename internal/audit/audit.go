// Package audit keeps the history of what was done to dead letters free of secrets,
// and no longer than it should be.
//
// The history is kept for a year, and more people may read it than the dead letters.
// So a record has the arguments that a replay was given without their secrets, and the
// paths that were changed. Only an operation that can still be resumed has its options
// as they are.
package audit

import (
	"context"
	"encoding/json"

	"github.com/google/uuid"

	"soniq/internal/jsondoc"
	"soniq/internal/pg"
	"soniq/internal/redact"
)

// maxChangedPaths bounds the list of changed paths in a record.
const maxChangedPaths = 100

// detail is the detail of a replay with other arguments.
type detail struct {
	Args json.RawMessage `json:"args"`
	// Changed are the paths at which they differ from the dead letter's. Without them
	// a changed secret would not be seen.
	Changed []string `json:"changed"`
}

// Detail returns the detail of a replay that was given args in place of from, as JSON.
//
// Errors: those of package json.
func Detail(from, args json.RawMessage) (string, error) {
	d := detail{Args: redact.JSON(args), Changed: []string{}}
	changes := jsondoc.Compare(from, args)
	for _, c := range changes[:min(len(changes), maxChangedPaths)] {
		d.Changed = append(d.Changed, redact.Text(c.Path))
	}
	text, err := json.Marshal(d)
	return string(text), err
}

// Changes returns what a replay with this detail changed, with secrets redacted before
// and after. args are the dead letter's. It is nil for any other detail.
func Changes(of, args json.RawMessage) []jsondoc.Change {
	var d detail
	if json.Unmarshal(of, &d) != nil || d.Args == nil {
		return nil
	}
	changes := jsondoc.Compare(redact.JSON(args), redact.JSON(d.Args))
	seen := make(map[string]bool, len(changes))
	for _, c := range changes {
		seen[c.Path] = true
	}
	hidden := json.RawMessage(`"` + redact.Placeholder + `"`)
	for _, path := range d.Changed {
		if !seen[path] {
			changes = append(changes, jsondoc.Change{Path: path, Old: hidden, New: hidden})
		}
	}
	return changes
}

// RedactOptions returns the stored options of a bulk replay, a JSON object, as they are
// kept once it is done. What can't be read is removed.
func RedactOptions(stored json.RawMessage) json.RawMessage {
	order, options := map[string]json.RawMessage{}, map[string]json.RawMessage{}
	if json.Unmarshal(stored, &order) != nil || json.Unmarshal(order["options"], &options) != nil {
		order, options = map[string]json.RawMessage{}, map[string]json.RawMessage{}
	}
	if args, ok := options["args"]; ok {
		options["args"] = redact.JSON(args)
	}
	if _, ok := options["queue"]; ok {
		options["queue"] = redact.JSON(options["queue"])
	}
	if raw, ok := options["edits"]; ok {
		var edits []jsondoc.Edit
		if json.Unmarshal(raw, &edits) != nil {
			edits = nil
		}
		for i, e := range edits {
			edits[i] = e.Redacted()
		}
		options["edits"] = encode(edits)
	}
	order["options"], order["redacted"] = encode(options), json.RawMessage("true")
	return encode(order)
}

// encode encodes what was decoded from JSON, which can't fail.
func encode(v any) json.RawMessage {
	text, err := json.Marshal(v)
	if err != nil {
		return json.RawMessage("null")
	}
	return text
}

// $1 the operation, $2 its options.
const setOptionsSQL = `
update public.soniq_dead_letter_operations
set options = $2::jsonb
where id = $1`

// SetOptions stores the options of an operation.
//
// Errors: those of the database.
func SetOptions(ctx context.Context, db pg.Querier, operation uuid.UUID, options json.RawMessage) error {
	_, err := db.Exec(ctx, setOptionsSQL, operation, string(options))
	return err
}
