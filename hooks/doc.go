// Package hooks tells others of dead letters: by webhook, on Slack, in the log,
// by a command, or by a [Hook] of your own.
//
// What is to be sent stands in the table soniq_hook_deliveries, the outbox. Its
// rows are written by triggers in the transaction of the death, one for each
// hook of soniq_hooks that wants to hear of it. A [Dispatcher], of which every
// worker runs one, sends them:
//
//	          +------- retry -------+
//	          v                     |
//	pending --> lease --> send --> finish --> delivered
//	          ^            |        |
//	          +-- expired -+        +-------> failed
//
// A lease belongs to one dispatcher of the fleet, and what it finds out is
// written only while it holds the lease. One that dies leaves a lease that
// expires: the delivery is sent again, with the same id. So each delivery
// arrives at least once, and twice only where a process or a connection died
// between the sending and the mark.
package hooks
