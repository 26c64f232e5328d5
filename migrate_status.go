package soniq

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/pg"
)

// MigrationState is how a migration stands in a database.
type MigrationState string

// The states of a migration.
const (
	// Applied: it is recorded, with the checksum of this release's text or with none.
	Applied MigrationState = "applied"
	// Pending: it is not recorded.
	Pending MigrationState = "pending"
	// Edited: another text than this release's was applied.
	Edited MigrationState = "edited"
	// Newer: a later release has recorded it, and this one doesn't know it.
	Newer MigrationState = "newer"
	// Other: another program has recorded it: Python Soniq or a plugin of it.
	Other MigrationState = "other"
)

// MigrationStatus is one migration in a database.
type MigrationStatus struct {
	Version string         `json:"version"`
	Name    string         `json:"name"`
	State   MigrationState `json:"state"`
	// AppliedAt is in UTC; nil where it is pending.
	AppliedAt *time.Time `json:"applied_at"`
}

// String is its version and name, such as '0154_soniq_go_hooks'.
func (m MigrationStatus) String() string { return m.Version + "_" + m.Name }

// Status is what [ReadStatus] found.
type Status struct {
	// Migrations are those of this release and those that the database has beside them, by version.
	Migrations []MigrationStatus
	// Functions are those of Soniq that somebody changed: another body, other rights or settings. [Setup]
	// puts them back. Empty while migrations are pending or newer ones are there, which change functions.
	Functions []string
	// Missing are tables, columns, indexes, views, functions and triggers of Soniq that somebody dropped,
	// triggers that are disabled, and indexes that were begun and not finished, such as 'trigger
	// soniq_jobs_inserted of soniq_jobs'. [Setup] makes them anew, and [Prebuild] the indexes. Empty as
	// Functions is.
	Missing []string
}

// In returns the migrations in a state.
func (s Status) In(state MigrationState) []MigrationStatus {
	return slices.DeleteFunc(slices.Clone(s.Migrations), func(m MigrationStatus) bool { return m.State != state })
}

// UpToDate reports whether nothing is pending or edited.
func (s Status) UpToDate() bool {
	return len(s.In(Pending))+len(s.In(Edited))+len(s.Functions)+len(s.Missing) == 0
}

const statusSQL = `
select version, name, applied_at, coalesce(checksum, '')
from public.soniq_migrations
order by version`

// ReadStatus tells which migrations a database has, and what of Soniq's somebody changed or dropped. It
// reads only, in a transaction of its own. Where there are no tables all is pending.
//
// Errors: an [*OtherSchemaError]; [ErrSchemaName]; else those of the database.
func ReadStatus(ctx context.Context, pool *pgxpool.Pool, cfg Config) (Status, error) {
	status, err := readStatus(ctx, pool, cfg)
	if err != nil {
		return Status{}, fmt.Errorf("read status of the schema: %w", err)
	}
	return status, nil
}

func readStatus(ctx context.Context, pool *pgxpool.Pool, cfg Config) (s Status, err error) {
	tx, err := pool.BeginTx(ctx, readOnly)
	if err != nil {
		return s, err
	}
	// It has written nothing.
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	tx = pg.PlainTx(tx)
	h, err := findHome(ctx, tx, cfg)
	if err != nil {
		return s, err
	}
	if s.Migrations, err = h.statuses(ctx, tx); err != nil {
		return s, err
	}
	if !h.tables || len(s.In(Pending))+len(s.In(Newer)) > 0 {
		return s, nil
	}
	a, err := h.audit(ctx, tx, h.owner)
	if err != nil {
		return s, err
	}
	for _, f := range a.functions {
		if f.other || f.loose || f.public {
			s.Functions = append(s.Functions, f.name)
		}
	}
	s.Missing = a.missing
	return s, nil
}

// statuses are the migrations of this release and those that are recorded.
func (h *home) statuses(ctx context.Context, tx pgx.Tx) (list []MigrationStatus, err error) {
	for _, m := range migrations() {
		list = append(list, MigrationStatus{Version: m.Version, Name: m.Name, State: Pending})
	}
	var exists bool
	if err := tx.QueryRow(ctx, `select to_regclass($1) is not null`, h.sql("public.soniq_migrations")).Scan(&exists); err != nil || !exists {
		return list, err
	}
	var (
		version, name, checksum string
		at                      *time.Time
	)
	rows, _ := tx.Query(ctx, h.sql(statusSQL))
	_, err = pgx.ForEachRow(rows, []any{&version, &name, &at, &checksum}, func() error {
		number, err := migrationNumber(version)
		switch {
		case errors.Is(err, ErrUnknownMigration):
			state := Other
			if isOwn(version) && version > newestMigration() {
				state = Newer
			}
			list = append(list, MigrationStatus{Version: version, Name: name, State: state, AppliedAt: at})
		case checksum != "" && checksum != migrations()[number].Checksum():
			list[number].State, list[number].AppliedAt = Edited, at
		default:
			list[number].State, list[number].AppliedAt = Applied, at
		}
		at = nil
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read soniq_migrations: %w", err)
	}
	slices.SortStableFunc(list, func(a, b MigrationStatus) int { return strings.Compare(a.Version, b.Version) })
	return list, nil
}
