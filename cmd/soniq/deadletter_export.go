package main

import (
	"bufio"
	"cmp"
	"compress/gzip"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
	"soniq/internal/outfile"
)

type exportCmd struct {
	selection
	Format string `placeholder:"FORMAT" help:"json (one array), jsonl (one object a line) or csv. Default: what the file's name ends with, else json."`
	Output string `short:"o" placeholder:"FILE" help:"Where to write; - is standard output, the default. A name that ends with .gz is compressed."`
	Limit  int    `placeholder:"N" help:"At most N. Default all."`
}

func (exportCmd) Help() string {
	return `The file appears once it is complete, and is yours alone to read, unless it was there already. Dead letters come oldest first, with all that is stored of them, secrets too. 'soniq dead-letter import' brings them back.

    soniq dead-letter export --format json --output dead_jobs.json
    soniq dead-letter export --format csv --output dead_jobs.csv
    soniq dead-letter export --state resolved -o resolved.jsonl.gz
    soniq dead-letter export --format jsonl | jq .last_error`
}

func (c *exportCmd) format() (deadletter.Format, error) {
	if c.Format != "" {
		format, err := deadletter.ParseFormat(c.Format)
		if err != nil {
			return "", usagef("--format must be json, jsonl or csv, not %q", c.Format)
		}
		return format, nil
	}
	format, ending := formatOf(c.Output)
	if format == "" && (ending != "" || isCompressed(c.Output)) {
		return "", usagef("--output %q doesn't end with .json, .jsonl or .csv, nor with one of these and .gz: say --format", c.Output)
	}
	return cmp.Or(format, deadletter.FormatJSON), nil
}

// formatOf is the format that a file's name ends with, or empty.
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

// isCompressed reports whether a file of that name is to be compressed.
func isCompressed(path string) bool { return strings.EqualFold(filepath.Ext(path), ".gz") }

func (c *exportCmd) Run(a *app) error {
	f, err := c.filter(a.now())
	if err != nil {
		return err
	}
	if c.Limit < 0 {
		return usagef("--limit must not be negative: %d", c.Limit)
	}
	f.Limit = c.Limit
	format, err := c.format()
	if err != nil {
		return err
	}
	if !c.toFile() {
		return c.toStdout(a, f, format)
	}
	// The file first: a wrong path is known before the database is asked.
	file, err := outfile.Create(a.ctx, c.Output)
	if a.ctx.Err() != nil {
		return a.ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	defer a.litter(file.Abandon)()
	pool, err := a.open()
	if err != nil {
		return err
	}
	// A terminal has a name too.
	w := io.Writer(file)
	if file.IsTerminal() {
		o := newOutput(file)
		if w = o.text; format != deadletter.FormatCSV {
			w = o.json
		}
	}
	var compressed *gzip.Writer
	if isCompressed(c.Output) {
		compressed = gzip.NewWriter(w)
		w = compressed
	}
	n, err := c.export(a, pool, w, f, format)
	if err == nil && compressed != nil {
		err = compressed.Close()
	}
	if err == nil {
		err = file.Commit()
	}
	if a.ctx.Err() != nil && err != nil {
		return a.ctx.Err()
	}
	if err != nil {
		return err
	}
	if a.JSON {
		return a.out.document(map[string]any{"exported": n, "format": format, "output": c.Output})
	}
	a.note("Exported %s to %s", letters(n), oneLine(c.Output))
	return nil
}

func (c *exportCmd) toStdout(a *app, f deadletter.Filter, format deadletter.Format) error {
	pool, err := a.open()
	if err != nil {
		return err
	}
	// JSON means the same with its controls escaped. CSV has no escapes: a
	// program gets it as it is, a person's terminal only what is safe.
	w := io.Writer(a.out.json)
	if format == deadletter.FormatCSV {
		w = a.out.raw
		if a.stdoutIsTTY {
			w = a.out.text
		}
	}
	n, err := c.export(a, pool, w, f, format)
	if err != nil {
		return err
	}
	a.note("Exported %s", letters(n))
	return nil
}

// export writes the dead letters to w, and shows on a terminal how it gets on.
func (c *exportCmd) export(a *app, pool *pgxpool.Pool, w io.Writer, f deadletter.Filter, format deadletter.Format) (int64, error) {
	queue, err := a.deadLetters(pool)
	if err != nil {
		return 0, err
	}
	var total int64
	// Where the rows go to the same terminal, they are what shows it.
	if a.stderrIsTTY && (c.toFile() || !a.stdoutIsTTY) {
		var err error
		if total, err = queue.Count(a.ctx, f); err != nil {
			return 0, err
		}
	}
	bar := a.progress("exporting", int(total), progressFrom)
	defer func() { _ = bar.Clear() }()
	buffered := bufio.NewWriter(w)
	n, err := queue.ExportTelling(a.ctx, buffered, f, format, func(rows int64) { _ = bar.Set64(min(rows, total)) })
	if err == nil {
		err = buffered.Flush()
	}
	return n, err
}

func (c *exportCmd) toFile() bool { return c.Output != "" && c.Output != "-" }
