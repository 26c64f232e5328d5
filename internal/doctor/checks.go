package doctor

// The groups, in the order in which they are printed.
const (
	groupServer        = "server"
	groupSessions      = "sessions"
	groupSchema        = "schema"
	groupFleet         = "fleet"
	groupNotifications = "notifications"
)

const schemaCheck = "schema"

// Checks are all checks, in the order in which they are made.
func Checks() []Check {
	return []Check{
		{Name: "server", Group: groupServer, About: "the version, a standby, the encoding of the database", fine: "PostgreSQL 14 or later, a primary, UTF-8", run: checkServer},
		{Name: "settings", Group: groupServer, About: "settings of the server, the database and roles that stop or slow down Soniq", fine: "no setting is in the way", run: checkSettings},
		{Name: "durability", Group: groupServer, About: "settings and tables that lose jobs in a crash", fine: "what is committed survives a crash", run: checkDurability},
		{Name: "connections", Group: groupServer, About: "how many connections are left", fine: "there are connections to spare", run: checkConnections},
		{Name: "clock", Group: groupServer, About: "this machine's clock against the database's", fine: "this machine's clock agrees with the database's", run: checkClock},

		{Name: "transactions", Group: groupSessions, About: "old transactions, also prepared ones, and what they hold back", fine: "no transaction is old", run: checkTransactions},
		{Name: "slots", Group: groupSessions, About: "replication slots that nobody uses", fine: "no unused slot holds anything back", run: checkSlots},
		{Name: "locks", Group: groupSessions, About: "who holds up others on Soniq's tables", fine: "nobody waits for a lock", tables: true, run: checkLocks},

		{Name: schemaCheck, Group: groupSchema, About: "whether the tables are there and of this release", fine: "the tables are this release's", run: checkSchema},
		{Name: "drift", Group: groupSchema, About: "tables, columns, indexes, triggers and functions that differ from the schema", fine: "all is as the schema has it", tables: true, run: checkDrift},
		{Name: "additions", Group: groupSchema, About: "triggers, foreign keys and rules that others put on the tables", fine: "nobody added anything", tables: true, run: checkAdditions},
		{Name: "trust", Group: groupSchema, About: "ways for other roles to run code as Soniq", fine: "no other role gets in", tables: true, run: checkTrust},
		{Name: "rights", Group: groupSchema, About: "what the role lacks to run a worker", fine: "the role may run a worker", tables: true, run: checkRights},
		{Name: "identity", Group: groupSchema, About: "whether this database is a copy, and sequences that are behind", fine: "the database is the one it was", tables: true, run: checkIdentity},
		{Name: "vacuum", Group: groupSchema, About: "dead rows, bloat and autovacuum of the tables", fine: "the tables are vacuumed", tables: true, run: checkVacuum},

		{Name: "workers", Group: groupFleet, About: "workers that are silent, and mixed versions", fine: "all workers are heard from", tables: true, run: checkWorkers},
		{Name: "jobs", Group: groupFleet, About: "running jobs without a worker, and outcomes that could not be written", fine: "every running job has its worker", tables: true, run: checkJobs},
		{Name: "queues", Group: groupFleet, About: "due jobs that no live worker serves, or that wait", fine: "no due job waits", tables: true, run: checkQueues},
		{Name: "dead-letters", Group: groupFleet, About: "many dead letters, and more than usual", fine: "no more jobs die than before", tables: true, run: checkDeadLetters},
		{Name: "hooks", Group: groupFleet, About: "hooks that are disabled, fail, or that nobody sends", fine: "every hook is sent", tables: true, run: checkHooks},

		{Name: "notify", Group: groupNotifications, About: "whether notifications arrive, through the URL and the listen URL", fine: "notifications arrive", trips: 3, run: checkNotify},
		{Name: "notify-queue", Group: groupNotifications, About: "how full the server's queue of notifications is", fine: "the queue of notifications is empty, or nearly", run: checkNotifyQueue},
	}
}
