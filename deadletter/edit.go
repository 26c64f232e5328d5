package deadletter

import (
	"encoding/json"
	"errors"

	"github.com/google/uuid"

	"soniq/internal/jsondoc"
)

// An ArgsEdit changes one value of a job's arguments for a replay. The other values
// keep their digits and their spelling.
type ArgsEdit struct {
	// Path leads to the value: keys with dots between them, and indexes of list
	// elements, from 0, in brackets: user.emails[0].address. A backslash takes the next
	// character as it is, such as a dot in a key.
	//
	// The last key of an object may be new. All before it must exist, so that a typing
	// error makes no new objects. No list grows.
	Path string `json:"path"`
	// Value is the new value, any JSON.
	Value json.RawMessage `json:"value,omitempty"`
	// Remove removes the value from its object or list. It must exist.
	Remove bool `json:"remove,omitempty"`
}

// Validate checks the path, and that the value is JSON that can be stored.
//
// Errors: one that names the path.
func (e ArgsEdit) Validate() error { return jsondoc.Edit(e).Validate() }

// An EditError says that arguments have no place for an edit.
type EditError struct {
	// ID is the dead letter, where there is one.
	ID uuid.UUID
	// Path is that of the edit.
	Path string
	// Why completes a sentence that begins with the path.
	Why string
}

func (e *EditError) Error() string {
	s := e.Path + ": " + e.Why
	if e.ID != uuid.Nil {
		s = "dead letter " + e.ID.String() + ": " + s
	}
	return s
}

// EditArgs returns the arguments with the edits made, one after the other. It doesn't
// change args.
//
// Errors: *EditError for an edit that the arguments have no place for, those of
// [ArgsEdit.Validate], and one for arguments that are not a JSON object that can be
// stored.
func EditArgs(args json.RawMessage, edits []ArgsEdit) (json.RawMessage, error) {
	if err := checkArgs(args); err != nil {
		return nil, err
	}
	inner := make([]jsondoc.Edit, len(edits))
	for i, e := range edits {
		inner[i] = jsondoc.Edit(e)
	}
	edited, err := jsondoc.Apply(args, inner)
	if misfit := (*jsondoc.PathError)(nil); errors.As(err, &misfit) {
		return nil, &EditError{Path: misfit.Path, Why: misfit.Why}
	}
	return edited, err
}

// An ArgsChange is one difference between two arguments.
type ArgsChange struct {
	// Path leads to it, as in an ArgsEdit. It is empty if the whole differs.
	Path string `json:"path"`
	// Old and New are the values, nil where there is none.
	Old json.RawMessage `json:"old,omitempty"`
	New json.RawMessage `json:"new,omitempty"`
}

// CompareArgs returns the differences between two JSON documents, in the order of the
// first. It compares lists of one length element by element, and other lists as a
// whole. Layout and the order of keys are no difference. 1.0 and 1 differ.
func CompareArgs(from, to json.RawMessage) []ArgsChange {
	return argsChanges(jsondoc.Compare(from, to))
}

func argsChanges(of []jsondoc.Change) (changes []ArgsChange) {
	for _, c := range of {
		changes = append(changes, ArgsChange(c))
	}
	return changes
}

// ArgsValue returns the value that a path leads to, as an ArgsEdit has it, or nil if
// there is none.
func ArgsValue(args json.RawMessage, path string) json.RawMessage { return jsondoc.Value(args, path) }
