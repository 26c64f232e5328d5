package hooks

import "time"

// SetHold sets how long a group waits for its first digest.
func SetHold(d *Dispatcher, hold time.Duration) { d.hold = hold }

// SetEnv sets the environment in which references are looked up.
func SetEnv(d *Dispatcher, env map[string]string) {
	d.rights.getenv = func(name string) string { return env[name] }
}
