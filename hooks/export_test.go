package hooks

import "time"

// SetHold sets how long a group waits for its first digest.
func SetHold(d *Dispatcher, hold time.Duration) { d.hold = hold }
