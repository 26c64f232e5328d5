package dashboard

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/google/uuid"

	"soniq/deadletter"
	"soniq/hooks"
	"soniq/internal/explain"
	"soniq/internal/safetext"
)

// An endpoint is a page for programs. The OpenAPI document is made of it.
type endpoint struct {
	pattern string
	needs   right
	summary string
	// filtered: it takes the filter of a list in its query.
	filtered bool
	// body and answer are values of the types that it reads and writes. No body is nil.
	body, answer any
	serve        func(*visit) (any, error)
}

// endpoints are the JSON API.
func (d *Dashboard) endpoints() []endpoint {
	return []endpoint{
		{"GET groups", see, "Groups of one cause, those with the most dead ones first", true, nil, apiGroups{}, d.apiGroups},
		{"GET dead-letters", see, "A page of dead letters, the newest first", true, nil, apiLetters{}, d.apiLetters},
		{"GET dead-letters/{id}", see, "One dead letter with its replays, history and deliveries", false, nil, apiLetter{}, d.apiLetter},
		{"POST dead-letters/{id}/reveal", reveal, "The same with its secrets; the history records who asked", false, apiComment{}, apiLetter{}, d.apiReveal},
		{"POST dead-letters/{id}/replay", act, "Queue its job again, with other arguments if there are edits", false, apiReplay{}, apiReplayed{}, d.apiReplay},
		{"POST dead-letters/{id}/tags", act, "Set tags; an empty value removes one", false, apiTags{}, apiChanged{}, d.apiTag},
		{"POST dead-letters/{id}/delete", act, "Delete it for good", false, apiComment{}, apiChanged{}, d.apiDelete},
		{"POST replays", act, "Replay all that a filter picks; with dry_run, only say how many", false, apiReplayAll{}, apiReplayBegun{}, d.apiReplayAll},
		{"GET operations/{id}", see, "How far an operation is", false, nil, deadletter.Operation{}, d.apiOperation},
		{"POST operations/{id}/stop", act, "Stop a replay that runs in this process, after its batch", false, nil, deadletter.Operation{}, d.apiStop},
		{"POST operations/{id}/resume", act, "Go on with a replay that has stopped", false, apiComment{}, deadletter.Operation{}, d.apiResume},
	}
}

// page makes an endpoint one of the pages.
func (e endpoint) page() page {
	method, path := e.split()
	return page{method + " " + apiPrefix + path, e.needs, func(v *visit) error {
		value, err := e.serve(v)
		if err != nil {
			return err
		}
		v.written = true
		writeJSON(v.w, http.StatusOK, value)
		return nil
	}}
}

func (e endpoint) split() (method, path string) {
	_, _ = fmt.Sscan(e.pattern, &method, &path) // both are there
	return method, path
}

// writeJSON answers a program.
func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(safetext.NewJSONWriter(w))
	enc.SetEscapeHTML(false)
	// Somebody who has gone is told nothing.
	_ = enc.Encode(v)
}

// readBody reads the JSON of a request. None is an empty object.
func readBody[T any](v *visit) (body T, err error) {
	dec := json.NewDecoder(v.r.Body)
	dec.DisallowUnknownFields()
	err = dec.Decode(&body)
	var tooLarge *http.MaxBytesError
	switch {
	case errors.Is(err, io.EOF):
		return body, nil
	case errors.As(err, &tooLarge):
		return body, err
	case err != nil:
		return body, badInput("the body is not the JSON that is wanted here: %s", err)
	case dec.More():
		return body, badInput("the body has more than one JSON value")
	}
	return body, nil
}

type (
	apiGroups struct {
		Groups []deadletter.Group `json:"groups"`
		// Whole is false if they are the groups of the newest dead letters alone.
		Whole bool `json:"whole"`
	}
	apiLetters struct {
		Letters []deadletter.Job `json:"dead_letters"`
		// Count is how many are picked among those that were read, and Exact that these were all.
		Count int64 `json:"count"`
		Exact bool  `json:"exact"`
		// After is what the next page needs as 'after'. Empty at the end.
		After string `json:"after"`
	}
	apiLetter struct {
		Letter     deadletter.Job       `json:"dead_letter"`
		Why        string               `json:"why"`
		Lineage    deadletter.Lineage   `json:"lineage"`
		History    []deadletter.Record  `json:"history"`
		Deliveries []hooks.DeliveryInfo `json:"deliveries"`
	}
	apiComment struct {
		Comment string `json:"comment,omitempty"`
	}
	apiReplay struct {
		apiComment
		Edits []deadletter.ArgsEdit `json:"edits,omitempty"`
		Queue string                `json:"queue,omitempty"`
		Force bool                  `json:"force,omitempty"`
	}
	apiReplayed struct {
		JobID uuid.UUID `json:"job_id"`
	}
	apiTags struct {
		Tags map[string]string `json:"tags"`
	}
	apiChanged struct {
		Changed int64 `json:"changed"`
	}
	apiReplayAll struct {
		apiComment
		// Filter has the names of the query of a list, such as {"reason": ["timeout"]}.
		Filter map[string][]string `json:"filter,omitempty"`
		// All is needed where the filter is empty.
		All        bool    `json:"all,omitempty"`
		Canary     int     `json:"canary,omitempty"`
		Rate       float64 `json:"rate,omitempty"`
		Breaker    float64 `json:"breaker,omitempty"`
		MaxReplays int     `json:"max_replays,omitempty"`
		DryRun     bool    `json:"dry_run,omitempty"`
	}
	apiReplayBegun struct {
		Operation *uuid.UUID            `json:"operation"`
		Plan      deadletter.ReplayPlan `json:"plan"`
	}
)

func (d *Dashboard) apiGroups(v *visit) (any, error) {
	picked, err := v.picked()
	if err != nil {
		return nil, err
	}
	if picked.ByText() && !v.user.Reveal {
		return nil, badInput("only who may see secrets can group by a text: list the dead letters")
	}
	page, err := d.readGroups(v.Context(), picked, v.r.URL.Query().Get("all") != "")
	return apiGroups{emptyNotNil(page.Groups), page.Whole}, err
}

func (d *Dashboard) apiLetters(v *visit) (any, error) {
	picked, err := v.picked()
	if err != nil {
		return nil, err
	}
	after, err := readPosition(v.r.URL.Query().Get("after"))
	if err != nil {
		return nil, err
	}
	page, err := d.readLetters(v.Context(), picked, after, v.user.Reveal, v.r.URL.Query().Get("all") != "")
	if err != nil {
		return nil, err
	}
	answer := apiLetters{Letters: []deadletter.Job{}, Count: page.Count, Exact: page.Exact, After: page.Next + page.Older}
	for _, r := range page.Rows {
		answer.Letters = append(answer.Letters, r.Job)
	}
	return answer, nil
}

func (d *Dashboard) apiLetter(v *visit) (any, error) {
	j, err := d.readLetter(v)
	if err != nil {
		return nil, err
	}
	return d.story(v, j.Redacted())
}

func (d *Dashboard) apiReveal(v *visit) (any, error) {
	body, err := readBody[apiComment](v)
	if err != nil {
		return nil, err
	}
	j, err := d.readLetter(v)
	if err == nil {
		err = v.queue(body.Comment).Reveal(v.Context(), j.ID)
	}
	if err != nil {
		return nil, err
	}
	return d.story(v, j)
}

// story is a dead letter, shown as it is, with all that is known of it.
func (d *Dashboard) story(v *visit, j deadletter.Job) (answer apiLetter, err error) {
	answer = apiLetter{Letter: j, Why: explain.Death(j.Redacted())}
	if answer.Lineage, err = d.queue.Lineage(v.Context(), j.ID); err != nil {
		return answer, err
	}
	if answer.History, err = d.queue.History(v.Context(), j.ID); err != nil {
		return answer, err
	}
	for i, r := range answer.History {
		answer.History[i] = r.Redacted()
	}
	answer.Deliveries, err = d.deliveriesOf(v.Context(), j)
	answer.History, answer.Deliveries = emptyNotNil(answer.History), emptyNotNil(answer.Deliveries)
	answer.Lineage.Ancestors, answer.Lineage.Replays = emptyNotNil(answer.Lineage.Ancestors), emptyNotNil(answer.Lineage.Replays)
	return answer, err
}

func emptyNotNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func (d *Dashboard) apiReplay(v *visit) (any, error) {
	body, err := readBody[apiReplay](v)
	if err != nil {
		return nil, err
	}
	id, err := v.letterID()
	if err != nil {
		return nil, err
	}
	o := deadletter.ReplayOptions{Edits: body.Edits, Queue: body.Queue, Force: body.Force}
	if err := o.Validate(); err != nil {
		return nil, badInput("%s", err)
	}
	job, err := v.queue(body.Comment).Replay(v.Context(), id, o)
	if err != nil {
		return nil, replayError(err)
	}
	return apiReplayed{job}, nil
}

func (d *Dashboard) apiTag(v *visit) (any, error) {
	body, err := readBody[apiTags](v)
	if err != nil {
		return nil, err
	}
	if len(body.Tags) == 0 {
		return nil, badInput("tags: name at least one")
	}
	id, err := v.letterID()
	if err == nil {
		err = v.queue("").Tag(v.Context(), id, body.Tags)
	}
	return apiChanged{1}, err
}

func (d *Dashboard) apiDelete(v *visit) (any, error) {
	body, err := readBody[apiComment](v)
	if err != nil {
		return nil, err
	}
	id, err := v.letterID()
	if err == nil {
		err = v.queue(body.Comment).Delete(v.Context(), id)
	}
	return apiChanged{1}, err
}

func (d *Dashboard) apiReplayAll(v *visit) (any, error) {
	body, err := readBody[apiReplayAll](v)
	if err != nil {
		return nil, err
	}
	now, err := d.now(v.Context())
	if err != nil {
		return nil, err
	}
	query := url.Values(body.Filter)
	for name := range query {
		if !isFilterName(name) {
			return nil, badInput("filter: there is no condition by the name %q", name)
		}
	}
	picked, err := readSelection(query, now)
	switch {
	case err != nil:
		return nil, err
	case picked.ByText() && !v.user.Reveal:
		return nil, badInput("only who may see secrets can act on all that have a text")
	case !picked.Narrow() && !body.All:
		return nil, badInput("the filter is empty: say \"all\": true for all dead letters")
	}
	f, err := frozen{Query: picked.Query.Encode(), At: now, All: body.All}.filter()
	if err != nil {
		return nil, err
	}
	o := deadletter.ReplayAllOptions{
		ReplayOptions: deadletter.ReplayOptions{MaxReplays: body.MaxReplays},
		Pace:          deadletter.Pace{Canary: body.Canary, Rate: body.Rate, Breaker: body.Breaker},
	}
	return d.beginReplay(v, f, o, body)
}

func (d *Dashboard) beginReplay(v *visit, f deadletter.Filter, o deadletter.ReplayAllOptions, body apiReplayAll) (answer apiReplayBegun, err error) {
	if err := o.Validate(); err != nil {
		return answer, badInput("%s", err)
	}
	if p := o.Pace; p.Canary < 0 || p.Canary > 1000 || p.Rate < 0 || p.Breaker < 0 || p.Breaker > 1 {
		return answer, badInput("canary is from 0 to 1000, rate at least 0, and breaker from 0 to 1")
	}
	if answer.Plan, err = d.queue.PlanReplay(v.Context(), f, o.ReplayOptions); err != nil || body.DryRun {
		return answer, err
	}
	id, err := d.replayAll(v.Context(), v.queue(body.Comment), f, o)
	if err == nil && id != uuid.Nil {
		answer.Operation = &id
	}
	return answer, err
}

func (d *Dashboard) apiOperation(v *visit) (any, error) {
	id, err := v.operationID()
	if err != nil {
		return nil, err
	}
	op, err := d.queue.Operation(v.Context(), id)
	return op.Redacted(), err
}

func (d *Dashboard) apiStop(v *visit) (any, error) {
	id, err := v.operationID()
	if err != nil {
		return nil, err
	}
	if err := d.stopHere(v, id); err != nil {
		return nil, err
	}
	return d.apiOperation(v)
}

func (d *Dashboard) apiResume(v *visit) (any, error) {
	body, err := readBody[apiComment](v)
	if err != nil {
		return nil, err
	}
	id, err := v.operationID()
	if err != nil {
		return nil, err
	}
	if err := d.resumeHere(v, id, body.Comment); err != nil {
		return nil, err
	}
	return d.apiOperation(v)
}

// openAPI serves the description of the API.
func (d *Dashboard) openAPI(v *visit) error {
	v.written = true
	writeJSON(v.w, http.StatusOK, describeAPI(d.base, d.endpoints()))
	return nil
}
