package deadletters

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"soniq/deadletter"
	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
	"soniq/internal/outfile"
	"soniq/internal/recordfile"
	"soniq/internal/unit"
)

type cleanupCmd struct {
	selection
	app.Authorship
	Days      *int    `placeholder:"N" help:"Remove those older than N days; at least 1. Default 30."`
	OlderThan *string `placeholder:"AGE" help:"The same as an age, above 0: 36h, 30d, 4w."`
	Export    *string `placeholder:"FILE" help:"Write the removed dead letters to a new FILE first: .json, .jsonl or .csv, with .gz to compress."`
	DryRun    bool    `help:"Say how many would be removed, and change nothing."`
}

func (cleanupCmd) Help() string {
	return `Never asks, so it can run from cron. Filters narrow it. Dead letters that are being replayed are kept. With --export nothing is removed until the file is complete and on disk. That file is read-only, and never takes the place of another one.

    soniq dead-letter cleanup --days 30
    soniq dead-letter cleanup --days 7 --dry-run
    soniq dead-letter cleanup --older-than 36h --state resolved
    soniq dead-letter cleanup --older-than 90d --export "dead-$(date +%F).jsonl.gz"`
}

// age is the age of what is removed, and the same as text.
func (c *cleanupCmd) age() (olderThan time.Duration, told string, err error) {
	const day = 24 * time.Hour
	// A century: what is longer overflows a Duration sooner or later.
	const most = 36500
	if c.OlderThan != nil {
		if c.Days != nil {
			return 0, "", app.Usagef("--days and --older-than say the same: give one of them")
		}
		d, err := app.ParseDuration("--older-than", *c.OlderThan)
		if err != nil {
			return 0, "", err
		}
		if d == 0 || d > most*day {
			return 0, "", app.Usagef("--older-than must be above 0 and at most %dd, not %s", most, *c.OlderThan)
		}
		return d, coarse(d), nil
	}
	days := 30
	if c.Days != nil {
		days = *c.Days
	}
	if days < 1 || days > most {
		return 0, "", app.Usagef("--days must be from 1 to %d, not %d", most, days)
	}
	return time.Duration(days) * day, unit.Plural(int64(days), "day"), nil
}

func (c *cleanupCmd) Run(a *app.App) error {
	f, err := c.filter(a.Now())
	if err != nil {
		return err
	}
	if f.State == deadletter.StateReplaying {
		return app.Usagef("--state replaying: what is being replayed is never cleaned up")
	}
	olderThan, told, err := c.age()
	if err != nil {
		return err
	}
	var archive *archiveFile
	if c.Export != nil {
		if archive, err = newArchive(a.Ctx, *c.Export); err != nil {
			return err
		}
		defer a.OnAbort(archive.abandon)()
	}
	_, queue, err := c.Authorship.Open(a)
	if err != nil {
		return err
	}
	if err := c.window(&f, a.Now()); err != nil {
		return err
	}
	did := "Removed"
	var n int64
	switch {
	case c.DryRun:
		did = "Would remove"
		n, err = queue.CleanupCount(a.Ctx, olderThan, f)
	case archive != nil:
		n, err = queue.CleanupTo(a.Ctx, olderThan, f, archive, archive.format)
	default:
		n, err = queue.Cleanup(a.Ctx, olderThan, f)
	}
	if err != nil && n == 0 {
		return archive.explain(err)
	}
	return c.report(a, archive, n, did, told, err)
}

// report prints how many were removed, and how many of the archived ones stayed.
func (c *cleanupCmd) report(a *app.App, archive *archiveFile, n int64, did, told string, err error) error {
	result := map[string]any{"removed": n}
	if c.DryRun {
		result = map[string]any{"dry_run": true, "count": n}
	}
	if archive.committed() {
		result["export"] = archive.name
		result["stayed"] = archive.rows - n
	}
	if a.JSON {
		if err := a.Out.Document(result); err != nil {
			return err
		}
		return app.Partly(n, err)
	}
	a.Out.Printf("%s %s older than %s.", did, terminal.Letters(n), told)
	if archive.committed() {
		a.Note("They are in %s", terminal.OneLine(archive.name))
		if stayed := archive.rows - n; stayed > 0 && err == nil {
			a.Note("It also has %s that stayed: changed since, or locked", terminal.Letters(stayed))
		}
	}
	if archive != nil {
		return app.Partly(n, archive.explain(err))
	}
	return unfinished(a, "removed "+terminal.Letters(n), n, err)
}

// archiveFile is the file that a cleanup exports to. It is made at the first
// write, so that a cleanup without anything to remove leaves none.
type archiveFile struct {
	ctx        context.Context
	name       string
	format     deadletter.Format
	compressed bool
	// file is read by a second Ctrl-C while it is made.
	file atomic.Pointer[outfile.File]
	gzip *recordfile.Gzip
	rows int64
	done bool
}

// SetCount is told how many dead letters the file has: see [deadletter.Archive].
func (f *archiveFile) SetCount(dead int64) { f.rows = dead }

// newArchive refuses a name that exists: the file may be the only copy of what an
// earlier cleanup removed.
func newArchive(ctx context.Context, name string) (*archiveFile, error) {
	if name == "" || name == "-" {
		return nil, app.Usagef("--export must be a file: what is removed is to be kept there")
	}
	format, _ := formatOf(name)
	if format == "" {
		return nil, app.Usagef("--export %q must end with .json, .jsonl or .csv, or with one of these and .gz", name)
	}
	f := &archiveFile{ctx: ctx, name: name, format: format, compressed: isCompressed(name)}
	if err := f.isNew(); err != nil {
		return nil, err
	}
	info, err := os.Stat(filepath.Dir(name))
	if err == nil && !info.IsDir() {
		err = &fs.PathError{Op: "create", Path: name, Err: errors.New("its folder is none")}
	}
	if err != nil {
		return nil, fmt.Errorf("cleanup: %w", err)
	}
	return f, nil
}

func (f *archiveFile) isNew() error {
	_, err := os.Lstat(f.name)
	if err == nil {
		return f.isThere()
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cleanup: %w", err)
	}
	return nil
}

func (f *archiveFile) isThere() error {
	return fmt.Errorf("%s is there already, and what a cleanup has removed is not overwritten; nothing was removed", f.name)
}

func (f *archiveFile) Write(p []byte) (int, error) {
	if err := f.begin(); err != nil {
		return 0, err
	}
	if f.compressed {
		return f.gzip.Write(p)
	}
	return f.file.Load().Write(p)
}

// WriteLong writes a long dead letter: see [deadletter.NewGzip].
func (f *archiveFile) WriteLong(p []byte) (int, error) {
	if err := f.begin(); err != nil {
		return 0, err
	}
	if f.compressed {
		return f.gzip.WriteLong(p)
	}
	return f.file.Load().Write(p)
}

func (f *archiveFile) begin() error {
	if f.file.Load() != nil {
		return nil
	}
	file, err := outfile.Create(f.ctx, f.name)
	if err != nil {
		return err
	}
	f.file.Store(file)
	f.gzip = recordfile.NewGzip(file)
	return nil
}

// Commit makes the file durable, and its name too.
func (f *archiveFile) Commit() error {
	if f.compressed {
		if err := f.gzip.Close(); err != nil {
			return err
		}
	}
	err := f.file.Load().CommitNew()
	if errors.Is(err, fs.ErrExist) {
		return f.isThere()
	}
	f.done = err == nil
	return err
}

func (f *archiveFile) abandon() {
	if file := f.file.Load(); file != nil {
		file.Abandon()
	}
}

// committed reports whether the file is there, complete.
func (f *archiveFile) committed() bool { return f != nil && f.done }

// explain adds to err what is in the file already.
func (f *archiveFile) explain(err error) error {
	if err == nil || !f.committed() {
		return err
	}
	return fmt.Errorf("%w; %s has all that was to be removed", err, f.name)
}
