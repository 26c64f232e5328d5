package dashboard

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"soniq/deadletter"
	"soniq/engine"
	"soniq/hooks"
	"soniq/internal/pg"
	"soniq/internal/redact"
)

// A Dashboard serves the pages. Any number of requests may use it.
type Dashboard struct {
	cfg    Config
	base   string // the path under which it is mounted, without a slash at its end
	schema pg.Schema
	db     *pg.Pool
	log    *slog.Logger

	queue  *deadletter.Queue
	client *engine.Client
	store  *hooks.Store

	templates templates
	sessions  *sessions
	hub       *hub
	runs      *runs
	handler   http.Handler
	// smallTable is how large the table of jobs may be, in bytes, whose whole a page reads.
	smallTable int64
	samples    samples
	// hookConfig is what a hook may use that is tested here: nothing beyond the public network.
	hookConfig hooks.Config
}

// New returns a dashboard of the pool's database. It runs no statement. The caller closes the
// pool.
//
// Errors: one that names the field of cfg which is wrong.
func New(pool *pgxpool.Pool, cfg Config) (*Dashboard, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("new dashboard: %w", err)
	}
	schema, err := pg.NewSchema(cfg.Schema)
	if err != nil {
		return nil, fmt.Errorf("new dashboard: Schema: %w", err)
	}
	if cfg.ListenConfig == nil {
		cfg.ListenConfig = pool.Config().ConnConfig
	}
	cfg.Title = cmp.Or(cfg.Title, "Soniq")
	d := &Dashboard{
		cfg: cfg, base: strings.TrimRight(cfg.BasePath, "/"), schema: schema, db: schema.Pool(pool),
		log:      redact.Logger(cmp.Or(cfg.Logger, slog.Default())),
		sessions: newSessions(cfg.Key), hub: newHub(), runs: newRuns(),
		smallTable: smallTable,
	}
	if d.queue, err = deadletter.NewQueue(pool, deadletter.QueueConfig{Schema: cfg.Schema}); err != nil {
		return nil, err
	}
	if d.client, err = engine.NewClient(pool, engine.ClientConfig{Schema: cfg.Schema}); err != nil {
		return nil, err
	}
	if d.store, err = hooks.NewStore(pool, hooks.StoreConfig{Schema: cfg.Schema}); err != nil {
		return nil, err
	}
	if d.templates, err = parseTemplates(d.functions()); err != nil {
		return nil, fmt.Errorf("new dashboard: %w", err)
	}
	d.handler = d.guarded(d.routes())
	return d, nil
}

// Handler serves the dashboard. Mount it under the BasePath: mux.Handle(base+"/", d.Handler()).
// It works with and without http.StripPrefix around it.
func (d *Dashboard) Handler() http.Handler { return d.handler }

// Run feeds the pages with what dies, and does what people begin on many dead letters, until ctx
// ends: then it returns nil, once that has stopped; a bulk replay can be resumed. One connection
// listens, whatever the number of pages. Without Run they show the moment at which they were
// opened, and say so.
//
// Errors: those of [deadletter.Subscribe], such as a role that may not read the dead letters.
func (d *Dashboard) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return d.follow(ctx) })
	group.Go(func() error { return d.watch(ctx) })
	group.Go(func() error { return d.runs.work(ctx) })
	if err := group.Wait(); err != nil {
		return fmt.Errorf("dashboard: %w", err)
	}
	return nil
}

// A right is one of [Rights], which a page needs.
type right int

const (
	anybody right = iota // the page to sign in
	see
	act
	reveal
)

func (r Rights) has(needed right) bool {
	switch needed {
	case see:
		return r.See
	case act:
		return r.See && r.Act
	case reveal:
		return r.See && r.Reveal
	default:
		return true
	}
}

// A page is what answers requests of one pattern.
type page struct {
	// pattern is one of [http.ServeMux], without the base path: GET /dead-letters/{id}.
	pattern string
	// needs is the right that a user must have.
	needs right
	serve func(*visit) error
}

// A navEntry is a link at the top of each page.
type navEntry struct {
	Path, Name string
}

// navigation are the links at the top, in their order.
var navigation = []navEntry{
	{"/overview", "Overview"},
	{"/groups", "Dead letters"},
	{"/jobs", "Jobs"},
	{"/queues", "Queues"},
	{"/workers", "Workers"},
	{"/hooks", "Hooks"},
	{"/history", "History"},
}

// pages are all pages.
func (d *Dashboard) pages() []page {
	return []page{
		{"GET /{$}", see, d.home},
		{"GET /sign-in", anybody, d.signInPage},
		{"POST /sign-in", anybody, d.signIn},
		{"POST /sign-out", anybody, d.signOut},
		{"GET /groups", see, d.groups},
		{"GET /overview", see, d.overview},
		{"GET /jobs", see, d.jobs},
		{"GET /jobs/{id}", see, d.job},
		{"GET /jobs/{id}/job.json", see, d.jobFile},
		{"POST /jobs/{id}/cancel", act, d.cancelJob},
		{"POST /jobs/{id}/retry", act, d.retryJob},
		{"GET /queues", see, d.queues},
		{"POST /queues/pause", act, d.pauseQueue},
		{"POST /queues/resume", act, d.resumeQueue},
		{"GET /workers", see, d.workers},
		{"GET /hooks", see, d.hooks},
		{"POST /hooks/test", act, d.testHook},
		{"POST /hooks/enable", act, d.enableHook},
		{"POST /hooks/disable", act, d.disableHook},
		{"POST /hooks/retry", act, d.retryDeliveries},
		{"GET /history", see, d.history},
		{"GET " + apiPrefix + "openapi.json", see, d.openAPI},
		{"GET /dead-letters", see, d.letters},
		{"GET /live", see, d.live},
		{"POST /dead-letters/prepare", act, d.prepare},
		{"POST /dead-letters/replay", act, d.replayMany},
		{"POST /dead-letters/delete", act, d.deleteMany},
		{"POST /dead-letters/tag", act, d.tagMany},
		{"POST /dead-letters/export", reveal, d.export},
		{"GET /cleanup", act, d.cleanupPreview},
		{"POST /cleanup", act, d.cleanup},
		{"GET /runs/{id}", see, d.runPage},
		{"GET /operations/{id}", see, d.operation},
		{"POST /operations/{id}/stop", act, d.stopOperation},
		{"POST /operations/{id}/resume", act, d.resumeOperation},
		{"GET /dead-letters/{id}/edit", act, d.edit},
		{"POST /dead-letters/{id}/edit", act, d.checkEdit},
		{"POST /dead-letters/{id}/replay", act, d.replayOne},
		{"GET /dead-letters/{id}", see, d.letter},
		{"GET /dead-letters/{id}/args.json", see, d.letterArgs},
		{"POST /dead-letters/{id}/reveal", reveal, d.reveal},
	}
}

// routes serves the pages and the assets.
func (d *Dashboard) routes() http.Handler {
	mux := http.NewServeMux()
	for _, p := range d.pages() {
		mux.Handle(p.pattern, d.visited(p))
	}
	for _, e := range d.endpoints() {
		mux.Handle(e.page().pattern, d.visited(e.page()))
	}
	mux.Handle("GET /assets/{version}/{name}", http.HandlerFunc(serveAsset))
	mux.Handle("/", d.visited(page{needs: see, serve: func(*visit) error { return errNoPage }}))
	return mux
}

// home is where somebody begins.
func (d *Dashboard) home(v *visit) error { return v.redirect("/groups") }
