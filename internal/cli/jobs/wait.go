package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"soniq/engine"
	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
	"soniq/internal/pg"
	"soniq/internal/unit"
	"soniq/notify"
)

const (
	// A done job isn't announced, so it is looked for: often at first, since
	// most jobs take milliseconds, then once a second.
	waitMinPause = 20 * time.Millisecond
	waitMaxPause = time.Second
	// waitWarnAfter is when a note says why a job has not been claimed. A
	// worker that is there claims in milliseconds.
	waitWarnAfter = 3 * time.Second
	// waitPatience is how long the database may be away during a wait: more
	// than a restart takes.
	waitPatience = 30 * time.Second
)

// waitFlags belong to the commands that can wait for a job.
type waitFlags struct {
	Wait bool `help:"Wait until the job has ended, and exit 1 unless it is done."`
	app.ListenFlag
	WaitTimeout *time.Duration `placeholder:"DURATION" help:"Stop waiting after DURATION, above 0; the job goes on. Default: wait until it has ended."`
}

func (f *waitFlags) check() error {
	switch {
	case f.ListenURL != "" && !f.Wait:
		return app.Usagef("--listen-url needs --wait")
	case f.WaitTimeout == nil:
		return nil
	case !f.Wait:
		return app.Usagef("--wait-timeout needs --wait")
	case *f.WaitTimeout <= 0:
		return app.Usagef("--wait-timeout must be above 0, not %s", *f.WaitTimeout)
	}
	return nil
}

// waiting is one wait for some jobs.
type waiting struct {
	*app.App
	pool   *pgxpool.Pool
	listen app.ListenFlag
	client *engine.Client
	// ended is called for each job when it has ended. job is nil if its row is
	// gone.
	ended func(id uuid.UUID, job *engine.Job)

	open     []uuid.UUID // in the order they were given
	statuses map[uuid.UUID]engine.JobStatus
	started  time.Time
	answered time.Time // when the database last answered
	warned   bool
}

// await waits until all jobs of ids have ended. They must have been there:
// one that isn't has ended, and its row is gone.
func (f *waitFlags) await(a *app.App, pool *pgxpool.Pool, client *engine.Client, ids []uuid.UUID, ended func(uuid.UUID, *engine.Job)) error {
	ctx := a.Ctx
	if f.WaitTimeout != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, *f.WaitTimeout)
		defer cancel()
	}
	w := &waiting{
		App: a, pool: pool, listen: f.ListenFlag, client: client, ended: ended, open: slices.Clone(ids),
		statuses: make(map[uuid.UUID]engine.JobStatus, len(ids)), started: a.Now(), answered: a.Now(),
	}
	err := w.run(ctx)
	if ctx.Err() == nil || err == nil || len(w.open) == 0 {
		return err
	}
	how := "stopped waiting"
	if a.Ctx.Err() == nil {
		how = fmt.Sprintf("not done after %s", *f.WaitTimeout)
	}
	return w.unfinished(how)
}

// unfinished ends a wait before its jobs.
func (w *waiting) unfinished(how string) error {
	if len(w.open) > 1 {
		return fmt.Errorf("%s: %s go on (see 'soniq status')", how, unit.Plural(int64(len(w.open)), "job"))
	}
	status := ""
	if s, ok := w.statuses[w.open[0]]; ok {
		status = ", which is " + string(s) + ","
	}
	return fmt.Errorf("%s: job %s%s goes on (see 'soniq job %[2]s')", how, w.open[0], status)
}

// run looks at the jobs and then listens, which the looking goes on beside: a
// pooler in transaction mode delivers nothing.
func (w *waiting) run(ctx context.Context) error {
	deaths := &deathWatch{Wakeups: notify.NewWakeups(), ids: make(map[string]struct{}, len(w.open))}
	for _, id := range w.open {
		deaths.ids[id.String()] = struct{}{}
	}
	schema, err := w.TableSchema()
	if err != nil {
		return err
	}
	listen, err := w.listen.Listen(w.App, w.pool)
	if err != nil {
		return err
	}
	listener, err := notify.NewListener(notify.Config{
		ConnConfig: listen,
		// So that no LISTEN stays behind where notifications don't arrive.
		Probe: w.probe,
		// Whoever waits learns of a lost connection from the looking.
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	listener.Handle(schema.Channel(notify.DeadLetter), deaths)
	ctx, stop := context.WithCancel(ctx)
	var parts errgroup.Group
	parts.Go(func() error { return listener.Run(ctx) })
	err = w.look(ctx, deaths)
	stop()
	return errors.Join(err, parts.Wait())
}

func (w *waiting) probe(ctx context.Context, channel, payload string) error {
	_, err := pg.Schema{}.Pool(w.pool).Exec(ctx, `select pg_notify($1, $2)`, channel, payload)
	return err
}

// deathWatch wakes the wait when one of its jobs has become a dead letter, and
// when the channel has been connected: what came before was not heard.
type deathWatch struct {
	*notify.Wakeups
	ids map[string]struct{}
}

// Notify implements [notify.Handler].
func (d *deathWatch) Notify(_ context.Context, payload string) {
	var death struct {
		ID string `json:"id"`
	}
	if json.Unmarshal([]byte(payload), &death) != nil {
		return
	}
	if _, ok := d.ids[death.ID]; ok {
		d.Set()
	}
}

func (w *waiting) look(ctx context.Context, deaths *deathWatch) error {
	pause := waitMinPause
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		deaths.Clear()
		before := len(w.open)
		if err := w.round(ctx); err != nil {
			return err
		}
		if len(w.open) == 0 {
			return nil
		}
		if len(w.open) < before {
			pause = waitMinPause
		}
		timer.Reset(pause)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			pause = min(2*pause, waitMaxPause)
		case <-deaths.C():
			// A storm of deaths must not become one of queries.
			pause = waitMinPause
			if len(w.open) > 1 {
				timer.Reset(pause)
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-timer.C:
				}
			}
		}
	}
}

// round takes the jobs that have ended off the open ones. A database that is
// away is waited for.
func (w *waiting) round(ctx context.Context) error {
	err := w.takeEnded(ctx)
	if err == nil && len(w.open) > 0 && !w.warned && w.Now().Sub(w.started) >= waitWarnAfter {
		w.warned = true
		err = w.warn(ctx)
	}
	switch {
	case err == nil:
		w.answered = w.Now()
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case w.Out.Err == nil && passing(err) && w.Now().Sub(w.answered) < waitPatience:
		w.Log.Debug("could not look at the jobs; trying again", "error", w.Describe(err))
		return nil
	default:
		return err
	}
}

// passing reports whether the wait should try again after err: a network error, or an
// error of the server about connections, resources or a shutdown.
func passing(err error) bool {
	return pg.Code(err) == "" || pg.IsClass(err, pg.ClassConnection, pg.ClassInsufficientResources, pg.ClassOperatorIntervention)
}

func (w *waiting) takeEnded(ctx context.Context) error {
	statuses, err := w.client.OpenJobs(ctx, w.open)
	if err != nil {
		return err
	}
	w.statuses = statuses
	still := make([]uuid.UUID, 0, len(statuses))
	for i, id := range w.open {
		ended := false
		if _, ok := statuses[id]; !ok {
			if ended, err = w.takeOne(ctx, id); err != nil {
				w.open = append(still, w.open[i:]...)
				return err
			}
		}
		if !ended {
			still = append(still, id)
		}
	}
	w.open = still
	return w.Out.Err // nobody would read the outcome
}

func (w *waiting) takeOne(ctx context.Context, id uuid.UUID) (ended bool, err error) {
	job, err := w.client.Job(ctx, id)
	switch {
	case errors.Is(err, engine.ErrJobNotFound):
		w.ended(id, nil)
	case err != nil:
		return false, err
	case job.Status == engine.StatusQueued || job.Status == engine.StatusProcessing:
		w.statuses[id] = job.Status
		return false, nil
	default:
		w.ended(id, job)
	}
	return true, nil
}

// warn says why the first open job may wait for a long time.
func (w *waiting) warn(ctx context.Context) error {
	job, err := w.client.Job(ctx, w.open[0])
	if err != nil || job.Status != engine.StatusQueued {
		return ignoreNotFound(err)
	}
	if job.ScheduledAt != nil && job.ScheduledAt.After(w.Now()) {
		w.Note("soniq: the job is due at %s: waiting", w.When(*job.ScheduledAt))
		return nil
	}
	service, err := w.client.Availability(ctx, job.Queue, job.Name)
	switch {
	case err != nil:
		return err
	case service.Paused:
		w.Note("soniq: queue %s is paused: waiting", terminal.OneLine(job.Queue))
	case !service.Queue:
		w.Note("soniq: no live worker serves queue %s: waiting (--wait-timeout ends that)", terminal.OneLine(job.Queue))
	case !service.Handler:
		w.Note("soniq: no live worker of queue %s has a handler for %s: waiting", terminal.OneLine(job.Queue), terminal.OneLine(job.Name))
	}
	return nil
}

func ignoreNotFound(err error) error {
	if errors.Is(err, engine.ErrJobNotFound) {
		return nil
	}
	return err
}
