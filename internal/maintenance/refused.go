package maintenance

import (
	"math/bits"
	"sync"
	"time"

	"github.com/google/uuid"

	"soniq/internal/pg"
)

// Maintenance works through rows that anybody may have written. The database may
// refuse what is to become of some: by a trigger or a constraint of the application's,
// or because another table can't hold a value. Such a row is skipped for ever longer.
// So however many there are, each pass comes to others, and the server's log has a few
// lines for each and not one for each pass.
const (
	// firstSkip and longestSkip are how long a row is skipped.
	firstSkip   = time.Minute
	longestSkip = 6 * time.Hour
	// skippedRows limits how many are remembered: 10,000 are 1 MB. With one more, all
	// are forgotten and tried again.
	skippedRows = 10_000
	// refusedInARow ends a pass in which nothing else has succeeded: then it is not the
	// rows, and the next pass continues behind them.
	refusedInARow = 20
	// namedRows is how many rows of one cause are logged one by one.
	namedRows = 10
	// rowsPerPass is how many rows a statement picks for one pass.
	rowsPerPass = 1000
	// bytesPerMove limits the arguments that one statement moves.
	bytesPerMove = 32 << 20
	// rowPatience limits a statement about one row.
	rowPatience = 5 * time.Second
	// keyPatience is how long it waits for a lock. Somebody may have inserted its
	// unique key and not committed, for as long as they like. After keyWaits of those a
	// pass waits only for hurriedPatience.
	keyPatience     = 100 * time.Millisecond
	hurriedPatience = 5 * time.Millisecond
	keyWaits        = 5
)

// refusals are the rows that one task skips. The zero value has none.
type refusals struct {
	mu   sync.Mutex
	rows map[uuid.UUID]refusal
	// inARow counts the refusals since something else has succeeded.
	inARow int
	// told counts the rows that were refused, by SQLSTATE.
	told map[string]int
}

type refusal struct {
	until time.Time
	next  time.Duration
}

// begin begins a pass. It returns how many rows a statement must pick so that, of
// those that it finds, rowsPerPass are not skipped.
func (r *refusals) begin() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.inARow = 0
	return rowsPerPass + len(r.rows)
}

// skips reports whether a row is skipped now.
func (r *refusals) skips(id uuid.UUID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Now().Before(r.rows[id].until)
}

// ids are those that are skipped now. Never nil.
func (r *refusals) ids() []uuid.UUID {
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

// add notes that the database has refused a row, and reports whether to log it: the
// first time, for the first rows with this SQLSTATE, and then each time that these have
// become twice as many. A refusal that may be over in a moment does not grow.
func (r *refusals) add(id uuid.UUID, err error) (log bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.inARow++
	old, again := r.rows[id]
	if r.rows == nil || !again && len(r.rows) >= skippedRows {
		r.rows = map[uuid.UUID]refusal{}
	}
	wait := max(old.next, firstSkip)
	next := min(2*wait, longestSkip)
	if isMomentary(err) {
		wait, next = firstSkip, firstSkip
	}
	r.rows[id] = refusal{until: time.Now().Add(wait), next: next}
	if again {
		return false
	}
	if r.told == nil {
		r.told = map[string]int{}
	}
	r.told[pg.Code(err)]++
	n := r.told[pg.Code(err)]
	return n <= namedRows || n%namedRows == 0 && bits.OnesCount(uint(n/namedRows)) == 1
}

// succeeded notes that a row was not refused.
func (r *refusals) succeeded(id uuid.UUID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.inARow = 0
	delete(r.rows, id)
}

// progress notes that something was not refused.
func (r *refusals) progress() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.inARow = 0
}

// stuck reports whether this pass has met nothing but refusals for a while.
func (r *refusals) stuck() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.inARow >= refusedInARow
}

// isRefusal reports whether the database refuses a row, for now or for good.
func isRefusal(err error) bool { return pg.Refused(err) }

// isMomentary reports whether the database refuses a row for now: because of what
// others hold of it, or of the time or memory that it takes.
func isMomentary(err error) bool {
	return pg.IsCode(err, pg.SerializationFailure, pg.DeadlockDetected, pg.LockNotAvailable, pg.QueryCanceled, pg.OutOfMemory)
}
