// Package hooks has the commands of 'soniq hooks'.
package hooks

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"soniq/hooks"
	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
	"soniq/internal/cli/workerflags"
	"soniq/internal/suggest"
	"soniq/internal/unit"
	"soniq/internal/workerfile"
)

// Command groups what can be done with hooks.
type Command struct {
	Add          hooksAddCmd        `cmd:"" help:"Add a hook: webhook, slack, log or exec."`
	List         hooksListCmd       `cmd:"" help:"List the hooks."`
	Show         hooksShowCmd       `cmd:"" help:"Show one hook."`
	Test         hooksTestCmd       `cmd:"" help:"Send a marked sample and print the answer."`
	Enable       hooksEnableCmd     `cmd:"" help:"Enable hooks again, and send what waits."`
	Disable      hooksDisableCmd    `cmd:"" help:"Disable hooks."`
	Remove       hooksRemoveCmd     `cmd:"" help:"Remove hooks and their deliveries."`
	RotateSecret hooksRotateCmd     `cmd:"" help:"Give a webhook a new secret."`
	Deliveries   hooksDeliveriesCmd `cmd:"" help:"List deliveries: what was sent, what waits, what failed."`
	Retry        hooksRetryCmd      `cmd:"" help:"Send deliveries again that failed or wait."`
	Seal         hooksSealCmd       `cmd:"" help:"Encrypt the secrets that the database holds."`
	Keygen       hooksKeygenCmd     `cmd:"" help:"Print a new key for 'hooks seal'."`
	Run          hooksRunCmd        `cmd:"" help:"Send deliveries until stopped. Every worker does it too."`
}

// Help implements [kong.HelpProvider].
func (Command) Help() string {
	return `A hook receives dead letters: each one once, whatever the number of workers, and again after a failed delivery. Every worker sends what is due.

    soniq hooks add slack https://hooks.slack.com/services/...
    soniq hooks test slack
    soniq hooks deliveries`
}

// hookStore is the store of hooks; keys may be nil.
func hookStore(a *app.App, keys *hooks.Keyring) (*hooks.Store, error) {
	pool, err := a.Open()
	if err != nil {
		return nil, err
	}
	return hooks.NewStore(pool, hooks.StoreConfig{Schema: a.SchemaName(), Keys: keys})
}

// storeWith opens the store of hooks. Unless hook is empty, a hook of that name must
// exist.
func storeWith(a *app.App, hook string) (*hooks.Store, error) {
	store, err := hookStore(a, nil)
	if err != nil || hook == "" {
		return store, err
	}
	if _, err := store.Get(a.Ctx, hook); err != nil {
		return nil, noHook(a, store, hook, err)
	}
	return store, nil
}

// noHook names the hook that does not exist, and the one that was probably meant.
func noHook(a *app.App, store *hooks.Store, name string, err error) error {
	if !errors.Is(err, hooks.ErrNotFound) {
		return err
	}
	hint := ""
	if all, err := store.List(a.Ctx); err == nil {
		names := make([]string, len(all))
		for i, h := range all {
			names[i] = h.Name
		}
		hint = suggest.Question(name, names)
	}
	return fmt.Errorf("there is no hook %q; 'soniq hooks list' has all%s", name, hint)
}

// hookNames are the hooks that a command changes.
type hookNames struct {
	Names []string `arg:"" name:"hook" help:"Names of hooks."`
}

// each changes the hooks. Names that no hook has are told, and the others are changed all the same.
func (h *hookNames) each(a *app.App, key, told string, change func(*hooks.Store, string) error) error {
	store, err := hookStore(a, nil)
	if err != nil {
		return err
	}
	done, failed := []string{}, []app.Failure{}
	var broken error
	for _, name := range h.Names {
		err := change(store, name)
		if errors.Is(err, hooks.ErrNotFound) {
			failed = append(failed, app.Failure{ID: name, Error: noHook(a, store, name, err).Error()})
			continue
		}
		if broken = err; broken != nil {
			break
		}
		done = append(done, name)
		if !a.JSON {
			a.Out.Printf("%s %s", told, terminal.OneLine(name))
		}
	}
	if a.JSON {
		if err := a.Out.Document(map[string]any{key: done, "failed": failed}); err != nil {
			return err
		}
	}
	return a.BrokenOutcome(len(done), failed, broken)
}

type hooksEnableCmd struct{ hookNames }

func (hooksEnableCmd) Help() string {
	return `Sends what waits, and resets the count of failures.

    soniq hooks enable slack`
}

func (c *hooksEnableCmd) Run(a *app.App) error {
	return c.each(a, "enabled", "Enabled", func(s *hooks.Store, name string) error { return s.Enable(a.Ctx, name) })
}

type hooksDisableCmd struct{ hookNames }

func (hooksDisableCmd) Help() string {
	return `Nothing is sent until 'soniq hooks enable'. Deliveries that wait are kept. Events that happen meanwhile are not.

    soniq hooks disable slack`
}

func (c *hooksDisableCmd) Run(a *app.App) error {
	return c.each(a, "disabled", "Disabled", func(s *hooks.Store, name string) error { return s.Disable(a.Ctx, name) })
}

type hooksRemoveCmd struct{ hookNames }

func (hooksRemoveCmd) Help() string {
	return `Deliveries that wait are not sent.

    soniq hooks remove slack`
}

func (c *hooksRemoveCmd) Run(a *app.App) error {
	return c.each(a, "removed", "Removed", func(s *hooks.Store, name string) error {
		h, err := s.Get(a.Ctx, name)
		if err == nil {
			err = s.Remove(a.Ctx, name)
		}
		if err == nil && h.DeclaredAt != nil {
			a.Note("%s stands in a configuration: the next worker that starts with that adds it again", terminal.OneLine(name))
		}
		return err
	})
}

type hooksRotateCmd struct {
	Name string `arg:"" name:"hook" help:"Name of a webhook."`
	Drop bool   `help:"Sign with the new secret only. Use it when the old one has leaked."`
	workerflags.KeyFlags
}

func (hooksRotateCmd) Help() string {
	return `Prints the new secret once; if that fails, nothing is changed. Requests are signed with both secrets until the next rotation, so that the receiver can switch.

    soniq hooks rotate-secret orders`
}

func (c *hooksRotateCmd) Run(a *app.App) error {
	keys, err := c.Keys(a)
	if err != nil {
		return err
	}
	store, err := hookStore(a, keys)
	if err != nil {
		return err
	}
	secret := hooks.NewSecret()
	err = store.RotateSecret(a.Ctx, c.Name, secret, c.Drop, showOnce(a, c.Name, secret))
	if errors.Is(err, hooks.ErrNotFound) {
		return fmt.Errorf("there is no webhook %q whose secret is kept in the database", c.Name)
	}
	if err != nil {
		return err
	}
	noteShown(a, c.Name)
	return nil
}

// showOnce prints a new secret before it is stored. If it can't be printed, it is
// not stored.
func showOnce(a *app.App, name, secret string) func() error {
	return func() error {
		if a.Out.Discards() {
			return errors.New("nothing was changed, as the secret could not be shown: standard output is closed, or is /dev/null")
		}
		if a.JSON {
			_ = a.Out.Document(map[string]string{"name": name, "secret": secret}) // flush has the error
		} else {
			a.Out.Printf("%s", secret)
		}
		if err := a.Out.Flush(); err != nil {
			return fmt.Errorf("nothing was changed, as the secret could not be shown: %w", err)
		}
		return nil
	}
}

func noteShown(a *app.App, name string) {
	if !a.JSON {
		a.Note("this secret of %s is not shown again", terminal.OneLine(name))
	}
}

type hooksListCmd struct{}

func (hooksListCmd) Help() string {
	return `Shows only the host of an address, since the rest can be a secret. It reads the view soniq_hook_status, and needs no privilege on the tables.

    soniq hooks list --json`
}

func (hooksListCmd) Run(a *app.App) error {
	store, err := hookStore(a, nil)
	if err != nil {
		return err
	}
	list, err := store.List(a.Ctx)
	if err != nil || a.JSON || len(list) == 0 {
		return app.NoTable(a, list, err, "no hooks; add one with 'soniq hooks add'")
	}
	t := terminal.Table{Columns: []terminal.Column{
		{Title: "HOOK", Min: 8},
		{Title: "KIND"},
		{Title: "STATE", Min: 10},
		{Title: "PENDING", Right: true},
		{Title: "OLDEST", Right: true, Drop: 3},
		{Title: "DELIVERED", Right: true, Drop: 2},
		{Title: "FAILED", Right: true},
		{Title: "TARGET", Min: 12, Drop: 1},
	}}
	held := a.NoteHeld()
	for _, h := range list {
		t.Add(h.Name, string(h.Kind), hookState(a, h, held), unit.Thousands(h.Pending), oldestText(a, h), unit.Thousands(h.Delivered), unit.Thousands(h.Failed), h.Target)
	}
	return t.Write(a.Out, a.TableWidth())
}

// oldestText is how long the event has waited that waits longest.
func oldestText(a *app.App, h hooks.Info) string {
	if h.Pending == 0 || h.OldestPendingAt == nil {
		return ""
	}
	return terminal.Age(a.Now(), *h.OldestPendingAt)
}

func hookState(a *app.App, h hooks.Info, held bool) string {
	state, now := "ok", a.Now()
	digest, digests := h.Digests(now)
	switch {
	case !h.Enabled:
		state = "disabled: " + h.DisabledReason
	case held:
		state = "held: the database was moved"
	case h.Pending > 0 && h.Unavailable != "":
		state = "waiting: " + h.Unavailable
	case h.Failures > 0:
		state = fmt.Sprintf("failing (%d)", h.Failures)
		if h.Unattended(now) {
			state += "; waiting: no dispatcher"
		}
	case h.Unattended(now) && h.DeclaredAt != nil:
		state = "waiting: no dispatcher with its configuration"
	case h.Unattended(now):
		state = "waiting: no dispatcher"
	case digests:
		state = "digest due in " + terminal.ShortDuration(digest.Sub(now).Round(time.Second))
	case h.Sending:
		state = "sending"
	case h.Pending > 0:
		state = "due" // that nobody is there to send it shows after two minutes
	}
	if h.Dropped > 0 {
		state += "; dropped " + unit.Thousands(h.Dropped)
	}
	return state
}

type hooksShowCmd struct {
	Name string `arg:"" name:"hook" help:"Name of a hook."`
}

func (hooksShowCmd) Help() string {
	return `Shows its filter, its state and its counts, without secrets.

    soniq hooks show slack`
}

func (c *hooksShowCmd) Run(a *app.App) error {
	store, err := hookStore(a, nil)
	if err != nil {
		return err
	}
	h, err := store.Get(a.Ctx, c.Name)
	if err != nil {
		return noHook(a, store, c.Name, err)
	}
	if a.JSON {
		return a.Out.Document(h)
	}
	for _, field := range [][2]string{
		{"Hook", h.Name},
		{"Kind", string(h.Kind)},
		{"Target", h.Target},
		{"Secret", secretText(h)},
		{"Headers", strings.Join(headerTexts(h.Headers), ", ")},
		{"May reach", strings.Join(h.Allow, ", ")},
		{"Needs", strings.Join(h.Needs(), " ")},
		{"Link", h.BaseURL},
		{"Arguments", argumentsText(h)},
		{"State", hookState(a, h, a.NoteHeld())},
		{"Next try", untilText(a, h.BlockedUntil)},
		{"Declared", declaredText(a, h)},
		{"Events", anyOf(h.Events)},
		{"Jobs", anyOf(h.Jobs)},
		{"Queues", anyOf(h.Queues)},
		{"Reasons", anyOf(h.Reasons)},
		{"Tags", string(h.Tags)},
		{"Pending", unit.Thousands(h.Pending)},
		{"Oldest", oldestText(a, h)},
		{"Delivered", unit.Thousands(h.Delivered)},
		{"Failed", unit.Thousands(h.Failed)},
		{"Dropped", droppedText(h)},
	} {
		if field[1] != "" {
			a.Out.Printf("%-10s %s", field[0], terminal.OneLine(field[1]))
		}
	}
	return nil
}

// anyOf is a list of a filter, which matches all if it is nil.
func anyOf[T ~string](list []T) string {
	if list == nil {
		return "all"
	}
	return workerfile.Joined(list, ", ")
}

func droppedText(h hooks.Info) string {
	if h.Dropped == 0 {
		return ""
	}
	return unit.Thousands(h.Dropped) + ", as too many waited"
}

func secretText(h hooks.Info) string {
	where := "in the database"
	if h.SecretFrom == "sealed" {
		where += ", sealed"
	}
	switch {
	case !h.Kind.Uses(hooks.FieldSecret):
		return ""
	case !h.Signed:
		return "none: requests are not signed"
	case h.SecretFrom == "configuration":
		return "in the configuration"
	case h.Secrets > 1:
		return "two " + where + ": signed by both until the next rotate-secret"
	case h.Secrets == 1:
		return where
	default:
		return h.SecretFrom
	}
}

func headerTexts(headers map[string]string) (texts []string) {
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		texts = append(texts, name+": "+headers[name])
	}
	return texts
}

func argumentsText(h hooks.Info) string {
	switch {
	case h.Args:
		return "sent"
	case h.Kind.Uses(hooks.FieldArgs):
		return "not sent"
	default:
		return ""
	}
}

// untilText is when a hook is sent to again that is left alone.
func untilText(a *app.App, until *time.Time) string {
	if until == nil || !until.After(a.Now()) {
		return ""
	}
	return "in " + terminal.ShortDuration(until.Sub(a.Now()).Round(time.Second))
}

func declaredText(a *app.App, h hooks.Info) string {
	if h.DeclaredAt == nil {
		return ""
	}
	return "by a configuration, last " + terminal.Age(a.Now(), *h.DeclaredAt) + " ago"
}

type hooksTestCmd struct {
	Name   string  `arg:"" name:"hook" help:"Name of a hook."`
	Config *string `placeholder:"FILE" help:"The configuration that has the hook. Default soniq.yaml, if there is one."`
	workerflags.HookGrants
}

func (hooksTestCmd) Help() string {
	return `Sends a sample from this machine, not through the outbox. Exits with 1 if it is refused. A hook of 'soniq hooks add' may use what these flags allow. A hook of a configuration is read from the file or the environment here.

    soniq hooks test slack
    soniq hooks test orders --hook-env ORDERS_TOKEN --hook-allow 10.1.2.0/24`
}

func (c *hooksTestCmd) Run(a *app.App) error {
	config, err := c.HookConfig(a)
	if err != nil {
		return err
	}
	store, err := hookStore(a, nil)
	if err != nil {
		return err
	}
	pool, err := a.Open()
	if err != nil {
		return err
	}
	config.Schema = a.SchemaName()
	dispatcher, err := hooks.NewDispatcher(pool, config)
	if err != nil {
		return err
	}
	d, err := store.Test(a.Ctx, dispatcher, c.Name)
	if errors.Is(err, hooks.ErrDeclared) {
		d, err = c.declared(a, store, dispatcher)
	}
	var needs *hooks.NeedsError
	switch {
	case errors.As(err, &needs):
		return app.Usagef("hook %q asks for more than it has here; give it %s, if you trust those who may write to the table of hooks",
			c.Name, strings.Join(needs.Flags, " "))
	case errors.Is(err, hooks.ErrExecNotAllowed):
		h, err := store.Get(a.Ctx, c.Name)
		if err != nil {
			return noHook(a, store, c.Name, err)
		}
		return app.Usagef("hook %q runs a command: %s; give --allow-exec-hooks to run it here", c.Name, terminal.OneLine(h.Target))
	case err != nil:
		return noHook(a, store, c.Name, err)
	}
	if a.JSON {
		return a.Out.Document(map[string]any{"delivered": true, "status": d.Status, "answer": d.Answer})
	}
	if answer := answerText(d.Status, d.Answer); answer != "" {
		a.Out.Printf("Delivered; the answer was %s", answer)
		return nil
	}
	a.Out.Printf("Delivered")
	return nil
}

// declared tests a hook of the configuration here.
func (c *hooksTestCmd) declared(a *app.App, store *hooks.Store, dispatcher *hooks.Dispatcher) (*hooks.Delivery, error) {
	file, err := (&workerflags.HandlerFlags{Config: c.Config}).Read(a, workerfile.Options{Hooks: true})
	if err != nil {
		return nil, err
	}
	if err := file.AddEnvironmentHooks(a.Getenv, c.Networks(a)); err != nil {
		return nil, app.Usagef("%w", err)
	}
	specs := make([]hooks.Spec, len(file.Hooks))
	for i := range file.Hooks {
		specs[i] = file.Hooks[i].Spec
	}
	d, err := store.Test(a.Ctx, dispatcher, c.Name, specs...)
	if errors.Is(err, hooks.ErrDeclared) {
		return nil, fmt.Errorf("hook %q is in the configuration of a dispatcher: test it where that is, or give --config FILE", c.Name)
	}
	return d, err
}

type hooksDeliveriesCmd struct {
	Name  string              `arg:"" optional:"" name:"hook" help:"Name of a hook. Default all."`
	Hook  string              `placeholder:"HOOK" help:"The same as the argument."`
	State hooks.DeliveryState `placeholder:"STATE" help:"pending, delivered or failed. Default all."`
	Limit int                 `default:"50" placeholder:"N" help:"Show at most N; 0 for all. Default 50."`
}

func (hooksDeliveriesCmd) Help() string {
	return `Lists the newest first. Delivered ones are kept for a week, failed ones for a month. The hook's own secrets are removed from the answers.

    soniq hooks deliveries
    soniq hooks deliveries slack --state failed --json`
}

func (c *hooksDeliveriesCmd) Run(a *app.App) error {
	if err := c.State.Check(); c.State != "" && err != nil {
		return app.Usagef("--state %w", err)
	}
	limit, err := app.ListLimit(c.Limit)
	if err != nil {
		return err
	}
	if c.Name != "" && c.Hook != "" && c.Name != c.Hook {
		return app.Usagef("name one hook: %q or --hook %q", c.Name, c.Hook)
	}
	name := cmp.Or(c.Name, c.Hook)
	store, err := storeWith(a, name)
	if err != nil {
		return err
	}
	list, err := store.Deliveries(a.Ctx, hooks.DeliveryFilter{Hook: name, State: c.State, Limit: limit})
	if err != nil || a.JSON || len(list) == 0 {
		return app.NoTable(a, list, err, "no deliveries")
	}
	t := terminal.Table{Columns: []terminal.Column{
		{Title: "DELIVERY"},
		{Title: "HOOK", Min: 8},
		{Title: "EVENT", Drop: 3},
		{Title: "STATE"},
		{Title: "TRIES", Right: true},
		{Title: "AGE", Right: true, Drop: 2},
		{Title: "ANSWER", Min: 12},
		{Title: "JOB", Min: 8, Drop: 4},
		{Title: "DEAD LETTER", Drop: 5},
	}}
	a.NoteHeld()
	now := a.Now()
	for _, d := range list {
		answer := terminal.FirstLine(d.LastError)
		if answer == "" {
			status := 0
			if d.LastStatus != nil {
				status = *d.LastStatus
			}
			answer = answerText(status, d.LastAnswer)
		}
		switch wait := untilText(a, d.NextAttemptAt); {
		case d.Sending:
			answer = strings.TrimSpace("being sent " + answer)
		case wait != "" && d.Digests():
			answer = "digest due " + wait
		case wait != "":
			answer = strings.TrimSpace("due " + wait + " " + answer)
		}
		t.Add(d.ID.String(), d.Hook, string(d.Event), string(d.State), fmt.Sprint(d.Attempts), terminal.Age(now, d.CreatedAt), answer, d.JobName, d.DeadLetterID.String())
	}
	return t.Write(a.Out, a.TableWidth())
}

// answerText is what the other side said, in a line: a status, where it has
// one, and the beginning of its text.
func answerText(status int, answer string) string {
	answer = terminal.FirstLine(answer)
	if status == 0 {
		return answer
	}
	return strings.TrimSpace(fmt.Sprintf("%d %s", status, answer))
}

func (*hooksRotateCmd) ShowsSecret() {}
