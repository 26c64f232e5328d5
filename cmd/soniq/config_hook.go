package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"soniq"
	"soniq/deadletter/classify"
	"soniq/hooks"
	"soniq/internal/cli/app"
	"soniq/internal/handler"
	"soniq/internal/webhook"
)

// hookSpec is a hook that a configuration file or the environment declares.
type hookSpec struct {
	hooks.Spec
	// line is where it stands in the configuration file; 0 for the environment.
	line int
}

// target is where it sends to, without secrets.
func (s *hookSpec) target() string { return cmp.Or(s.Target(), "-") }

// The variables that declare hooks without a file, and the names that these
// get.
const (
	slackVariable  = handler.SlackVariable
	urlVariable    = handler.WebhookVariable
	secretVariable = handler.WebhookSecretVariable
	allowVariable  = "SONIQ_HOOKS_ALLOW"
	slackName      = "env-slack"
	webhookName    = "env-webhook"
)

// environmentHooks are those that the environment declares. They may reach the
// private networks that it says for them (SONIQ_HOOKS_ALLOW), and those that all
// hooks may (--hook-allow).
func environmentHooks(getenv func(string) string, forAll []string) (specs []hookSpec, err error) {
	allow := slices.Clone(forAll)
	for _, network := range strings.Split(getenv(allowVariable), ",") {
		if network = strings.TrimSpace(network); network != "" {
			allow = append(allow, network)
		}
	}
	if getenv(slackVariable) != "" {
		specs = append(specs, hookSpec{Spec: hooks.Spec{
			Name: slackName, Kind: hooks.Slack, URL: referencePrefix + slackVariable, Allow: allow,
		}})
	}
	switch {
	case getenv(urlVariable) == "":
	case getenv(secretVariable) == "":
		return nil, app.Usagef("%s is set, but not %s; make one with: echo whsec_$(openssl rand -base64 32)", urlVariable, secretVariable)
	default:
		specs = append(specs, hookSpec{Spec: hooks.Spec{
			Name: webhookName, Kind: hooks.Webhook, URL: referencePrefix + urlVariable, Secrets: referencePrefix + secretVariable, Allow: allow,
		}})
	}
	for _, s := range specs {
		if err := s.Check(); err != nil {
			return nil, app.Usagef("%s: %w", allowVariable, err)
		}
		for _, check := range []struct {
			reference string
			parse     func(string) error
		}{{s.URL, checkHookURL}, {s.Secrets, checkHookSecret}} {
			if name, ok := strings.CutPrefix(check.reference, referencePrefix); ok {
				if err := check.parse(getenv(name)); err != nil {
					return nil, app.Usagef("%s: %w", name, err)
				}
			}
		}
	}
	return specs, nil
}

func checkHookURL(text string) error {
	_, err := hooks.ParseURL(text)
	return err
}

func checkHookSecret(text string) error {
	_, err := webhook.ParseSecrets(text)
	return err
}

// addEnvironmentHooks adds those of the environment to the file's.
func (f *workerFile) addEnvironmentHooks(getenv func(string) string, forAll []string) error {
	specs, err := environmentHooks(getenv, forAll)
	if err != nil {
		return err
	}
	for _, spec := range specs {
		if i := slices.IndexFunc(f.hooks, func(s hookSpec) bool { return s.Name == spec.Name }); i >= 0 {
			return app.Usagef("%s:%d: %s: the environment has a hook of that name; give this one another", f.path, f.hooks[i].line, spec.Name)
		}
		f.hooks = append(f.hooks, spec)
	}
	return nil
}

// hookOrigin is where a hook was declared.
func (f *workerFile) hookOrigin(spec *hookSpec) string {
	if spec.line == 0 {
		return "the environment"
	}
	return fmt.Sprintf("%s:%d", f.path, spec.line)
}

// declare hands the hooks of the configuration over to the dispatcher and to
// the table.
func declare(a *app.App, d *hooks.Dispatcher, file *workerFile) error {
	if len(file.hooks) == 0 {
		return nil
	}
	pool, err := a.Open()
	if err != nil {
		return err
	}
	if err := soniq.Check(a.Ctx, pool, soniq.Config{}); err != nil {
		return err
	}
	specs := make([]hooks.Spec, len(file.hooks))
	for i := range file.hooks {
		specs[i] = file.hooks[i].Spec
	}
	if err := d.Declare(a.Ctx, specs...); err != nil {
		var wrong *hooks.DeclareError
		if errors.As(err, &wrong) && errors.Is(err, hooks.ErrExists) {
			i := slices.IndexFunc(file.hooks, func(s hookSpec) bool { return s.Name == wrong.Hook })
			return fmt.Errorf("%s: there is a hook %q already that 'soniq hooks add' made; give this one another name, or remove that one",
				file.hookOrigin(&file.hooks[i]), wrong.Hook)
		}
		return err
	}
	for i := range file.hooks {
		spec := &file.hooks[i]
		a.Log.Info("hook is declared", "hook", spec.Name, "kind", string(spec.Kind), "target", spec.target(), "from", file.hookOrigin(spec))
	}
	return nil
}

// hooks reads the section of that name.
func (r *configReader) hooks(n *yaml.Node, file *workerFile) {
	for _, entry := range r.entries(n, "hooks") {
		if strings.TrimSpace(entry.key) == "" {
			r.wrong(entry.keyNode, "a hook's name must not be empty")
			continue
		}
		file.hooks = append(file.hooks, r.hook(entry))
	}
}

// hook reads one entry of 'hooks'. References are left as they are: the
// dispatcher looks them up each time.
func (r *configReader) hook(entry configEntry) hookSpec {
	spec := hookSpec{line: entry.keyNode.Line}
	spec.Name = entry.key
	if resolve(entry.value).Kind != yaml.MappingNode {
		r.wrong(entry.keyNode, "%s: must be a mapping with webhook: URL, slack: URL, exec: COMMAND or log: true, not %s", entry.key, kind(entry.value))
		return spec
	}
	at := func(key string) string { return entry.key + ": " + key }
	// Where the keys stand that only some kinds have.
	var kinds []hooks.Kind
	only := map[hooks.Field]*yaml.Node{}
	is := func(kind hooks.Kind) { kinds, spec.Kind = append(kinds, kind), kind }
	meant := r.fields(entry.value, entry.key+": ", map[string]func(*yaml.Node){
		"webhook": func(n *yaml.Node) { is(hooks.Webhook); spec.URL = r.hookReference(n, at("webhook"), checkHookURL) },
		"slack":   func(n *yaml.Node) { is(hooks.Slack); spec.URL = r.hookReference(n, at("slack"), checkHookURL) },
		"exec":    func(n *yaml.Node) { is(hooks.Exec); spec.Command = r.text(n, at("exec")) },
		"log": func(n *yaml.Node) {
			is(hooks.Log)
			if on, ok := r.boolean(n, at("log")); ok && !on {
				r.wrong(n, "%s must be true; to stop a hook, take it out, or use 'soniq hooks disable'", at("log"))
			}
		},
		"secret": func(n *yaml.Node) {
			only[hooks.FieldSecret] = n
			spec.Secrets = r.hookReference(n, at("secret"), checkHookSecret)
			if spec.Secrets != "" && !strings.HasPrefix(spec.Secrets, referencePrefix) {
				r.wrong(n, "%s must be env:NAME: no secret belongs into a file", at("secret"))
			}
		},
		"headers":      func(n *yaml.Node) { only[hooks.FieldHeaders] = n; spec.Headers = r.hookHeaders(n, at("headers")) },
		"include_args": func(n *yaml.Node) { only[hooks.FieldArgs] = n; spec.Args, _ = r.boolean(n, at("include_args")) },
		"allow":        func(n *yaml.Node) { only[hooks.FieldAllow] = n; spec.Allow = r.networks(n, at("allow")) },
		"base_url":     func(n *yaml.Node) { only[hooks.FieldBaseURL] = n; spec.BaseURL = r.baseURL(n, at("base_url")) },
		"events":       func(n *yaml.Node) { spec.Events = r.events(n, at("events")) },
		"jobs":         func(n *yaml.Node) { spec.Jobs = r.names(n, at("jobs")) },
		"queues":       func(n *yaml.Node) { spec.Queues = r.names(n, at("queues")) },
		"reasons":      func(n *yaml.Node) { spec.Reasons = typed[classify.Reason](r.names(n, at("reasons"))) },
		"tags":         func(n *yaml.Node) { spec.Tags = r.tags(n, at("tags")) },
	})
	switch {
	case len(kinds) > 1:
		r.wrong(entry.keyNode, "%s: has both %s and %s; a hook is one of them", entry.key, kinds[0], kinds[1])
	case len(kinds) == 1:
		for _, field := range slices.Sorted(maps.Keys(only)) {
			if !spec.Kind.Uses(field) {
				r.wrong(only[field], "%s is for %s, not for %s", at(string(field)), joined(hooks.KindsWith(field), " and "), spec.Kind)
			}
		}
		if spec.Kind.Uses(hooks.FieldSecret) && only[hooks.FieldSecret] == nil && !slices.Contains(meant, "secret") {
			r.wrong(entry.keyNode, "%s: has no secret: env:NAME to sign by; make one with: echo whsec_$(openssl rand -base64 32)", entry.key)
		}
	case slices.ContainsFunc(meant, func(key string) bool { return slices.Contains(hooks.Kinds(), hooks.Kind(key)) }):
		// Misspelt; that has been said.
	default:
		r.wrong(entry.keyNode, "%s: says nothing to tell by: give it webhook: URL, slack: URL, exec: COMMAND or log: true", entry.key)
	}
	return spec
}

// hookReference reads text that may be a reference, which stays one. What it
// stands for is checked, where hooks are sent from here.
func (r *configReader) hookReference(n *yaml.Node, where string, check func(string) error) string {
	text := r.text(n, where)
	if text == "" {
		return ""
	}
	value := text
	if strings.HasPrefix(text, referencePrefix) {
		if !r.sendsHooks {
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

func (r *configReader) hookHeaders(n *yaml.Node, where string) map[string]string {
	headers, lines := map[string]string{}, map[string]int{}
	for _, entry := range r.entries(n, where) {
		name := http.CanonicalHeaderKey(entry.key)
		if line, ok := lines[name]; ok {
			r.wrong(entry.keyNode, "%s: %q stands in line %d already", where, entry.key, line)
			continue
		}
		lines[name] = entry.keyNode.Line
		value := r.hookReference(entry.value, where+": "+entry.key, func(value string) error { return hooks.CheckHeader(name, value) })
		if value != "" {
			headers[name] = value
		}
	}
	return headers
}

func (r *configReader) networks(n *yaml.Node, where string) []string {
	networks := r.names(n, where)
	for _, item := range resolve(n).Content {
		network := resolve(item).Value
		if !slices.Contains(networks, network) {
			continue // that has been said
		}
		if err := (&hooks.Spec{Name: "-", Kind: hooks.Slack, URL: someURL, Allow: []string{network}}).Check(); err != nil {
			r.wrong(item, "%s: %s", where, err)
		}
	}
	return networks
}

func (r *configReader) baseURL(n *yaml.Node, where string) string {
	text := r.text(n, where)
	if text == "" {
		return ""
	}
	if err := (&hooks.Spec{Name: "-", Kind: hooks.Slack, URL: someURL, BaseURL: text}).Check(); err != nil {
		r.wrong(n, "%s: %s", where, err)
	}
	return text
}

func (r *configReader) events(n *yaml.Node, where string) []hooks.EventType {
	events := typed[hooks.EventType](r.names(n, where))
	for _, item := range resolve(n).Content {
		event := hooks.EventType(resolve(item).Value)
		if err := event.Check(); slices.Contains(events, event) && err != nil {
			r.wrong(item, "%s %s", where, err)
		}
	}
	return events
}

// typed is a list of texts as one of T.
func typed[T ~string](list []string) []T {
	var typed []T
	for _, item := range list {
		typed = append(typed, T(item))
	}
	return typed
}

// joined is the list in one text.
func joined[T ~string](list []T, separator string) string {
	texts := make([]string, len(list))
	for i, item := range list {
		texts[i] = string(item)
	}
	return strings.Join(texts, separator)
}

func (r *configReader) tags(n *yaml.Node, where string) map[string]string {
	tags := map[string]string{}
	for _, entry := range r.entries(n, where) {
		if value := r.text(entry.value, where+": "+entry.key); value != "" {
			tags[entry.key] = value
		}
	}
	return tags
}

// filterText is what a hook is told of, in a line.
func (s *hookSpec) filterText() string {
	var parts []string
	for _, part := range []struct {
		name, list string
	}{{"events", joined(s.Events, ", ")}, {"jobs", joined(s.Jobs, ", ")}, {"queues", joined(s.Queues, ", ")}, {"reasons", joined(s.Reasons, ", ")}} {
		if part.list != "" {
			parts = append(parts, part.name+" "+part.list)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(s.Tags)) {
		parts = append(parts, "tag "+key+"="+s.Tags[key])
	}
	return cmp.Or(strings.Join(parts, "; "), "all dead letters")
}
