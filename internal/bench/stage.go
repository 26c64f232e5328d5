package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/pg"
)

// poolSize is that of each system's pool.
const poolSize = 20

// databasePrefix begins the name of each database that is made here.
const databasePrefix = "soniq_bench_"

// A stage is where one workload runs once: a database with nothing in it but
// the system's tables.
type stage struct {
	system System
	pool   *pgxpool.Pool
	config *pgxpool.Config
}

// onStage calls play with a stage on a new database of the server at url, which
// is dropped afterwards, whatever came of it.
func onStage(ctx context.Context, url string, s System, play func(*stage) ([]Figure, error)) (figures []Figure, err error) {
	admin, err := pgx.Connect(ctx, url)
	if err != nil {
		return nil, err
	}
	defer func() { _ = admin.Close(context.WithoutCancel(ctx)) }()
	name := databasePrefix + uuid.NewString()[:8]
	if err := createDatabase(ctx, admin, name); err != nil {
		return nil, err
	}
	defer func() {
		// ctx may be over.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dropPatience)
		defer cancel()
		if _, dropErr := admin.Exec(ctx, "drop database if exists "+name+" with (force)"); dropErr != nil {
			err = errors.Join(err, fmt.Errorf("drop database %s: %w", name, dropErr))
		}
	}()
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.ConnConfig.Database = name
	config.MaxConns = poolSize
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	if err := s.Setup(ctx, pool); err != nil {
		return nil, fmt.Errorf("set up %s: %w", s.Name(), err)
	}
	return play(&stage{s, pool, config})
}

// dropPatience is how long the server may take to drop a database.
const dropPatience = 30 * time.Second

// ErrNoRight is returned where the role may not create databases.
var ErrNoRight = errors.New("the role of the database URL may not create databases, and the benchmark runs in one of its own")

func createDatabase(ctx context.Context, admin *pgx.Conn, name string) error {
	_, err := admin.Exec(ctx, "create database "+name+" template template0")
	if pg.IsCode(err, pg.InsufficientPrivilege) {
		return ErrNoRight
	}
	if err != nil {
		return fmt.Errorf("create database %s: %w", name, err)
	}
	return nil
}

// fill inserts n jobs and lets the server finish what that left behind: none
// is slowed down by how it was filled.
func (s *stage) fill(ctx context.Context, n int) error {
	if err := s.calm(ctx); err != nil {
		return err
	}
	if err := s.system.Fill(ctx, s.pool, n); err != nil {
		return fmt.Errorf("fill: %w", err)
	}
	if _, err := s.pool.Exec(ctx, `vacuum analyze`); err != nil {
		return fmt.Errorf("vacuum: %w", err)
	}
	return nil
}

// calm writes all to disk. A role that may not do that goes on without: the
// figures are then a little less even.
func (s *stage) calm(ctx context.Context) error {
	_, err := s.pool.Exec(ctx, `checkpoint`)
	if pg.IsCode(err, pg.InsufficientPrivilege) {
		return nil
	}
	return err
}

// work runs the worker while do does what is measured, and returns when both
// have ended.
func (s *stage) work(ctx context.Context, pool *pgxpool.Pool, probe Probe, do func(ctx context.Context) error) error {
	workCtx, stop := context.WithCancel(ctx)
	defer stop()
	doCtx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	worked := make(chan error, 1)
	go func() {
		err := s.system.Work(workCtx, pool, probe)
		if err != nil {
			fail(err)
		}
		worked <- err
	}()
	err := do(doCtx)
	stop()
	if workErr := <-worked; workErr != nil {
		return fmt.Errorf("worker: %w", workErr)
	}
	return err
}

// nothingLeft is an error where jobs were lost.
func (s *stage) nothingLeft(ctx context.Context) error {
	var left int
	if err := s.pool.QueryRow(ctx, s.system.Left()).Scan(&left); err != nil {
		return err
	}
	if left > 0 {
		return fmt.Errorf("%d jobs were left", left)
	}
	return nil
}
