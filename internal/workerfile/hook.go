package workerfile

import (
	"cmp"
	"maps"
	"net/http"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"soniq/deadletter/classify"
	"soniq/hooks"
	"soniq/internal/webhook"
)

// A Hook is a hook that a file or the environment declares.
type Hook struct {
	hooks.Spec
	// Line is where it stands in the file, from 1. 0 is the environment.
	Line int
}

// FilterText says in a line which dead letters the hook is sent.
func (h *Hook) FilterText() string {
	var parts []string
	for _, part := range []struct{ name, list string }{
		{"events", Joined(h.Events, ", ")}, {"jobs", Joined(h.Jobs, ", ")}, {"queues", Joined(h.Queues, ", ")}, {"reasons", Joined(h.Reasons, ", ")},
	} {
		if part.list != "" {
			parts = append(parts, part.name+" "+part.list)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(h.Tags)) {
		parts = append(parts, "tag "+key+"="+h.Tags[key])
	}
	return cmp.Or(strings.Join(parts, "; "), "all dead letters")
}

// hooks reads the section of that name.
func (r *reader) hooks(n *yaml.Node, file *File) {
	for _, e := range r.entries(n, "hooks") {
		if strings.TrimSpace(e.key) == "" {
			r.wrong(e.keyNode, "a hook's name must not be empty")
			continue
		}
		file.Hooks = append(file.Hooks, r.hook(e))
	}
}

// A hookReader reads one entry of 'hooks'. References are left as they are: the
// dispatcher looks them up each time.
type hookReader struct {
	*reader
	entry
	hook Hook
	// kinds are those that the entry has: one, if it is right.
	kinds []hooks.Kind
	// only has where the keys stand that not every kind has.
	only map[hooks.Field]*yaml.Node
}

const (
	hookForms  = "webhook: URL, slack: URL, exec: COMMAND or log: true"
	makeSecret = "echo whsec_$(openssl rand -base64 32)"
)

// hook reads one entry of 'hooks'.
func (r *reader) hook(e entry) Hook {
	h := &hookReader{reader: r, entry: e, hook: Hook{Line: e.keyNode.Line}, only: map[hooks.Field]*yaml.Node{}}
	h.hook.Name = e.key
	if resolve(e.value).Kind != yaml.MappingNode {
		r.wrong(e.keyNode, "%s: must be a mapping with %s, not %s", e.key, hookForms, kind(e.value))
		return h.hook
	}
	keys := h.kindKeys()
	h.settingKeys(keys)
	h.filterKeys(keys)
	h.checkKind(r.fields(e.value, e.key+": ", keys))
	return h.hook
}

// at is where a key stands, in words.
func (h *hookReader) at(key string) string { return h.key + ": " + key }

// is notes that the entry has the key of a kind.
func (h *hookReader) is(kind hooks.Kind) { h.kinds, h.hook.Kind = append(h.kinds, kind), kind }

// kindKeys are the keys that make a hook one of a kind.
func (h *hookReader) kindKeys() map[string]func(*yaml.Node) {
	hook := &h.hook
	return map[string]func(*yaml.Node){
		"webhook": func(n *yaml.Node) { h.is(hooks.Webhook); hook.URL = h.hookReference(n, h.at("webhook"), checkHookURL) },
		"slack":   func(n *yaml.Node) { h.is(hooks.Slack); hook.URL = h.hookReference(n, h.at("slack"), checkHookURL) },
		"exec":    func(n *yaml.Node) { h.is(hooks.Exec); hook.Command = h.text(n, h.at("exec")) },
		"log": func(n *yaml.Node) {
			h.is(hooks.Log)
			if on, ok := h.boolean(n, h.at("log")); ok && !on {
				h.wrong(n, "%s must be true; to stop a hook, remove it from the file, or use 'soniq hooks disable'", h.at("log"))
			}
		},
	}
}

// settingKeys adds the keys that only some kinds have.
func (h *hookReader) settingKeys(keys map[string]func(*yaml.Node)) {
	hook := &h.hook
	for field, read := range map[hooks.Field]func(*yaml.Node, string){
		hooks.FieldSecret: func(n *yaml.Node, at string) {
			hook.Secrets = h.hookReference(n, at, checkHookSecret)
			if hook.Secrets != "" && !strings.HasPrefix(hook.Secrets, referencePrefix) {
				h.wrong(n, "%s must be env:NAME: put the secret into the environment, not into the file", at)
			}
		},
		hooks.FieldHeaders: func(n *yaml.Node, at string) { hook.Headers = h.hookHeaders(n, at) },
		hooks.FieldArgs:    func(n *yaml.Node, at string) { hook.Args, _ = h.boolean(n, at) },
		hooks.FieldAllow:   func(n *yaml.Node, at string) { hook.Allow = h.networks(n, at) },
		hooks.FieldBaseURL: func(n *yaml.Node, at string) { hook.BaseURL = h.baseURL(n, at) },
	} {
		keys[string(field)] = func(n *yaml.Node) {
			h.only[field] = n
			read(n, h.at(string(field)))
		}
	}
}

// filterKeys adds the keys that say which dead letters the hook is sent.
func (h *hookReader) filterKeys(keys map[string]func(*yaml.Node)) {
	hook := &h.hook
	keys["events"] = func(n *yaml.Node) { hook.Events = h.events(n, h.at("events")) }
	keys["jobs"] = func(n *yaml.Node) { hook.Jobs = h.names(n, h.at("jobs")) }
	keys["queues"] = func(n *yaml.Node) { hook.Queues = h.names(n, h.at("queues")) }
	keys["reasons"] = func(n *yaml.Node) { hook.Reasons = h.reasons(n, h.at("reasons")) }
	keys["tags"] = func(n *yaml.Node) { hook.Tags = h.tags(n, h.at("tags")) }
}

// checkKind checks that the hook is of one kind, and has what that kind needs and
// no key of another. meant are keys that were probably misspelt.
func (h *hookReader) checkKind(meant []string) {
	isKind := func(key string) bool { return slices.Contains(hooks.Kinds(), hooks.Kind(key)) }
	switch {
	case len(h.kinds) > 1:
		h.wrong(h.keyNode, "%s: has both %s and %s; remove one of them", h.key, h.kinds[0], h.kinds[1])
	case len(h.kinds) == 1:
		kind := h.kinds[0]
		for _, field := range slices.Sorted(maps.Keys(h.only)) {
			if !kind.Uses(field) {
				h.wrong(h.only[field], "%s is for %s, not for %s", h.at(string(field)), Joined(hooks.KindsWith(field), " and "), kind)
			}
		}
		if kind.Uses(hooks.FieldSecret) && h.only[hooks.FieldSecret] == nil && !slices.Contains(meant, "secret") {
			h.wrong(h.keyNode, "%s: needs secret: env:NAME to sign with; make one with: %s", h.key, makeSecret)
		}
	case slices.ContainsFunc(meant, isKind):
		// Misspelt, which has been noted.
	default:
		h.wrong(h.keyNode, "%s: has no destination: give it %s", h.key, hookForms)
	}
}

func checkHookURL(text string) error {
	_, err := hooks.ParseURL(text)
	return err
}

func checkHookSecret(text string) error {
	_, err := webhook.ParseSecrets(text)
	return err
}

// hookReference reads text that may be a reference, which stays one. What it stands
// for is checked, if hooks are sent from here.
func (r *reader) hookReference(n *yaml.Node, where string, check func(string) error) string {
	text := r.text(n, where)
	if text == "" {
		return ""
	}
	value := text
	if strings.HasPrefix(text, referencePrefix) {
		if !r.options.Hooks {
			return text
		}
		if value = r.resolveReference(n, where); value == "" {
			return text
		}
	}
	if err := check(value); err != nil {
		r.wrong(n, "%s: %s", where, err)
	}
	return text
}

// hookHeaders reads the headers of a webhook.
func (r *reader) hookHeaders(n *yaml.Node, where string) map[string]string {
	headers := map[string]string{}
	for e := range r.headerEntries(n, where) {
		name := http.CanonicalHeaderKey(e.key)
		value := r.hookReference(e.value, where+": "+e.key, func(value string) error { return hooks.CheckHeader(name, value) })
		if value != "" {
			headers[name] = value
		}
	}
	return headers
}

// checkOne has package hooks judge one setting.
func (r *reader) checkOne(n *yaml.Node, where string, spec hooks.Spec) {
	spec.Name, spec.Kind, spec.URL = "-", hooks.Slack, anyURL
	if err := spec.Check(); err != nil {
		r.wrong(n, "%s: %s", where, err)
	}
}

// networks reads the private networks that a hook may reach.
func (r *reader) networks(n *yaml.Node, where string) []string {
	networks := r.names(n, where)
	for _, item := range resolve(n).Content {
		// What is no name is a mistake that has been noted.
		if network := resolve(item).Value; slices.Contains(networks, network) {
			r.checkOne(item, where, hooks.Spec{Allow: []string{network}})
		}
	}
	return networks
}

// reasons reads the reasons of the dead letters that a hook is sent.
func (r *reader) reasons(n *yaml.Node, where string) []classify.Reason {
	reasons := typed[classify.Reason](r.names(n, where))
	for _, item := range resolve(n).Content {
		if reason := classify.Reason(resolve(item).Value); slices.Contains(reasons, reason) {
			r.checkOne(item, where, hooks.Spec{Reasons: []classify.Reason{reason}})
		}
	}
	return reasons
}

// baseURL reads where messages link to.
func (r *reader) baseURL(n *yaml.Node, where string) string {
	text := r.text(n, where)
	if text != "" {
		r.checkOne(n, where, hooks.Spec{BaseURL: text})
	}
	return text
}

// events reads the events that a hook is sent.
func (r *reader) events(n *yaml.Node, where string) []hooks.EventType {
	events := typed[hooks.EventType](r.names(n, where))
	for _, item := range resolve(n).Content {
		event := hooks.EventType(resolve(item).Value)
		if err := event.Check(); slices.Contains(events, event) && err != nil {
			r.wrong(item, "%s %s", where, err)
		}
	}
	return events
}

// typed converts a list of texts.
func typed[T ~string](list []string) (converted []T) {
	for _, item := range list {
		converted = append(converted, T(item))
	}
	return converted
}

// Joined is [strings.Join] for a list of any texts.
func Joined[T ~string](list []T, separator string) string {
	texts := make([]string, len(list))
	for i, item := range list {
		texts[i] = string(item)
	}
	return strings.Join(texts, separator)
}

// tags reads the tags that a dead letter must have.
func (r *reader) tags(n *yaml.Node, where string) map[string]string {
	tags := map[string]string{}
	for _, e := range r.entries(n, where) {
		if value := r.text(e.value, where+": "+e.key); value != "" {
			tags[e.key] = value
		}
	}
	return tags
}
