package deadletters

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter"
	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
	"soniq/internal/input"
)

// replayEdit are the flags that give a replay other arguments.
type replayEdit struct {
	Set    []string `sep:"none" once:"=" placeholder:"PATH=VALUE" help:"Change one argument: user.email=ada@example.com, items[0].count=2. VALUE is JSON if it can be read as JSON, else a string. Repeatable for other paths: all of them, in their order."`
	Unset  []string `sep:"none" once:"all" placeholder:"PATH" help:"Remove one argument. Repeatable for other paths: all of them."`
	Args   *string  `placeholder:"JSON" help:"Replace all arguments: a JSON object, @FILE, or - for standard input. For one id."`
	Edit   bool     `help:"Change the arguments in your editor ($$VISUAL, else $$EDITOR), then confirm. For one id."`
	Reveal bool     `help:"Show secrets in the changes too. The history records who did."`
}

// used is the first of the flags that was used, or empty.
func (e *replayEdit) used() string {
	switch {
	case len(e.Set) > 0:
		return "--set"
	case len(e.Unset) > 0:
		return "--unset"
	case e.Args != nil:
		return "--args"
	case e.Edit:
		return "--edit"
	default:
		return ""
	}
}

// options reads the flags, and sets what belongs to the options.
func (e *replayEdit) options(a *app.App, o *deadletter.ReplayOptions, t *target) (err error) {
	switch {
	case e.Args != nil && e.Edit:
		return app.Usagef("--args and --edit exclude each other")
	case (e.Args != nil || e.Edit) && len(e.Set)+len(e.Unset) > 0:
		return app.Usagef("%s gives all of the arguments: --set and --unset can't go with it", e.whole())
	case (e.Args != nil || e.Edit) && len(t.IDs) != 1:
		return app.Usagef("%s is for one id; --set and --unset change each dead letter's own arguments", e.whole())
	case e.Edit && !t.Yes && !t.DryRun && !a.StdinIsTTY:
		return app.Usagef("--edit asks before it replays, and nobody is there to confirm it: add --yes, or use --set or --args")
	case e.Edit && editorOf(a) == "" && !a.StdinIsTTY:
		return app.Usagef("--edit needs an editor, and there is no terminal for vi: set VISUAL or EDITOR, or use --set or --args")
	}
	if o.Edits, err = e.edits(); err != nil {
		return err
	}
	if e.Args != nil {
		if o.Args, err = app.ReadArgs(a, *e.Args, app.MostArgs); err != nil {
			return err
		}
		return checkNewArgs("--args", o.Args)
	}
	return nil
}

// reveal shows the secrets in the arguments of these from now on, if that was
// asked for. An editor shows them whatever was asked for.
func (e *replayEdit) reveal(a *app.App, queue *deadletter.Queue, ids ...uuid.UUID) error {
	if len(ids) == 0 || e.used() == "" || !e.Reveal && !e.Edit {
		return nil
	}
	if err := queue.Reveal(a.Ctx, ids...); err != nil {
		return a.NotRevealed(err)
	}
	a.Out.Revealed = e.Reveal
	return nil
}

// whole is --args or --edit, of which one was used.
func (e *replayEdit) whole() string {
	if e.Edit {
		return "--edit"
	}
	return "--args"
}

// edits reads --set and --unset.
func (e *replayEdit) edits() (edits []deadletter.ArgsEdit, err error) {
	for _, text := range e.Set {
		path, value, ok := cutAssignment(text)
		if !ok {
			return nil, app.Usagef("--set must be PATH=VALUE, not %q", text)
		}
		edit := deadletter.ArgsEdit{Path: path, Value: jsonOrString(value)}
		if err := edit.Validate(); err != nil {
			return nil, app.Usagef("--set %w", err)
		}
		edits = append(edits, edit)
	}
	for _, path := range e.Unset {
		edit := deadletter.ArgsEdit{Path: path, Remove: true}
		if err := edit.Validate(); err != nil {
			return nil, app.Usagef("--unset %w", err)
		}
		if slices.ContainsFunc(edits, func(e deadletter.ArgsEdit) bool { return e.Path == path && !e.Remove }) {
			return nil, app.Usagef("--set and --unset both name %q", path)
		}
		edits = append(edits, edit)
	}
	return edits, nil
}

// cutAssignment cuts PATH=VALUE at the first = that no backslash protects.
func cutAssignment(text string) (path, value string, ok bool) {
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '=':
			return text[:i], text[i+1:], true
		}
	}
	return "", "", false
}

// jsonOrString is a value that a person typed, as JSON.
func jsonOrString(text string) json.RawMessage {
	if json.Valid([]byte(text)) {
		return json.RawMessage(strings.TrimSpace(text))
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(text) // a string always has a JSON
	return bytes.TrimSpace(b.Bytes())
}

// checkNewArgs is the error of arguments that a replay would refuse.
func checkNewArgs(where string, args json.RawMessage) error {
	var syntax *json.SyntaxError
	err := json.Unmarshal(args, new(struct{})) // takes no memory, whatever keys there are
	switch {
	case errors.As(err, &syntax):
		line := 1 + bytes.Count(args[:min(int(syntax.Offset), len(args))], []byte("\n"))
		return app.Usagef("%s: not valid JSON: %w (line %d)", where, syntax, line)
	case err != nil || !bytes.HasPrefix(bytes.TrimSpace(args), []byte("{")):
		return app.Usagef("%s: the arguments must be a JSON object such as {\"user_id\": 42}", where)
	}
	// No edit: it has the rest of what a dead letter's arguments must be.
	if _, err := deadletter.EditArgs(args, nil); err != nil {
		return app.Usagef("%s: %w", where, err)
	}
	return nil
}

// editor has the person change the arguments of j, and confirm what they did.
func (e *replayEdit) editor(a *app.App, j deadletter.Job, t *target) (json.RawMessage, error) {
	file, err := os.CreateTemp("", "soniq-args-*.json")
	if err != nil {
		return nil, fmt.Errorf("edit the arguments: %w", err)
	}
	defer a.OnAbort(func() { _ = os.Remove(file.Name()) })()
	_, err = file.WriteString(terminal.PrettyJSON(j.Args) + "\n")
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, fmt.Errorf("edit the arguments: %w", err)
	}
	for {
		if err := runEditor(a, file.Name()); err != nil {
			return nil, err
		}
		args, err := input.ReadFile(a.Ctx, file.Name(), app.MostArgs)
		if err != nil {
			return nil, fmt.Errorf("edit the arguments: %w", err)
		}
		if err = checkNewArgs("--edit", args); err != nil {
			if t.Yes || !a.StdinIsTTY {
				return nil, err
			}
			a.Note("soniq: %s", terminal.OneLine(err.Error()))
			if err := a.Ask("Edit them again?"); err != nil {
				return nil, err
			}
			continue
		}
		changes, err := e.changes(a, j.Args, deadletter.ReplayOptions{Args: args})
		switch {
		case err != nil:
			return nil, err
		case len(changes) == 0:
			return nil, errors.New("the arguments are as they were; nothing was replayed")
		case t.DryRun:
			return args, nil
		}
		if err := noteChanges(a, changes); err != nil {
			return nil, err
		}
		return args, a.Confirm(t.Yes, fmt.Sprintf("This will queue %s again, with these arguments.", terminal.OneLine(j.JobName)))
	}
}

// editorOf is the editor that the person has chosen, or empty.
func editorOf(a *app.App) string {
	return cmp.Or(a.Getenv("VISUAL"), a.Getenv("EDITOR"))
}

// runEditor opens the person's editor and waits for its end. Ctrl-C is the
// editor's as long as it runs.
func runEditor(a *app.App, path string) error {
	editor := cmp.Or(editorOf(a), "vi")
	// By the shell: the variable can hold arguments. The editor takes the shell's
	// place, so that it is what a signal ends; env, since the variable can begin
	// with those of the environment, too.
	cmd := exec.CommandContext(a.Ctx, "/bin/sh", "-c", "exec env "+editor+` "$@"`, editor, path)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	if file, ok := a.Stdin.(*os.File); ok {
		cmd.Stdin = file
	}
	cmd.Stdout, cmd.Stderr = a.Stdout, a.Stderr
	if !a.StdoutIsTTY {
		// Standard output is for data: the editor needs the terminal.
		cmd.Stdout = a.Stderr
	}
	a.IgnoreInterrupts.Store(true)
	defer a.IgnoreInterrupts.Store(false)
	err := cmd.Run()
	switch {
	case a.Ctx.Err() != nil:
		return context.Cause(a.Ctx)
	case err != nil:
		return fmt.Errorf("the editor %q: %w; nothing was replayed", editor, err)
	}
	return nil
}

// changes are the differences that a replay with these options makes, as a
// person may see them. It is empty, and not nil, where there are none.
func (e *replayEdit) changes(a *app.App, args json.RawMessage, o deadletter.ReplayOptions) ([]deadletter.ArgsChange, error) {
	to := args
	if o.Args != nil {
		to = o.Args
	}
	to, err := deadletter.EditArgs(to, o.Edits)
	if err != nil {
		return nil, err
	}
	changes := deadletter.CompareArgs(args, to)
	if !a.Out.Revealed {
		redactChanges(changes, deadletter.Redact(args), deadletter.Redact(to))
	}
	if changes == nil {
		changes = []deadletter.ArgsChange{}
	}
	return changes, nil
}

// redactChanges takes the values from two redacted documents.
func redactChanges(changes []deadletter.ArgsChange, from, to json.RawMessage) {
	hide := func(value *json.RawMessage, doc json.RawMessage, path string) {
		if *value == nil {
			return
		}
		// A path into what is hidden leads nowhere.
		if *value = deadletter.ArgsValue(doc, path); *value == nil {
			*value = json.RawMessage(`"` + deadletter.Redacted + `"`)
		}
	}
	for i := range changes {
		hide(&changes[i].Old, from, changes[i].Path)
		hide(&changes[i].New, to, changes[i].Path)
	}
}

// noteChanges is printChanges on standard error, before a question.
func noteChanges(a *app.App, changes []deadletter.ArgsChange) error {
	a.Notes.Revealed = a.Out.Revealed
	defer func() { a.Notes.Revealed = false }()
	return a.Notes.Spans(changeSpans(changes, "  ")...)
}

// printChanges notes each difference on two lines, what was and what is.
func printChanges(a *app.App, changes []deadletter.ArgsChange) error {
	if len(changes) == 0 {
		return a.Out.Spans(terminal.Span{Text: "  the arguments stay as they are\n"})
	}
	return a.Out.Spans(changeSpans(changes, "  ")...)
}

func changeSpans(changes []deadletter.ArgsChange, prefix string) (spans []terminal.Span) {
	for _, c := range changes {
		path := terminal.OneLine(c.Path)
		if c.Old != nil {
			spans = append(spans, terminal.Span{Text: prefix + "- " + path + ": " + terminal.OneLine(terminal.CompactJSON(c.Old)), Style: terminal.Red}, terminal.Span{Text: "\n"})
		}
		if c.New == nil {
			continue
		}
		line := prefix + "+ " + path + ": " + terminal.OneLine(terminal.CompactJSON(c.New))
		// The commonest mistake of --set.
		switch was, is := isString(c.Old), isString(c.New); {
		case c.Old == nil || was == is:
		case is:
			line += "  (now a string)"
		default:
			line += "  (was a string)"
		}
		spans = append(spans, terminal.Span{Text: line, Style: terminal.Green}, terminal.Span{Text: "\n"})
	}
	return spans
}

func isString(value json.RawMessage) bool { return bytes.HasPrefix(value, []byte(`"`)) }
