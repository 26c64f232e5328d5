package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/pg"
)

const (
	defaultQueue    = "default"
	defaultPriority = 100
	// Three retries, as in Python Soniq. The column has the same default.
	defaultMaxAttempts = 4
	// Each claim reads a job's arguments: a megabyte is far more than a reference
	// to the data.
	defaultMaxArgsBytes = 1 << 20
)

// ClientConfig configures a [Client]. Its zero value works.
type ClientConfig struct {
	// Schema is the schema of Soniq's tables, spelled as in the catalog: without
	// quotes, and case counts. The search_path is not used. Default "public".
	Schema string
	// Registry gives a job the queue and the max attempts of its handler, unless
	// the call sets them, and refuses arguments that the handler doesn't take. Jobs
	// whose names it doesn't have can be enqueued too. Default none.
	Registry *Registry
	// ProducerID is written to each job and names the program that enqueued it.
	// Default "host:pid:program".
	ProducerID string
	// MaxArgsBytes limits the arguments of one job, in bytes of JSON. Default 1 MiB.
	MaxArgsBytes int
	// Tracers are called before and after jobs are inserted. Their contexts are nested in
	// this order. Default none.
	Tracers []EnqueueTracer
}

// Client enqueues jobs, reads them, and changes them: it cancels, retries and
// deletes jobs, and pauses queues. It is safe for concurrent use.
//
// A method whose name ends in Tx does the same in the caller's transaction, which
// must be on the database of the client's pool. Its effect, notifications
// included, is there once the transaction commits.
type Client struct {
	pool     *pg.Pool
	config   ClientConfig
	registry *Registry
}

// NewClient returns a client that uses pool. The caller closes the pool.
//
// Errors: soniq.ErrSchemaName for a Schema that can't be one; for a nil pool, a
// negative MaxArgsBytes, a nil tracer and mistakes in the Registry an error without a type. The
// database isn't asked.
func NewClient(pool *pgxpool.Pool, config ClientConfig) (*Client, error) {
	if pool == nil {
		return nil, errors.New("new client: pool is nil")
	}
	c, err := config.client()
	if err != nil {
		return nil, err
	}
	schema, err := pg.NewSchema(config.Schema)
	if err != nil {
		return nil, fmt.Errorf("new client: config: Schema: %w", err)
	}
	c.pool = schema.Pool(pool)
	return c, nil
}

// client is one without a pool.
func (config ClientConfig) client() (*Client, error) {
	if config.MaxArgsBytes < 0 {
		return nil, fmt.Errorf("new client: config: MaxArgsBytes must not be negative, not %d", config.MaxArgsBytes)
	}
	if i := slices.Index(config.Tracers, nil); i >= 0 {
		return nil, fmt.Errorf("new client: config: Tracers: number %d is nil", i+1)
	}
	if config.MaxArgsBytes == 0 {
		config.MaxArgsBytes = defaultMaxArgsBytes
	}
	if config.ProducerID == "" {
		host, _ := os.Hostname()
		config.ProducerID = fmt.Sprintf("%s:%d:%s", host, os.Getpid(), filepath.Base(os.Args[0]))
	}
	registry := config.Registry
	if registry == nil {
		registry = NewRegistry()
	}
	if err := registry.Err(); err != nil {
		return nil, fmt.Errorf("new client: %w", err)
	}
	return &Client{config: config, registry: registry}, nil
}
