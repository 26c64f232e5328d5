package deadletters

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
	"soniq/internal/outfile"
)

type exportCmd struct {
	selection
	Format string `placeholder:"FORMAT" help:"json (one array), jsonl (one object a line) or csv. Default: what the file's name ends with, else json."`
	Output string `short:"o" placeholder:"FILE" help:"Where to write; - is standard output, the default. A name that ends with .gz is compressed."`
	Force  bool   `help:"Replace the file of --output even if it is read-only, as that of a cleanup is."`
	Limit  int    `placeholder:"N" help:"At most N, the oldest; 0 for all. Default all."`
}

func (exportCmd) Help() string {
	return `The file appears when it is complete. Only you can read it, unless it existed before. A read-only file is not replaced without --force. It has the oldest dead letters first, with all that is stored of them, secrets included. 'soniq dead-letter import' reads it back.

    soniq dead-letter export --format json --output dead_jobs.json
    soniq dead-letter export --format csv --output dead_jobs.csv
    soniq dead-letter export --state resolved -o resolved.jsonl.gz
    soniq dead-letter export --format jsonl | jq .last_error`
}

func (c *exportCmd) format() (deadletter.Format, error) {
	if c.Format != "" {
		format, err := deadletter.ParseFormat(c.Format)
		if err != nil {
			return "", app.Usagef("--format must be json, jsonl or csv, not %q", c.Format)
		}
		return format, nil
	}
	format, ending := formatOf(c.Output)
	if format == "" && (ending != "" || isCompressed(c.Output)) {
		return "", app.Usagef("--output %q doesn't end with .json, .jsonl or .csv, nor with one of these and .gz: say --format", c.Output)
	}
	return cmp.Or(format, deadletter.FormatJSON), nil
}

// formatOf is the format that the end of a file's name says, or empty.
func formatOf(path string) (format deadletter.Format, ending string) {
	path = strings.ToLower(path)
	switch ending = filepath.Ext(strings.TrimSuffix(path, ".gz")); ending {
	case ".csv":
		return deadletter.FormatCSV, ending
	case ".jsonl", ".ndjson":
		return deadletter.FormatJSONL, ending
	case ".json":
		return deadletter.FormatJSON, ending
	default:
		return "", ending
	}
}

// isCompressed reports whether a file with that name is compressed.
func isCompressed(path string) bool { return strings.EqualFold(filepath.Ext(path), ".gz") }

func (c *exportCmd) Run(a *app.App) error {
	f, err := c.filter(a.Now())
	if err != nil {
		return err
	}
	if f.Limit, err = app.ListLimit(c.Limit); err != nil {
		return err
	}
	format, err := c.format()
	if err != nil {
		return err
	}
	if c.Force && !c.toFile() {
		return app.Usagef("--force is for a file: give --output FILE")
	}
	if !c.toFile() {
		return c.toStdout(a, f, format)
	}
	return c.writeFile(a, f, format)
}

// writeFile exports to the file of --output.
func (c *exportCmd) writeFile(a *app.App, f deadletter.Filter, format deadletter.Format) error {
	// The file comes first: a wrong path is an error before the database is read.
	create := outfile.Create
	if c.Force {
		create = outfile.Replace
	}
	file, err := create(a.Ctx, c.Output)
	if a.Ctx.Err() != nil {
		return a.Ctx.Err()
	}
	if errors.Is(err, outfile.ErrReadOnly) {
		return fmt.Errorf("export: %w, as the file of a cleanup is, which may be the only copy; --force replaces it", err)
	}
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	defer a.OnAbort(file.Abandon)()
	pool, err := a.Open()
	if err != nil {
		return err
	}
	n, err := c.fill(a, pool, file, f, format)
	if err == nil {
		err = file.Commit()
	}
	if a.Ctx.Err() != nil && err != nil {
		return a.Ctx.Err()
	}
	if err != nil {
		return err
	}
	if a.JSON {
		return a.Out.Document(map[string]any{"exported": n, "format": format, "output": c.Output})
	}
	a.Note("Exported %s to %s", terminal.Letters(n), terminal.OneLine(c.Output))
	return nil
}

// fill writes the dead letters to the file, compressed where its name says so.
func (c *exportCmd) fill(a *app.App, pool *pgxpool.Pool, file *outfile.File, f deadletter.Filter, format deadletter.Format) (int64, error) {
	w := io.Writer(file)
	// A terminal has a path too.
	if file.IsTerminal() {
		o := terminal.NewOutput(file)
		if w = o.Text; format != deadletter.FormatCSV {
			w = o.JSON
		}
	}
	if !isCompressed(c.Output) {
		return c.export(a, pool, w, f, format)
	}
	compressed := deadletter.NewGzip(w)
	n, err := c.export(a, pool, compressed, f, format)
	if err == nil {
		err = compressed.Close()
	}
	return n, err
}

func (c *exportCmd) toStdout(a *app.App, f deadletter.Filter, format deadletter.Format) error {
	if a.Out.MayBeClosed() {
		return errors.New("standard output is closed, or discarded by the program that started this one; nothing was exported: redirect it, or give --output FILE")
	}
	pool, err := a.Open()
	if err != nil {
		return err
	}
	// JSON means the same with its control characters escaped. CSV has no escapes:
	// a terminal gets it made safe, a program as it is.
	w := io.Writer(a.Out.JSON)
	if format == deadletter.FormatCSV {
		w = a.Out.Plain
		if a.StdoutIsTTY {
			w = a.Out.Text
		}
	}
	n, err := c.export(a, pool, w, f, format)
	if err != nil {
		return err
	}
	a.Note("Exported %s", terminal.Letters(n))
	return nil
}

// export writes the dead letters to w, with a progress bar on a terminal.
func (c *exportCmd) export(a *app.App, pool *pgxpool.Pool, w io.Writer, f deadletter.Filter, format deadletter.Format) (int64, error) {
	if err := c.window(&f, a.Now()); err != nil {
		return 0, err
	}
	queue, err := a.DeadLetters(pool)
	if err != nil {
		return 0, err
	}
	var total int64
	// Rows on the same terminal show the progress themselves.
	if a.StderrIsTTY && (c.toFile() || !a.StdoutIsTTY) {
		var err error
		if total, err = queue.Count(a.Ctx, f); err != nil {
			return 0, err
		}
	}
	bar := a.Progress("exporting", int(total), app.ProgressFrom)
	defer func() { _ = bar.Clear() }()
	return queue.ExportProgress(a.Ctx, w, f, format, func(rows int64) { _ = bar.Set64(min(rows, total)) })
}

func (c *exportCmd) toFile() bool { return c.Output != "" && c.Output != "-" }
