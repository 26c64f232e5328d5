package hooks

import "time"

// SetFirstDelay sets how long a group waits for its first digest.
func SetFirstDelay(d *Dispatcher, delay time.Duration) { d.firstDelay = delay }

// SetEnv sets the environment that references are looked up in.
func SetEnv(d *Dispatcher, env map[string]string) {
	d.rights.getenv = func(name string) string { return env[name] }
}
