package deadletter

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/deadletter/classify"
	"soniq/internal/groupsql"
)

// TrendHours is how many hours the trend of a group covers.
const TrendHours = 24

// A Group is the dead letters of one cause: those with the same fingerprint. Of
// rows that another program wrote without one, those with the same job, reason and
// first line of the error, apart from numbers.
type Group struct {
	// ID is the fingerprint, or a digest in place of it. [Filter].Groups takes it.
	ID string `json:"group"`
	// Count is how many there are, and Dead, Replaying and Resolved how many of
	// them are in each state. Superseded are dead too, and their work died again in a
	// replay, or was replayed again since: they are not counted as Dead.
	Count      int64 `json:"count"`
	Dead       int64 `json:"dead"`
	Superseded int64 `json:"superseded"`
	Replaying  int64 `json:"replaying"`
	Resolved   int64 `json:"resolved"`
	// FirstSeen and LastSeen are the times of the first and the last death, in UTC.
	FirstSeen time.Time `json:"first_seen"`
	LastSeen  time.Time `json:"last_seen"`
	// Jobs and Reasons are those that occur, sorted. At most ten jobs.
	Jobs    []string          `json:"jobs"`
	Reasons []classify.Reason `json:"reasons"`
	// SampleID is the dead letter that died last, and SampleError its last error.
	SampleID    uuid.UUID `json:"sample_id"`
	SampleError string    `json:"sample_error"`
	// Trend counts the deaths of the last 24 hours, the oldest hour first.
	Trend []int64 `json:"trend"`
}

// Groups returns the groups of the dead letters that the filter picks: those with
// the most dead ones first, then the largest. The filter's Limit is the highest
// number of groups. Default 1,000.
//
// Errors: a wrong filter; those of the database.
func (q *Queue) Groups(ctx context.Context, f Filter) ([]Group, error) {
	groups, err := q.groups(ctx, f)
	if err != nil {
		return nil, fmt.Errorf("group dead letters: %w", err)
	}
	return groups, nil
}

func (q *Queue) groups(ctx context.Context, f Filter) (groups []Group, err error) {
	if err := f.Validate(); err != nil {
		return nil, err
	}
	if f.Limit == 0 {
		f.Limit = listLimit
	}
	sql, params := groupsSQLOf(f)
	err = q.survey(ctx, sql, params, func(rows pgx.Rows) error {
		groups, err = pgx.CollectRows(rows, scanGroup)
		return err
	})
	return groups, err
}

func scanGroup(row pgx.CollectableRow) (g Group, err error) {
	err = row.Scan(
		&g.ID, &g.Count, &g.Dead, &g.Superseded, &g.Replaying, &g.Resolved, &g.FirstSeen, &g.LastSeen,
		&g.Jobs, &g.Reasons, &g.SampleID, &g.SampleError, &g.Trend,
	)
	g.FirstSeen, g.LastSeen = g.FirstSeen.UTC(), g.LastSeen.UTC()
	return g, err
}

func groupsSQLOf(f Filter) (sql string, params []any) {
	w := &where{}
	w.Param(TrendHours) // $1
	w.Param(f.Limit)    // $2
	w.filter(f)
	and := "\n  and"
	if w.SQL() == "" {
		and = "\nwhere"
	}
	return fmt.Sprintf(groupsql.Groups, w.SQL(), and), w.Params()
}
