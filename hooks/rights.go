package hooks

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
)

// OwnPrefix begins the names of variables that every hook may use.
const OwnPrefix = "SONIQ_HOOK_"

// reserved are Soniq's own variables with that prefix. No hook may use them:
// the key would be sent to whoever a row names.
var reserved = []string{"SONIQ_HOOK_KEY", "SONIQ_HOOK_ENV", "SONIQ_HOOK_ALLOW"}

// rights are what the rows of soniq_hooks may use of this process. Whoever may
// write to that table must get no more than this by it. Hooks that a
// configuration or a program declares are not bound by them.
type rights struct {
	env    []string // Config.Env
	allow  []netip.Prefix
	exec   bool
	keys   *Keyring
	getenv func(string) string
}

// NeedsError says what a dispatcher must be started with to send to a hook of
// the table soniq_hooks. Until one is, the hook's deliveries wait.
type NeedsError struct {
	// Flags are those of 'soniq worker' and 'soniq hooks run', such as
	// '--hook-env ORDERS_TOKEN' for [Config].Env.
	Flags []string
}

func (e *NeedsError) Error() string {
	return "it needs a dispatcher that was started with " + strings.Join(e.Flags, " ")
}

// variableName is what a shell can set.
var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,199}$`)

// CheckVariable returns what is wrong with the name of a variable that hooks
// are to be given.
func CheckVariable(name string) error {
	switch {
	case !variableName.MatchString(name):
		return fmt.Errorf("%q can't be the name of a variable", name)
	case slices.Contains(reserved, name):
		return fmt.Errorf("%s is Soniq's own: no hook may use it", name)
	}
	return nil
}

// reference is the variable that text refers to.
func reference(text string) (name string, ok bool) {
	if isSealed(text) {
		return "", false
	}
	return strings.CutPrefix(text, "env:")
}

// values are what a hook holds that may be a reference.
func (s secretsOf) values() []string {
	values := []string{s.url, s.secrets}
	for _, value := range s.headers {
		values = append(values, value)
	}
	return values
}

// check returns a [*NeedsError] for a row that asks for more than r grants.
func (r *rights) check(s secretsOf, allow []string) error {
	var flags []string
	for _, value := range s.values() {
		name, ok := reference(value)
		if !ok || !variableName.MatchString(name) {
			continue // resolve says so
		}
		if slices.Contains(reserved, name) {
			return CheckVariable(name)
		}
		if !strings.HasPrefix(name, OwnPrefix) && !slices.Contains(r.env, name) {
			flags = append(flags, "--hook-env "+name)
		}
	}
	networks, err := ParseNetworks(allow)
	if err != nil {
		return err
	}
	for _, p := range networks {
		if !allPublic(p) && !slices.ContainsFunc(r.allow, func(ours netip.Prefix) bool { return within(ours, p) }) {
			flags = append(flags, "--hook-allow "+p.String())
		}
	}
	if len(flags) == 0 {
		return nil
	}
	slices.Sort(flags)
	return &NeedsError{slices.Compact(flags)}
}

// within reports whether all of inner is in outer.
func within(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}

// resolve is s with what its references stand for.
func (r *rights) resolve(s secretsOf) (secretsOf, error) {
	var failed error
	one := func(text string) string {
		name, ok := reference(text)
		if !ok {
			return text
		}
		value := r.getenv(name)
		if value == "" && failed == nil {
			failed = &notSetError{cut(name, 200)}
		}
		return value
	}
	resolved := secretsOf{url: one(s.url), secrets: one(s.secrets)}
	if len(s.headers) > 0 {
		resolved.headers = map[string]string{}
	}
	for name, value := range s.headers {
		resolved.headers[name] = one(value)
	}
	return resolved, failed
}

// notSetError is about a variable that may be set where another dispatcher
// runs.
type notSetError struct{ name string }

func (e *notSetError) Error() string { return "the variable " + e.name + " is not set" }

// elsewhere reports whether err, of a hook that can't be sent to, is about this
// process: another dispatcher may be able to.
func elsewhere(err error) bool {
	var missing *notSetError
	var needs *NeedsError
	return errors.As(err, &missing) || errors.As(err, &needs) || errors.Is(err, ErrExecNotAllowed) || errors.Is(err, ErrSealed)
}

// commandEnviron is the environment of commands: this process's, without the
// keys that seal other hooks' secrets.
func commandEnviron() []string {
	return slices.DeleteFunc(os.Environ(), func(pair string) bool { return strings.HasPrefix(pair, "SONIQ_HOOK_KEY=") })
}
