package dashboard_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"

	"soniq/internal/cli/clitest"
	"soniq/internal/testclient"
	"soniq/internal/testkit"
)

// call sends a request of the API, with a body of JSON.
func (s *site) call(method, path, body string) answer {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.url+"/api/v1"+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	return s.send(r)
}

type object = map[string]any

// conforms reports how a value breaks a schema.
func conforms(at string, v any, schema object, defs object) (broken []string) {
	if ref, ok := schema["$ref"].(string); ok {
		schema = defs[ref[strings.LastIndex(ref, "/")+1:]].(object)
	}
	if any, ok := schema["anyOf"].([]any); ok {
		for _, one := range any {
			if broken = conforms(at, v, one.(object), defs); broken == nil {
				return nil
			}
		}
		return broken
	}
	types := fmt.Sprint(schema["type"])
	has := func(name string) bool { return schema["type"] == nil || strings.Contains(types, name) }
	wrong := []string{fmt.Sprintf("%s: %T is no %s", at, v, types)}
	switch v := v.(type) {
	case nil:
		if !has("null") {
			return wrong
		}
	case string:
		if !has("string") {
			return wrong
		}
	case json.Number:
		if !has("integer") && !has("number") {
			return wrong
		}
	case bool:
		if !has("boolean") {
			return wrong
		}
	case []any:
		if !has("array") {
			return wrong
		}
		items, _ := schema["items"].(object)
		for i, item := range v {
			broken = append(broken, conforms(fmt.Sprint(at, "/", i), item, items, defs)...)
		}
	case object:
		if !has("object") {
			return wrong
		}
		properties, _ := schema["properties"].(object)
		for name, value := range v {
			property, ok := properties[name].(object)
			if more, isSchema := schema["additionalProperties"].(object); !ok && isSchema {
				property, ok = more, true
			}
			if !ok && schema["additionalProperties"] == false {
				broken = append(broken, at+"/"+name+" is not described")
			} else if ok {
				broken = append(broken, conforms(at+"/"+name, value, property, defs)...)
			}
		}
		required, _ := schema["required"].([]any)
		for _, name := range required {
			if _, ok := v[name.(string)]; !ok {
				broken = append(broken, fmt.Sprintf("%s/%s is missing", at, name))
			}
		}
	}
	return broken
}

// What the API answers is what its document says, endpoint by endpoint; one without a case fails.
func TestAPI_isAsItsDocumentSays(t *testing.T) {
	t.Parallel()
	s := open(t, all)
	s.running(t)
	doc := decode(t, s.page("/api/v1/openapi.json"))
	defs := doc["components"].(object)["schemas"].(object)
	letter := func() string {
		id := whole(t, s, "text <b>"+uuid.NewString())
		testkit.Exec(t, s.pool, `update soniq_dead_letter_jobs set queue = 'q' where id = $1`, id)
		return id.String()
	}
	stopped := func() string {
		letter()
		got := decode(t, s.call("POST", "/replays", `{"filter": {"queue": ["q"]}, "canary": 1}`).text)
		return got["operation"].(string)
	}
	cases := map[string]func() (path, body string){
		"GET /groups":            func() (string, string) { letter(); return "/groups?queue=q&all=1", "" },
		"GET /dead-letters":      func() (string, string) { return "/dead-letters?queue=q", "" },
		"GET /dead-letters/{id}": func() (string, string) { return "/dead-letters/" + letter(), "" },
		"POST /dead-letters/{id}/reveal": func() (string, string) {
			return "/dead-letters/" + letter() + "/reveal", `{"comment": "why"}`
		},
		"POST /dead-letters/{id}/replay": func() (string, string) {
			return "/dead-letters/" + letter() + "/replay", `{"edits": [{"path": "list", "value": [2]}], "queue": "other", "comment": "c"}`
		},
		"POST /dead-letters/{id}/tags":   func() (string, string) { return "/dead-letters/" + letter() + "/tags", `{"tags": {"a": "b"}}` },
		"POST /dead-letters/{id}/delete": func() (string, string) { return "/dead-letters/" + letter() + "/delete", "" },
		"POST /replays":                  func() (string, string) { letter(); return "/replays", `{"filter": {"queue": ["q"]}}` },
		"GET /operations/{id}":           func() (string, string) { return "/operations/" + stopped(), "" },
		"POST /operations/{id}/stop":     func() (string, string) { return "/operations/" + stopped() + "/stop", "" },
		"POST /operations/{id}/resume":   func() (string, string) { return "/operations/" + stopped() + "/resume", "" },
	}
	for path, methods := range doc["paths"].(object) {
		for method, about := range methods.(object) {
			name := strings.ToUpper(method) + " " + path
			given := cases[name]
			if given == nil {
				t.Errorf("%s has no case here", name)
				continue
			}
			delete(cases, name)
			schema := func(status string) object {
				return about.(object)["responses"].(object)[status].(object)["content"].(object)["application/json"].(object)["schema"].(object)
			}
			at, body := given()
			a := s.call(strings.ToUpper(method), at, body)
			a.wantStatus(t, name, http.StatusOK)
			for _, broken := range conforms(name, decode(t, a.text), schema("200"), defs) {
				t.Error(broken)
			}
			clitest.CheckSafe(t, a.text)
			// Its errors too.
			for _, gone := range []string{uuid.NewString(), "x"} {
				if strings.Contains(path, "{id}") {
					a := s.call(strings.ToUpper(method), strings.Replace(path, "{id}", gone, 1), `{"tags": {"a": "b"}}`)
					if a.StatusCode != http.StatusNotFound && a.StatusCode != http.StatusBadRequest {
						t.Errorf("%s of %s: %s %s", name, gone, a.Status, a.text)
					}
					for _, broken := range conforms(name, decode(t, a.text), schema(fmt.Sprint(a.StatusCode)), defs) {
						t.Error(broken)
					}
				}
			}
		}
	}
	for name := range cases {
		t.Errorf("%s is not in the document", name)
	}
}

func decode(t *testing.T, text string) (v object) {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return v
}

func TestAPI_badRequests_sayWhy_andChangeNothing(t *testing.T) {
	t.Parallel()
	s := open(t, seeAndDo)
	s.running(t)
	id := clitest.Seed(t, s.pool, clitest.Letter{Args: `{"password": "` + secret + `"}`}).String()
	for name, test := range map[string]struct{ path, body, want string }{
		"an empty filter":  {"/replays", `{}`, "filter is empty"},
		"a condition":      {"/replays", `{"filter": {"reasons": ["timeout"]}}`, "reasons"},
		"a value":          {"/replays", `{"filter": {"reason": ["x"]}}`, "reason"},
		"by a text":        {"/replays", `{"filter": {"text": ["x"]}, "dry_run": true}`, "secrets"},
		"a field":          {"/replays", `{"all": true, "cannary": 5}`, "cannary"},
		"a breaker":        {"/replays", `{"all": true, "breaker": 50}`, "breaker"},
		"no JSON":          {"/replays", `{`, "JSON"},
		"two":              {"/replays", `{"all": true, "dry_run": true} {}`, "more than one"},
		"an edit":          {"/dead-letters/" + id + "/replay", `{"edits": [{"path": "a.b.c", "value": 1}]}`, "a.b.c"},
		"an edit's path":   {"/dead-letters/" + id + "/replay", `{"edits": [{"path": "a[", "value": 1}]}`, "a["},
		"no tags":          {"/dead-letters/" + id + "/tags", `{}`, "tags"},
		"an operation":     {"/operations/x/stop", ``, "no such operation"},
		"a reveal refused": {"/dead-letters/" + id + "/reveal", `{}`, "decides who may see secrets"},
	} {
		a := s.call("POST", test.path, test.body)
		if a.StatusCode < 400 || a.StatusCode > 404 || !strings.Contains(a.text, test.want) || strings.Contains(a.text, secret) {
			t.Errorf("%s: %s %s", name, a.Status, a.text)
		}
	}
	wantNotIn(t, "a letter", s.call("GET", "/dead-letters/"+id, "").text, secret)
	if n := testkit.Count(t, s.pool, `select (select count(*) from soniq_jobs) + (select count(*) from soniq_dead_letter_audit)`); n != 0 {
		t.Errorf("%d changes", n)
	}
	plan := decode(t, s.call("POST", "/replays", `{"all": true, "dry_run": true}`).text)
	if fmt.Sprint(plan["plan"].(object)["replay"]) != "1" || plan["operation"] != nil {
		t.Errorf("a dry run: %v", plan)
	}
	s.call("POST", "/dead-letters/"+id+"/delete", `{"comment": "why"}`).wantStatus(t, "delete", http.StatusOK)
	records, err := testclient.Queue(t, s.pool).History(t.Context(), uuid.MustParse(id))
	if err != nil || len(records) != 1 || records[0].Actor != "ada" || records[0].Comment != "why" {
		t.Errorf("the history: %+v, %v", records, err)
	}
}
