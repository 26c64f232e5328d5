// Package hooks sends events about dead letters to webhooks, to Slack, to the log,
// to commands and to a [Hook] of the program's own.
//
// What is to be sent stands in the table soniq_hook_deliveries, the outbox.
// Triggers write its rows in the transaction of the death: one for each hook of
// soniq_hooks whose filter matches. A [Dispatcher] sends them; every worker runs
// one:
//
//	          +------- retry -------+
//	          v                     |
//	pending --> lease --> send --> mark --> delivered
//	          ^            |        |
//	          +-- expired -+        +-----> failed
//
// A lease belongs to one dispatcher, which marks a row only while it holds the
// row's lease. If a dispatcher dies, its leases expire and the deliveries are sent
// again with the same ids. So each delivery arrives at least once. It arrives twice
// only if a process or a connection died between the sending and the mark.
//
// The files, from a hook's row to its receiver:
//
//	kind.go         the table of kinds; webhook.go, slack.go, log.go, exec.go and
//	                own.go have a kind each
//	spec.go         a hook to be added; info.go has hooks and deliveries as shown
//	store.go        adds, lists and changes hooks
//	declare.go      hooks of a configuration
//	dispatcher.go   finds the hooks that have something due
//	open.go         makes a hook from its row or configuration
//	send.go         sends what one hook has due; digest.go gathers it
//	deliver.go      one delivery, and what its result means
//	outbox.go       the statements of a dispatcher
//	maintain.go     deletes old rows and rows beyond the limits
//	rights.go       what a row may use of the dispatcher's process
//	keyring.go      sealed values; seal.go seals a hook's row
//	redact.go       keeps secrets out of answers
//	endpoint.go     HTTP requests; internal/egress says where they may go
//
// Package internal/limiter bounds how many deliveries are under way at once.
package hooks
