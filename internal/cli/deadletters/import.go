package deadletters

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"soniq/deadletter"
	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
	"soniq/internal/input"
	"soniq/internal/unit"
)

type importCmd struct {
	File   string `arg:"" name:"file" help:"The file to read; - is standard input. A gzip file is recognised by its content."`
	Format string `placeholder:"FORMAT" help:"json (one array), jsonl (one object a line) or csv. Default: what the file's name ends with."`
	DryRun bool   `help:"Check the file and say what would be done; change nothing."`

	SkipInvalid bool `help:"Name each dead letter that can't be imported, and import the others. Exit code 4 if there are any."`
	app.Authorship
}

func (importCmd) Help() string {
	return `Reads what 'soniq dead-letter export' wrote, an export of Python Soniq, or such a file as psql, DuckDB, pandas, jq, Miller, sqlite3 or LibreOffice write it. A dead letter that exists is left as it is, so an import can be repeated. It notifies no hook and no listener. A dead letter that was being replayed becomes dead if its replay is gone.

A file is checked to its end before anything is imported. Standard input is imported as it arrives, unless it is a file. The memory used is a few times the longest dead letter.

    soniq dead-letter import dead_jobs.json
    soniq dead-letter import resolved.jsonl.gz --dry-run
    soniq dead-letter import resolved.jsonl.gz --skip-invalid
    soniq dead-letter import dead_jobs.csv --comment "deleted by mistake"
    zstd -dc dead.jsonl.zst | soniq dead-letter import - --format jsonl`
}

func (c *importCmd) format() (deadletter.Format, error) {
	if c.Format != "" {
		format, err := deadletter.ParseFormat(c.Format)
		if err != nil {
			return "", app.Usagef("--format must be json, jsonl or csv, not %q", c.Format)
		}
		return format, nil
	}
	switch format, _ := formatOf(c.File); {
	case c.File == "-":
		return "", app.Usagef("of standard input --format must say what it is: json, jsonl or csv")
	case c.File == "":
		return "", app.Usagef("the name of the file is empty; - is standard input")
	case format == "":
		return "", app.Usagef("%q doesn't end with .json, .jsonl or .csv, nor with one of these and .gz: say --format", c.File)
	default:
		return format, nil
	}
}

func (c *importCmd) Run(a *app.App) error {
	format, err := c.format()
	if err != nil {
		return err
	}
	in, err := c.open(a)
	if err != nil {
		return err
	}
	defer in.close()
	_, queue, err := c.Authorship.Open(a)
	if err != nil {
		return err
	}
	progress, clear, err := c.progress(a, in, format)
	if err != nil {
		return in.explain(err)
	}
	var invalid []invalidRecord
	result, err := queue.Import(a.Ctx, in, format, deadletter.ImportOptions{
		DryRun:      c.DryRun,
		SkipInvalid: c.SkipInvalid,
		Source:      in.name,
		OnProgress:  progress,
		OnInvalid: func(mistake *deadletter.FileError) {
			clear()
			a.Note("soniq: %s: %s", terminal.OneLine(in.name), terminal.OneLine(mistake.Error()))
			if a.JSON && len(invalid) < mostInvalid {
				invalid = append(invalid, invalidRecord{mistake.Line, mistake.Record, mistake.ID, mistake.Field, mistake.Err.Error()})
			}
		},
	})
	clear()
	if err != nil && (result.Imported == 0 || c.DryRun) {
		return in.explain(err)
	}
	if err := c.tell(a, in, result, invalid); err != nil {
		return err
	}
	if err != nil {
		return app.Partly(result.Imported, fmt.Errorf("%w; what was imported before stays, and is left alone when the import is repeated", in.explain(err)))
	}
	if result.Invalid > 0 {
		return &app.ExitError{Code: app.ExitPartly, Err: app.ErrReported}
	}
	return nil
}

// progress checks the file, unless nothing is changed before its end is known anyway, and
// returns what shows how far the import is, and what clears that.
func (c *importCmd) progress(a *app.App, in *importFile, format deadletter.Format) (show func(deadletter.ImportResult), clear func(), err error) {
	if c.DryRun {
		set, clear, err := in.bytesBar(a, "importing bytes")
		return func(deadletter.ImportResult) { set() }, clear, err
	}
	total, err := in.check(a, format, c.SkipInvalid)
	if err != nil {
		return nil, nil, err
	}
	bar := a.Progress("importing", int(total), app.ProgressFrom)
	return func(r deadletter.ImportResult) { _ = bar.Set64(min(r.Imported+r.Skipped+r.Invalid, total)) }, func() { _ = bar.Clear() }, nil
}

// An invalidRecord is a dead letter that was left out.
type invalidRecord struct {
	Line   int64  `json:"line"`
	Record int64  `json:"record"`
	ID     string `json:"id"`
	Field  string `json:"field"`
	Error  string `json:"error"`
}

// mostInvalid is how many of them --json has. Standard error has all.
const mostInvalid = 1000

// tell says what was done.
func (c *importCmd) tell(a *app.App, in *importFile, r deadletter.ImportResult, invalid []invalidRecord) error {
	if len(r.IgnoredColumns) > 0 {
		a.Note("Columns that no dead letter has were passed over: %s", terminal.OneLine(quotedNames(r.IgnoredColumns)))
	}
	if a.JSON {
		result := map[string]any{"imported": r.Imported}
		if c.DryRun {
			result = map[string]any{"dry_run": true, "count": r.Imported}
		}
		result["skipped"], result["settled"] = r.Skipped, r.Settled
		if c.SkipInvalid {
			result["invalid"], result["mistakes"] = r.Invalid, append([]invalidRecord{}, invalid...)
		}
		return a.Out.Document(result)
	}
	did := "Imported"
	if c.DryRun {
		did = "Would import"
	}
	a.Out.Printf("%s %s from %s.", did, terminal.Letters(r.Imported), terminal.OneLine(in.name))
	if r.Invalid > 0 {
		a.Note("%s left out: see above", wasOrWere(r.Invalid))
	}
	if r.Skipped > 0 {
		a.Note("%s there already, and left alone: %s", wasOrWere(r.Skipped), someIDs(r.SkippedIDs, r.Skipped))
	}
	if r.Settled > 0 {
		a.Note("%s being replayed when exported; no replay is under way now, so the state is dead, or resolved where the replay succeeded", wasOrWere(r.Settled))
	}
	return nil
}

// quotedNames lists the first names.
func quotedNames(names []string) string {
	const most = 10
	texts := make([]string, 0, most)
	for _, name := range names[:min(len(names), most)] {
		texts = append(texts, strconv.Quote(name))
	}
	text := strings.Join(texts, ", ")
	if rest := len(names) - len(texts); rest > 0 {
		text += fmt.Sprintf(" and %d more", rest)
	}
	return text
}

func wasOrWere(n int64) string {
	if n == 1 {
		return "1 was"
	}
	return unit.Thousands(n) + " were"
}

// someIDs names the first three of n ids.
func someIDs(ids []uuid.UUID, n int64) string {
	ids = ids[:min(len(ids), 3)]
	texts := make([]string, len(ids))
	for i, id := range ids {
		texts[i] = id.String()
	}
	text := strings.Join(texts, ", ")
	if rest := n - int64(len(ids)); rest > 0 {
		text += fmt.Sprintf(" and %s more", unit.Thousands(rest))
	}
	return text
}

// checkedFrom is how many bytes of a file are worth a progress bar: some tenths
// of a second.
const checkedFrom = 4 << 20

// importFile is the input of an import.
type importFile struct {
	io.Reader
	name string
	// file can be read twice, from start on; nil if the input can't.
	file  *os.File
	start int64
	close func()
}

func (c *importCmd) open(a *app.App) (*importFile, error) {
	if c.File == "-" {
		in := &importFile{Reader: input.Stream(a.Ctx, a.Stdin), name: "standard input", close: func() {}}
		if f, ok := a.Stdin.(*os.File); ok {
			in.rewindable(f)
		}
		if a.StdinIsTTY {
			a.Note("Ctrl-D ends the input.")
		}
		return in, nil
	}
	f, err := input.Open(a.Ctx, c.File)
	if a.Ctx.Err() != nil {
		return nil, a.Ctx.Err()
	}
	if err != nil {
		return nil, app.Usagef("import: %w", err)
	}
	in := &importFile{Reader: input.Stream(a.Ctx, f), name: c.File, close: func() { _ = f.Close() }}
	if info, err := f.Stat(); err == nil && info.IsDir() {
		in.close()
		return nil, app.Usagef("import: %s is a folder", c.File)
	}
	in.rewindable(f)
	return in, nil
}

// Stat is that of a regular file. A record of another input is taken only while it is short.
func (in *importFile) Stat() (fs.FileInfo, error) {
	if in.file == nil {
		return nil, errors.ErrUnsupported
	}
	return in.file.Stat()
}

// rewindable reads f itself if it is a regular file: such a read never waits.
func (in *importFile) rewindable(f *os.File) {
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return
	}
	if start, err := f.Seek(0, io.SeekCurrent); err == nil {
		in.Reader, in.file, in.start = f, f, start
	}
}

// check reads the whole file, if it can be read again, and returns how many dead
// letters it has. Otherwise that is 0.
func (in *importFile) check(a *app.App, format deadletter.Format, skipInvalid bool) (total int64, err error) {
	if in.file == nil {
		return 0, nil
	}
	show, clear, err := in.bytesBar(a, "checking bytes")
	if err != nil {
		return 0, err
	}
	check := deadletter.CheckImport
	if skipInvalid {
		check = deadletter.CheckReadable
	}
	total, err = check(a.Ctx, in.file, format, func(int64) { show() })
	clear()
	if err != nil {
		return 0, err
	}
	_, err = in.file.Seek(in.start, io.SeekStart)
	return total, err
}

// bytesBar returns what shows how many bytes of the file have been read, and what clears that.
func (in *importFile) bytesBar(a *app.App, doing string) (show, clear func(), err error) {
	if in.file == nil {
		return func() {}, func() {}, nil
	}
	info, err := in.file.Stat()
	if err != nil {
		return nil, nil, err
	}
	bar := a.Progress(doing, int(info.Size()), checkedFrom)
	show = func() {
		if at, err := in.file.Seek(0, io.SeekCurrent); err == nil {
			_ = bar.Set64(min(at, info.Size()))
		}
	}
	return show, func() { _ = bar.Clear() }, nil
}

// explain says which file it is that has a mistake. It is the input that is
// wrong then, and nothing was changed.
func (in *importFile) explain(err error) error {
	var where *deadletter.FileError
	if errors.As(err, &where) {
		return app.Usagef("%s: %w", in.name, where)
	}
	return err
}
