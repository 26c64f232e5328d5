package hooks

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"soniq/deadletter/classify"
	"soniq/hooks"
	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
	"soniq/internal/cli/workerflags"
)

// hooksAddCmd has a subcommand a kind.
type hooksAddCmd struct {
	Webhook hooksAddWebhookCmd `cmd:"" help:"POST each event, signed after Standard Webhooks."`
	Slack   hooksAddSlackCmd   `cmd:"" help:"Post to a Slack incoming webhook; many at once become digests."`
	Log     hooksAddLogCmd     `cmd:"" help:"Write a log record for each event, in one of the workers."`
	Exec    hooksAddExecCmd    `cmd:"" help:"Run a command for each event, in one of the workers."`
}

func (hooksAddCmd) Help() string {
	return `URLs, secrets and the values of headers may be env:NAME: then the database holds the name alone, and each dispatcher looks it up in its own environment. It must have been given the variable by --hook-env NAME, unless the name begins with SONIQ_HOOK_. What stands in the database itself is encrypted if there is a key; see 'soniq hooks seal'.

    soniq hooks add webhook https://example.com/soniq --name orders --job 'orders.*'
    soniq hooks add slack env:SONIQ_HOOK_SLACK`
}

// hookFilter are the flags that say which events a hook receives.
type hookFilter struct {
	Name    string            `placeholder:"NAME" help:"Name of the hook. Default its kind."`
	Replace bool              `help:"Change the hook of that name. What waits for it and its secret are kept."`
	Event   []hooks.EventType `placeholder:"EVENT" help:"job.dead_lettered, job.resurrected or job.resolved. Default the first. Repeatable: any of them."`
	Job     []string          `sep:"none" placeholder:"NAME" help:"Jobs of this name, or a glob with * and ?. Repeatable: any of them."`
	Queue   []string          `sep:"none" placeholder:"QUEUE" help:"Jobs of this queue. Repeatable: any of them."`
	Reason  []classify.Reason `placeholder:"REASON" help:"Dead for this reason. Repeatable: any of them."`
	Tag     []string          `sep:"none" once:"=" placeholder:"KEY=VALUE" help:"Jobs with this tag. Repeatable for other keys: all of them."`
}

func (f *hookFilter) spec(kind hooks.Kind) (hooks.Spec, error) {
	s := hooks.Spec{Name: f.Name, Kind: kind, Events: f.Event, Jobs: f.Job, Queues: f.Queue, Reasons: f.Reason}
	if s.Name == "" {
		s.Name = string(kind)
	}
	for _, e := range f.Event {
		if err := e.Check(); err != nil {
			return s, app.Usagef("--event %w", err)
		}
	}
	for _, tag := range f.Tag {
		key, value, ok := strings.Cut(tag, "=")
		if !ok || key == "" {
			return s, app.Usagef("--tag must be KEY=VALUE, not %q", tag)
		}
		if s.Tags == nil {
			s.Tags = map[string]string{}
		}
		s.Tags[key] = value
	}
	return s, nil
}

// addHook adds it and says so. A secret in shown is shown before the hook is
// there.
func addHook(a *app.App, spec hooks.Spec, replace bool, k *workerflags.KeyFlags, shown string) error {
	keys, err := k.Keys(a)
	if err != nil {
		return err
	}
	store, err := hookStore(a, keys)
	if err != nil {
		return err
	}
	if replace {
		return replaceHook(a, store, spec)
	}
	var show func() error
	if shown != "" {
		show = showOnce(a, spec.Name, shown)
	}
	_, err = store.Add(a.Ctx, spec, show)
	if errors.Is(err, hooks.ErrExists) {
		return taken(a, store, spec)
	}
	if err != nil {
		return err
	}
	needs := strings.Join(spec.Needs(), " ")
	switch {
	case a.JSON && shown == "":
		if err := a.Out.Document(map[string]string{"name": spec.Name}); err != nil {
			return err
		}
	case !a.JSON:
		a.Note("added hook %s; try it with 'soniq hooks test %s'", terminal.OneLine(spec.Name), strings.TrimSpace(app.ShellWord(terminal.OneLine(spec.Name))+" "+needs))
	}
	if needs != "" {
		a.Note("only workers that were started with %s send to it", needs)
	}
	if shown != "" {
		noteShown(a, spec.Name)
	}
	return nil
}

// taken says why the hook can't be added or changed: what has its name now, and what to do.
func taken(a *app.App, store *hooks.Store, spec hooks.Spec) error {
	switch h, err := store.Get(a.Ctx, spec.Name); {
	case errors.Is(err, hooks.ErrNotFound):
		return fmt.Errorf("there is no hook %q; leave --replace out to add it", spec.Name)
	case err != nil:
		return err
	case h.DeclaredAt != nil:
		return fmt.Errorf("the hook %q stands in a configuration: change it there, or give another --name", spec.Name)
	case h.Kind != spec.Kind:
		return fmt.Errorf("the hook %q is of the kind %s, which --replace doesn't change: remove it first, or give another --name", spec.Name, h.Kind)
	}
	return fmt.Errorf("there is a hook %q already; --replace changes it and keeps what waits for it and its secret, or give another --name", spec.Name)
}

// replaceHook changes a hook and says so.
func replaceHook(a *app.App, store *hooks.Store, spec hooks.Spec) error {
	err := store.Replace(a.Ctx, spec)
	if errors.Is(err, hooks.ErrNotFound) {
		return taken(a, store, spec)
	}
	switch {
	case err != nil:
		return err
	case a.JSON:
		return a.Out.Document(map[string]string{"name": spec.Name})
	}
	a.Note("changed hook %s; try it with 'soniq hooks test %s'", terminal.OneLine(spec.Name),
		strings.TrimSpace(app.ShellWord(terminal.OneLine(spec.Name))+" "+strings.Join(spec.Needs(), " ")))
	return nil
}

type hooksAddWebhookCmd struct {
	URL string `arg:"" name:"url" help:"Where to POST, or env:NAME."`
	hookFilter
	workerflags.KeyFlags
	Secret      string   `placeholder:"env:NAME" help:"The variable that holds the secret. Default a fresh one, printed once."`
	Header      []string `sep:"none" once:":" placeholder:"NAME: VALUE" help:"Send this header; the value may be env:NAME. Repeatable for other names: all of them."`
	IncludeArgs bool     `help:"Send the job's arguments too."`
	Allow       []string `placeholder:"CIDR" help:"Allow this private network, such as 10.0.0.0/8. The dispatcher needs --hook-allow for it too. Repeatable: each of them."`
}

func (hooksAddWebhookCmd) Help() string {
	return `The receiver answers 2xx; anything else is tried again for three days, 410 disables the hook. Redirects are not followed. Addresses that aren't public are refused without --allow.

    soniq hooks add webhook https://example.com/soniq --name orders
    soniq hooks add webhook http://10.1.2.3/soniq --allow 10.1.2.0/24 --secret env:SONIQ_HOOK_SECRET
    soniq worker --hook-allow 10.1.2.0/24`
}

func (c *hooksAddWebhookCmd) Run(a *app.App) error {
	spec, err := c.spec(hooks.Webhook)
	if err != nil {
		return err
	}
	spec.URL, spec.Args, spec.Allow = c.URL, c.IncludeArgs, c.Allow
	shown := ""
	switch {
	case c.Secret == "" && c.Replace: // it keeps the one that it has
	case c.Secret == "":
		shown = hooks.NewSecret()
		spec.Secrets = shown
	case !strings.HasPrefix(c.Secret, "env:") || c.Secret == "env:":
		// On the command line anybody on the machine can read it.
		return app.Usagef("--secret must be env:NAME")
	default:
		spec.Secrets = c.Secret
	}
	for _, h := range c.Header {
		name, value, ok := strings.Cut(h, ":")
		if !ok {
			return app.Usagef("--header must be 'NAME: VALUE'")
		}
		name, value = http.CanonicalHeaderKey(strings.TrimSpace(name)), strings.TrimSpace(value)
		if err := hooks.CheckHeader(name, value); err != nil {
			return app.Usagef("--header: %w", err)
		}
		if spec.Headers == nil {
			spec.Headers = map[string]string{}
		}
		spec.Headers[name] = value
	}
	return addChecked(a, spec, c.Replace, &c.KeyFlags, shown)
}

type hooksAddSlackCmd struct {
	URL string `arg:"" name:"url" help:"The incoming webhook's URL, or env:NAME."`
	hookFilter
	workerflags.KeyFlags
	BaseURL string   `name:"base-url" placeholder:"URL" help:"Link each dead letter to URL/ID."`
	Allow   []string `placeholder:"CIDR" help:"Allow this private network. The dispatcher needs --hook-allow for it too. Repeatable: each of them."`
}

func (hooksAddSlackCmd) Help() string {
	return `Sends the first dead letter of a group at once, and the next ones as digests with a count.

    soniq hooks add slack env:SONIQ_HOOK_SLACK --queue payments
    soniq hooks add slack https://hooks.slack.com/services/...`
}

func (c *hooksAddSlackCmd) Run(a *app.App) error {
	spec, err := c.spec(hooks.Slack)
	if err != nil {
		return err
	}
	spec.URL, spec.BaseURL, spec.Allow = c.URL, c.BaseURL, c.Allow
	return addChecked(a, spec, c.Replace, &c.KeyFlags, "")
}

type hooksAddLogCmd struct{ hookFilter }

func (hooksAddLogCmd) Help() string {
	return `The record is written by the worker that sends it.

    soniq hooks add log`
}

func (c *hooksAddLogCmd) Run(a *app.App) error {
	spec, err := c.spec(hooks.Log)
	if err != nil {
		return err
	}
	return addChecked(a, spec, c.Replace, &workerflags.KeyFlags{}, "")
}

type hooksAddExecCmd struct {
	Command string `arg:"" name:"command" help:"What to run, by /bin/sh -c: one argument, in quotes."`
	hookFilter
	IncludeArgs bool `help:"Pass the job's arguments too."`
}

func (hooksAddExecCmd) Help() string {
	return `The command gets the event as JSON on standard input, the same as a webhook's body, and SONIQ_HOOK, SONIQ_EVENT, SONIQ_DELIVERY_ID, SONIQ_DEAD_LETTER_ID and SONIQ_ATTEMPT in its environment. How it exits is the verdict:

    0      delivered
    65,78  failed, and trying again is useless
    else   failed: tried again, for three days

After 20 s it gets SIGTERM, then SIGKILL, with all that it has started.

It is run only by workers (and 'soniq hooks run') that were started with --allow-exec-hooks, since whoever may write to the table of hooks could otherwise run commands on all of them. A hook in a worker's own soniq.yaml needs no such flag.

    soniq hooks add exec './page-on-call' --name pager --queue payments
    soniq hooks test pager --allow-exec-hooks
    soniq worker --allow-exec-hooks`
}

func (c *hooksAddExecCmd) Run(a *app.App) error {
	spec, err := c.spec(hooks.Exec)
	if err != nil {
		return err
	}
	spec.Command, spec.Args = c.Command, c.IncludeArgs
	return addChecked(a, spec, c.Replace, &workerflags.KeyFlags{}, "")
}

// addChecked adds a hook that is right; else it is the person's mistake.
func addChecked(a *app.App, spec hooks.Spec, replace bool, keys *workerflags.KeyFlags, shown string) error {
	if err := spec.Check(); err != nil {
		return app.Usagef("%w", err)
	}
	return addHook(a, spec, replace, keys, shown)
}

func (*hooksAddWebhookCmd) ShowsSecret() {}
