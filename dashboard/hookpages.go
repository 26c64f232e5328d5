package dashboard

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter"
	"soniq/hooks"
)

const (
	// listedDeliveries is how many deliveries a page lists.
	listedDeliveries = 100
	// testTimeout is how long a sample may take to send.
	testTimeout = 20 * time.Second
)

// hooksPage is what the page of hooks shows. Deliveries are those of one hook, or of all.
type hooksPage struct {
	Hooks      []hookRow
	Hook       string
	State      string
	States     []hooks.DeliveryState
	Deliveries []hooks.DeliveryInfo
	More       bool
	// Sample is what came of a test, if the page is the one that a test leads to.
	Sample *sample
}

// A hookRow is a hook as the page shows it: without what its settings hold.
type hookRow struct {
	hooks.Info

	// To is where it sends to: a host, or what kind of program.
	To string
	// Picks says in words what it is told of.
	Picks      string
	Unattended bool
}

func newHookRow(h hooks.Info, now time.Time) hookRow {
	row := hookRow{Info: h, To: h.Target, Unattended: h.Unattended(now)}
	if h.Kind.Uses(hooks.FieldCommand) {
		row.To = "a command" // which may have a secret in it
	}
	var parts []string
	for _, event := range h.Events {
		parts = append(parts, string(event))
	}
	for _, name := range h.Jobs {
		parts = append(parts, "job "+deadletter.RedactText(name))
	}
	for _, name := range h.Queues {
		parts = append(parts, "queue "+deadletter.RedactText(name))
	}
	for _, reason := range h.Reasons {
		parts = append(parts, strings.ReplaceAll(string(reason), "_", " "))
	}
	if tags := string(deadletter.Redact(h.Tags)); len(h.Tags) > 0 && tags != "null" {
		parts = append(parts, "tags "+tags)
	}
	if row.Picks = strings.Join(parts, ", "); row.Picks == "" {
		row.Picks = "all"
	}
	return row
}

func (d *Dashboard) hooks(v *visit) error {
	ctx, cancel := context.WithTimeout(v.Context(), pageTimeout)
	defer cancel()
	query := v.r.URL.Query()
	page := hooksPage{Hook: query.Get("hook"), State: query.Get("state"), States: hooks.DeliveryStates(), Sample: d.samples.look(query.Get("sample"))}
	if page.State != "" {
		if err := hooks.DeliveryState(page.State).Check(); err != nil {
			return badInput("state: %s", err)
		}
	}
	all, err := d.store.List(ctx)
	if err != nil {
		return err
	}
	now, err := d.now(ctx)
	if err != nil {
		return err
	}
	for _, h := range all {
		page.Hooks = append(page.Hooks, newHookRow(h, now))
	}
	page.Deliveries, err = d.store.Deliveries(ctx, hooks.DeliveryFilter{Hook: page.Hook, State: hooks.DeliveryState(page.State), Limit: listedDeliveries + 1})
	if err != nil {
		return err
	}
	if page.More = len(page.Deliveries) > listedDeliveries; page.More {
		page.Deliveries = page.Deliveries[:listedDeliveries]
	}
	for i := range page.Deliveries {
		page.Deliveries[i].JobName = deadletter.RedactText(page.Deliveries[i].JobName)
	}
	return v.show("hooks", view{Title: "Hooks", Nav: "/hooks", Data: page})
}

func (d *Dashboard) enableHook(v *visit) error { return v.changeHook("enabled", d.store.Enable) }

func (d *Dashboard) disableHook(v *visit) error { return v.changeHook("disabled", d.store.Disable) }

// changeHook changes the hook of a form. That it was so already is no mistake.
func (v *visit) changeHook(done string, change func(context.Context, string) error) error {
	if err := v.r.ParseForm(); err != nil {
		return err
	}
	name := v.r.Form.Get("hook")
	if err := change(v.Context(), name); err != nil {
		return hookError(err)
	}
	v.log("a hook was "+done, "hook", name)
	return v.redirect("/hooks?done=" + done)
}

func hookError(err error) error {
	if errors.Is(err, hooks.ErrNotFound) {
		return badInput("there is no such hook: it was removed meanwhile")
	}
	return err
}

// retryDeliveries makes deliveries due now: one, or those of a hook that wait or failed.
func (d *Dashboard) retryDeliveries(v *visit) error {
	return v.once(func() (string, error) {
		hook := v.r.Form.Get("hook")
		var ids []uuid.UUID
		for _, text := range v.r.PostForm["id"] {
			id, err := uuid.Parse(text)
			if err != nil {
				return "", badInput("not the id of a delivery: %q", text)
			}
			ids = append(ids, id)
		}
		if hook == "" && len(ids) == 0 {
			return "", badInput("name a hook or a delivery")
		}
		n, err := d.store.RetryDeliveries(v.Context(), ids, hook)
		if err != nil {
			return "", err
		}
		v.log("deliveries of hooks were made due", "deliveries", n, "hook", hook)
		return fmt.Sprintf("/hooks?done=resent&n=%d", n), nil
	})
}

// A sample is what came of the test of a hook.
type sample struct {
	Hook string
	// Problem is why it failed, or empty.
	Problem string
	// Status is that of the answer, or 0.
	Status int
}

// samples are the latest tests of hooks.
type samples struct {
	mu  sync.Mutex
	all map[string]*sample
}

// mostSamples bounds the tests that are remembered.
const mostSamples = 100

func (s *samples) add(tested *sample) (id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil || len(s.all) >= mostSamples {
		s.all = map[string]*sample{}
	}
	id = uuid.NewString()
	s.all[id] = tested
	return id
}

func (s *samples) look(id string) *sample {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all[id]
}

// testHook sends a sample from this process. What a hook needs beyond the public network it may not
// have here: then the page names the command.
func (d *Dashboard) testHook(v *visit) error {
	return v.once(func() (string, error) {
		config := d.hookConfig
		config.Schema, config.Logger = d.schema.Name(), d.log
		dispatcher, err := hooks.NewDispatcher(d.db.Raw(), config)
		if err != nil {
			return "", err
		}
		ctx, cancel := context.WithTimeout(v.Context(), testTimeout)
		defer cancel()
		tested := &sample{Hook: v.r.Form.Get("hook")}
		delivery, err := d.store.Test(ctx, dispatcher, tested.Hook)
		if errors.Is(err, hooks.ErrNotFound) {
			return "", hookError(err)
		}
		if err != nil {
			tested.Problem = sampleProblem(err)
		}
		if delivery != nil {
			tested.Status = delivery.Status
		}
		v.log("a hook was tested", "hook", tested.Hook)
		return "/hooks?sample=" + d.samples.add(tested), nil
	})
}

// sampleProblem says why a sample was not sent, or refused.
func sampleProblem(err error) string {
	var needs *hooks.NeedsError
	switch {
	case errors.As(err, &needs), errors.Is(err, hooks.ErrDeclared), errors.Is(err, hooks.ErrExecNotAllowed), errors.Is(err, hooks.ErrSealed):
		return "it can't be tested from here: it needs what the dashboard is not given. Use 'soniq hooks test' where its dispatcher runs"
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer within " + testTimeout.String()
	}
	return deadletter.RedactText(strings.TrimPrefix(err.Error(), "test hook: "))
}
