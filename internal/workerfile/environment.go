package workerfile

import (
	"fmt"
	"slices"
	"strings"

	"soniq/hooks"
	"soniq/internal/handler"
)

// The variable with the private networks that hooks of the environment may reach,
// and the names of those hooks.
const (
	allowVariable = "SONIQ_HOOKS_ALLOW"
	slackName     = "env-slack"
	webhookName   = "env-webhook"
)

// AddEnvironmentHooks adds the hooks that variables of the environment declare.
// They may reach the private networks of SONIQ_HOOKS_ALLOW, and allow: those that
// all hooks may reach.
//
// Errors: what is wrong with a variable, or with a hook of the file that has the
// name of one; for the user. They show no value.
func (f *File) AddEnvironmentHooks(getenv func(string) string, allow []string) error {
	added, err := environmentHooks(getenv, allow)
	if err != nil {
		return err
	}
	for _, hook := range added {
		if i := slices.IndexFunc(f.Hooks, func(h Hook) bool { return h.Name == hook.Name }); i >= 0 {
			return fmt.Errorf("%s: %s: a hook of the environment has that name; give this one another", f.HookOrigin(&f.Hooks[i]), hook.Name)
		}
		f.Hooks = append(f.Hooks, hook)
	}
	return nil
}

func environmentHooks(getenv func(string) string, allow []string) (added []Hook, err error) {
	allow = slices.Clone(allow)
	for network := range strings.SplitSeq(getenv(allowVariable), ",") {
		if network = strings.TrimSpace(network); network != "" {
			allow = append(allow, network)
		}
	}
	if getenv(handler.SlackVariable) != "" {
		added = append(added, Hook{Spec: hooks.Spec{
			Name: slackName, Kind: hooks.Slack, URL: referencePrefix + handler.SlackVariable, Allow: allow,
		}})
	}
	switch {
	case getenv(handler.WebhookVariable) == "":
	case getenv(handler.WebhookSecretVariable) == "":
		return nil, fmt.Errorf("%s is set, but not %s; make one with: %s", handler.WebhookVariable, handler.WebhookSecretVariable, makeSecret)
	default:
		added = append(added, Hook{Spec: hooks.Spec{
			Name: webhookName, Kind: hooks.Webhook, Allow: allow,
			URL: referencePrefix + handler.WebhookVariable, Secrets: referencePrefix + handler.WebhookSecretVariable,
		}})
	}
	for _, h := range added {
		if err := h.Check(); err != nil {
			return nil, fmt.Errorf("%s: %w", allowVariable, err)
		}
		for _, check := range []struct {
			reference string
			parse     func(string) error
		}{{h.URL, checkHookURL}, {h.Secrets, checkHookSecret}} {
			if name, ok := strings.CutPrefix(check.reference, referencePrefix); ok {
				if err := check.parse(hooks.Unterminated(getenv(name))); err != nil {
					return nil, fmt.Errorf("%s: %w", name, err)
				}
			}
		}
	}
	return added, nil
}
