package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"

	"soniq/internal/pg"
	"soniq/internal/redact"
)

// FleetConfig configures a [Fleet]. Its zero value works.
type FleetConfig struct {
	// Schema is the schema of Soniq's tables, spelled as the catalog has it. Default
	// "public".
	Schema string
	// Interval is how often the database is read, however many processes have a Fleet.
	// All should have the same. At least 1 s. Default 15 s.
	Interval time.Duration
	// Timeout limits how long a collection waits for the database. Default 5 s.
	Timeout time.Duration
	// MeterProvider gets the gauges. Default [otel.GetMeterProvider].
	MeterProvider metric.MeterProvider
	// Logger takes what an operator should know. Default [slog.Default].
	Logger *slog.Logger
}

// Fleet has gauges of what the database holds: jobs, workers, dead letters and deliveries
// of hooks. It reads them when a metrics reader collects, and not before.
//
// The reading is shared. Of all processes one reads, and leaves what it found in
// soniq_leader_tasks, where the others find it. A role that may not write there reads by
// itself.
//
// While the database is away, the gauge soniq_database_up is 0 and the others are absent.
type Fleet struct {
	pool    *pg.Pool
	config  FleetConfig
	logger  *slog.Logger
	gauges  gauges
	removal metric.Registration

	// turn is held by whoever reads.
	turn chan struct{}
	// What follows belongs to the holder of turn.

	last *seen
	// tried is when the database was last asked, and err what came of it.
	tried time.Time
	err   error
	// failing: the latest reading has failed. The others say what was logged.
	failing, toldAlone, toldMore bool
}

// seen is a reading, and when it was made.
type seen struct {
	*Reading
	at time.Time
}

// Defaults and limits of [FleetConfig].
const (
	defaultInterval = 15 * time.Second
	minInterval     = time.Second
	defaultTimeout  = 5 * time.Second
)

// NewFleet registers the gauges of the database that pool leads to. The caller closes the
// pool, after [Fleet.Close].
//
// Errors: one that says what is wrong in config; those of the meter provider.
func NewFleet(pool *pgxpool.Pool, config FleetConfig) (*Fleet, error) {
	f, err := newFleet(pool, config)
	if err != nil {
		return nil, fmt.Errorf("new fleet metrics: %w", err)
	}
	return f, nil
}

func newFleet(pool *pgxpool.Pool, config FleetConfig) (*Fleet, error) {
	if pool == nil {
		return nil, errors.New("pool is nil")
	}
	schema, err := pg.NewSchema(config.Schema)
	if err != nil {
		return nil, fmt.Errorf("config: Schema: %w", err)
	}
	if config.Interval == 0 {
		config.Interval = defaultInterval
	}
	if config.Interval < minInterval {
		return nil, fmt.Errorf("config: Interval must be at least %s, not %s", minInterval, config.Interval)
	}
	if config.Timeout == 0 {
		config.Timeout = defaultTimeout
	}
	if config.Timeout < 0 {
		return nil, fmt.Errorf("config: Timeout must not be negative, not %s", config.Timeout)
	}
	if config.MeterProvider == nil {
		config.MeterProvider = otel.GetMeterProvider()
	}
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	f := &Fleet{pool: schema.Pool(pool), config: config, logger: redact.Logger(config.Logger), turn: make(chan struct{}, 1)}
	meter := config.MeterProvider.Meter(scope)
	instruments, err := f.gauges.create(meter)
	if err != nil {
		return nil, err
	}
	f.removal, err = meter.RegisterCallback(f.observe, instruments...)
	return f, err
}

// Close removes the gauges.
//
// Errors: those of the meter provider.
func (f *Fleet) Close() error { return f.removal.Unregister() }

// Read returns the latest reading, and its age. It asks the database only if the last
// answer is older than the interval. The caller must not change the reading.
//
// Errors: that the database didn't answer within the timeout, or its error.
func (f *Fleet) Read(ctx context.Context) (*Reading, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, f.config.Timeout)
	defer cancel()
	select {
	case f.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, 0, fmt.Errorf("read the gauges: %w", context.Cause(ctx))
	}
	defer func() { <-f.turn }()
	if f.last != nil && time.Since(f.last.at) < f.config.Interval {
		return f.last.Reading, time.Since(f.last.at), nil
	}
	// Whoever waited for a failing read doesn't wait for another one.
	if f.err == nil || time.Since(f.tried) >= min(time.Second, f.config.Interval) {
		f.refresh(ctx)
	}
	if f.err != nil {
		return nil, 0, fmt.Errorf("read the gauges: %w", f.err)
	}
	return f.last.Reading, time.Since(f.last.at), nil
}

// refresh asks the database.
func (f *Fleet) refresh(ctx context.Context) {
	r, age, err := f.share(ctx)
	f.tried, f.err = time.Now(), err
	switch {
	case err == nil:
		f.last = &seen{r, time.Now().Add(-age)}
		if len(r.More) > 0 && !f.toldMore {
			f.toldMore = true
			f.logger.Warn("metrics of the database name only so many; the others are counted together as '"+Other+"', hooks not at all", "more", r.More)
		}
		if f.failing {
			f.logger.Info("the database can be read for metrics again")
		}
	case !f.failing:
		f.logger.Warn("the database can't be read for metrics; soniq_database_up is 0 until it can", "error", err)
	}
	f.failing = err != nil
}

// The names of the tasks in soniq_leader_tasks. A reader without rights on the hooks must
// not be the one that reads for all.
const (
	readingTask         = "read metrics"
	readingWithoutHooks = "read metrics without hooks"

	storeReadingSQL  = `update public.soniq_leader_tasks set result = $2 where name = $1`
	sharedReadingSQL = `select result, extract(epoch from now() - begun_at)::float8 from public.soniq_leader_tasks where name = $1`
)

// share returns the shared reading and its age, and makes it if it is due. Others that ask
// meanwhile wait for the row of the turn, and find the result. Who may not write there reads
// for itself.
func (f *Fleet) share(ctx context.Context) (r *Reading, age time.Duration, err error) {
	err = pg.InTx(ctx, f.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, limitsSQL, milliseconds(f.config.Timeout)); err != nil {
			return err
		}
		var hooks, shares bool
		if err := tx.QueryRow(ctx, rightsSQL).Scan(&hooks, &shares); err != nil {
			return err
		}
		if !shares {
			f.tellAlone()
			r, err = read(ctx, tx, hooks)
			return err
		}
		task := readingTask
		if !hooks {
			task = readingWithoutHooks
		}
		leads, err := pg.TakeTurn(ctx, tx, task, f.config.Interval)
		if err != nil {
			return err
		}
		if !leads {
			var seconds float64
			err := tx.QueryRow(ctx, sharedReadingSQL, task).Scan(&r, &seconds)
			age = time.Duration(max(seconds, 0) * float64(time.Second))
			if err != nil || r != nil {
				return err
			}
		}
		if r, err = read(ctx, tx, hooks); err != nil {
			return err
		}
		text, err := json.Marshal(r)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, storeReadingSQL, task, text)
		return err
	})
	return r, age, err
}

// tellAlone logs once that readings are not shared.
func (f *Fleet) tellAlone() {
	if !f.toldAlone {
		f.toldAlone = true
		f.logger.Info("the gauges of the database are not shared with other processes: the server is read-only, or the role may not write to soniq_leader_tasks")
	}
}
