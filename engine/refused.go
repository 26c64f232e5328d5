package engine

import (
	"sync"
	"time"

	"github.com/google/uuid"

	"soniq/internal/pg"
	"soniq/internal/sweep"
)

// Maintenance works through rows that anybody may have written, and a database
// may refuse what is to become of some: by a trigger or a constraint of the
// application's, or a value that another table can't hold. Such a row is passed
// over for ever longer, so that however many there are, each pass comes to others,
// and the server's log has a few lines of it and not one a row and pass.
const (
	// refusedFirst and refusedMost are how long a row is passed over.
	refusedFirst = time.Minute
	refusedMost  = 6 * time.Hour
	// refusedKept bounds how many are remembered: 10,000 are 1 MB. With one more
	// all are forgotten, and tried again.
	refusedKept = 10_000
	// refusedInARow ends a pass that has come to nothing else: it is not the rows,
	// then, and the next pass goes on behind them.
	refusedInARow = 20
	// maintained is how many rows a statement picks for one pass.
	maintained = 1000
	// maintainedBytes is how much of the rows' arguments one statement moves.
	maintainedBytes = 32 << 20
	// rowPatience is how long a statement about one row may take.
	rowPatience = 5 * time.Second
	// keyPatience is how long it waits for a lock: a unique key of its that
	// somebody has inserted and not committed, for as long as he likes. After
	// keyWaits of those a pass waits only for hurriedPatience.
	keyPatience     = 100 * time.Millisecond
	hurriedPatience = 5 * time.Millisecond
	keyWaits        = 5
)

// refusedRows are the rows that one chore passes over. The zero value has none.
type refusedRows struct {
	mu   sync.Mutex
	rows map[uuid.UUID]refusal
	// row counts the refusals since something else has succeeded.
	row int
}

type refusal struct {
	until time.Time
	next  time.Duration
}

// most is how many rows a statement must pick so that, of those that it finds, a
// thousand are not passed over.
func (r *refusedRows) most() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.row = 0
	return maintained + len(r.rows)
}

// passes reports whether a row is passed over now.
func (r *refusedRows) passes(id uuid.UUID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Now().Before(r.rows[id].until)
}

// ids are those that are passed over now.
func (r *refusedRows) ids() []uuid.UUID {
	r.mu.Lock()
	defer r.mu.Unlock()
	ids := []uuid.UUID{}
	for id, o := range r.rows {
		if time.Now().Before(o.until) {
			ids = append(ids, id)
		}
	}
	return ids
}

// refuse notes that the database has refused a row. first says that it is the
// first time. What may be otherwise in a moment is passed over for no longer each
// time.
func (r *refusedRows) refuse(id uuid.UUID, err error) (first bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.row++
	old, again := r.rows[id]
	if r.rows == nil || !again && len(r.rows) >= refusedKept {
		r.rows = map[uuid.UUID]refusal{}
	}
	wait := max(old.next, refusedFirst)
	next := min(2*wait, refusedMost)
	if isMomentary(err) {
		wait, next = refusedFirst, refusedFirst
	}
	r.rows[id] = refusal{until: time.Now().Add(wait), next: next}
	return !again
}

// went notes that something was not refused, and that nothing is left of it.
func (r *refusedRows) went(id uuid.UUID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.row = 0
	delete(r.rows, id)
}

// progress notes that something was not refused.
func (r *refusedRows) progress() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.row = 0
}

// stuck says that nothing but refusals has come of this pass for a while.
func (r *refusedRows) stuck() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.row >= refusedInARow
}

// isRefusal reports whether the database refuses a row. Here that may be by an
// error of class 42 too: that of a trigger of the application's, say, which lacks a
// table. And by one of class XX, which is how the server says that it has no room
// for a value, or can't read one.
func isRefusal(err error) bool {
	return pg.IsClass(err, pg.ClassSyntaxOrAccess, pg.ClassInternal) || sweep.IsRefusal(err) || isMomentary(err)
}

// isMomentary reports whether the database refuses a row for now: for what others
// hold of it, or for how long or how much memory it takes.
func isMomentary(err error) bool {
	return pg.IsCode(err, pg.SerializationFailure, pg.DeadlockDetected, pg.LockNotAvailable, pg.QueryCanceled, pg.OutOfMemory)
}
