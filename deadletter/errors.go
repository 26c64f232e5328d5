package deadletter

import (
	"errors"
	"fmt"

	"github.com/google/uuid"
)

// The errors that a caller may decide by, with errors.Is.
var (
	// ErrNotFound: there is no dead letter with that id.
	ErrNotFound = errors.New("no such dead letter")
	// ErrNoOperation: there is no operation with that id.
	ErrNoOperation = errors.New("no such operation")
	// ErrNotResumable: the operation isn't a replay, is done, or was given up after
	// [ResumableFor].
	ErrNotResumable = errors.New("the operation is no replay that can go on")
	// ErrReplaying: a replay of the dead letter is under way.
	ErrReplaying = errors.New("a replay is under way")
	// ErrResolved: a replay of the dead letter has succeeded.
	ErrResolved = errors.New("a replay has succeeded")
	// ErrEmptyFilterField: a list in a Filter is empty but not nil.
	ErrEmptyFilterField = errors.New("is empty: name at least one value, or leave it out to mean any")
	// ErrFilterEmpty: ReplayAll or DeleteAll got a [Filter] that has no condition
	// and doesn't set All.
	ErrFilterEmpty = errors.New("the filter has no condition: add one, or ask for all dead letters explicitly")
)

// A StateError refuses a replay because of an earlier one. It wraps [ErrReplaying]
// or [ErrResolved]. Force of [ReplayOptions] overrides it.
type StateError struct {
	// ID is the dead letter.
	ID uuid.UUID
	// State is [StateReplaying] or [StateResolved].
	State State
	// ReplayJobID is the job that the latest replay made, or nil.
	ReplayJobID *uuid.UUID
}

func (e *StateError) Error() string {
	s := fmt.Sprintf("dead letter %s: %v", e.ID, e.Unwrap())
	if e.ReplayJobID != nil {
		s += fmt.Sprintf(", as job %s", *e.ReplayJobID)
	}
	return s
}

// Unwrap returns [ErrReplaying] or [ErrResolved].
func (e *StateError) Unwrap() error {
	if e.State == StateResolved {
		return ErrResolved
	}
	return ErrReplaying
}

// A DuplicateError refuses a replay because an equal job is queued: the same
// unique job, or one with the same dedup key.
type DuplicateError struct {
	// ID is the queued job.
	ID uuid.UUID
}

func (e *DuplicateError) Error() string {
	return fmt.Sprintf("job %s, which is equal by its unique arguments or its dedup key, is queued already", e.ID)
}

// An AttemptsError refuses a replay that keeps its attempts and has none left: it
// would die before it runs.
type AttemptsError struct {
	// ID is the dead letter.
	ID uuid.UUID
	// Attempts are those that it has used.
	Attempts int
	// MaxAttempts are those that its replay would have.
	MaxAttempts int
}

func (e *AttemptsError) Error() string {
	return fmt.Sprintf("dead letter %s has used %d of %d attempts: to keep them, give it a maximum of %d or more",
		e.ID, e.Attempts, e.MaxAttempts, e.Attempts+1)
}

// A ReplaysError refuses a replay because MaxReplays of [ReplayOptions] is
// reached. Force overrides it.
type ReplaysError struct {
	// ID is the dead letter.
	ID uuid.UUID
	// Replays is how often it and the dead letters that it is a replay of were
	// replayed.
	Replays int
	// MaxReplays is the limit.
	MaxReplays int
}

func (e *ReplaysError) Error() string {
	return fmt.Sprintf("dead letter %s was replayed %d times already, and the limit is %d", e.ID, e.Replays, e.MaxReplays)
}
