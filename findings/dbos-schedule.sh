#!/bin/sh
# What meets: a row of DBOS's table workflow_schedules on PostgreSQL 15 and the
# SDKs that share it: @dbos-inc/dbos-sdk 5.3.0 (Node), dbos 3.4.0 (Python),
# dbos-transact-golang 1.8.0. All use plain JSON for the row's context.
#
# Behaviour: `0 0 9 13 * 5` runs on each 13th and each Friday for Python and Go
# (14 times from January to March 2026) and on Friday the 13th alone for Node
# (twice). Where they do agree on a time they don't agree on the workflow's id,
# which is what keeps a tick from running twice: Node writes
# ...T09:00:00.000Z, Python ...T09:00:00+00:00, Go ...T09:00:00Z, so each enqueues
# its own. Go can't read a row at all that the others stored without a zone: it
# scans NULL into a string.
#
# Why it matters: the schedule is the database's, so a second service in another
# language changes which days its jobs run, and runs some of them once more. A
# queue that shares rows between languages has to fix the dialect and the key.
. "$(dirname "$0")/lib.sh"

start_postgres timezone=UTC
python_with dbos==3.4.0 tzdata
node_with @dbos-inc/dbos-sdk@5.3.0
go_with github.com/dbos-inc/dbos-transact-golang/dbos@v1.8.0
"$pgbin/createdb" dbos_sys
export URL="postgresql://soniq@127.0.0.1:$PGPORT/dbos_sys?sslmode=disable"

cat >launch.py <<'PY'
import os
from dbos import DBOS, DBOSPortableJSONSerializer

DBOS(config={"name": "reports", "system_database_url": os.environ["URL"], "run_admin_server": False,
             "serializer": DBOSPortableJSONSerializer()})
DBOS.launch()
os._exit(0)
PY
cat >backfill.py <<'PY'
import os, sys
from datetime import datetime, timezone
from dbos import DBOSClient, DBOSPortableJSONSerializer

client = DBOSClient(system_database_url=os.environ["URL"], serializer=DBOSPortableJSONSerializer())
runs = client.backfill_schedule(sys.argv[1], datetime(2026, 1, 1, tzinfo=timezone.utc),
                                datetime(2026, 4, 1, tzinfo=timezone.utc))
friday = [run.workflow_id for run in runs if "2026-02-13" in run.workflow_id]
print(len(runs), "runs,", *friday, flush=True)
os._exit(0)
PY
cat >js/node.js <<'JS'
const { DBOSClient } = require('@dbos-inc/dbos-sdk')
const serializer = { name: () => 'portable_json', parse: JSON.parse, stringify: JSON.stringify }

async function main () {
  const client = await DBOSClient.create({ systemDatabaseUrl: process.env.URL, serializer })
  for (const [scheduleName, options] of [['plain', {}], ['zoned', { cronTimezone: 'UTC' }]]) {
    await client.createSchedule({
      scheduleName, workflowName: 'report', workflowClassName: '', schedule: '0 0 9 13 * 5', context: null, options
    })
  }
  const runs = await client.backfillSchedule('zoned', new Date('2026-01-01Z'), new Date('2026-04-01Z'))
  console.log(`${runs.length} runs, ${runs.map(run => run.workflowID).filter(id => id.includes('2026-02-13'))}`)
  process.exit()
}
main()
JS
cat >go/main.go <<'GO'
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/dbos-inc/dbos-transact-golang/dbos"
)

func main() {
	client, err := dbos.NewClient(context.Background(),
		dbos.ClientConfig{DatabaseURL: os.Getenv("URL"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		panic(err)
	}
	from, to := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC)
	runs, err := dbos.BackfillSchedule(client, "zoned", from, to)
	for _, id := range runs {
		if strings.Contains(id, "2026-02-13") {
			fmt.Printf("%d runs, %s\n", len(runs), id)
		}
	}
	if err != nil {
		fmt.Println(err)
	}
	_, err = dbos.BackfillSchedule(client, "plain", from, to)
	fmt.Println(err)
}
GO
"$python" launch.py >launch.log 2>&1 || { cat launch.log >&2; exit 1; }
expect "Node" "2 runs, sched-zoned-2026-02-13T09:00:00.000Z" "$(node --no-deprecation js/node.js)"
expect "Python" "14 runs, sched-zoned-2026-02-13T09:00:00+00:00" "$("$python" backfill.py zoned)"
go_run >out
expect "Go" "14 runs, sched-zoned-2026-02-13T09:00:00Z" "$(sed -n 1p out)"
expect "Go, a row without a zone" \
	"failed to scan schedule: can't scan into dest[9] (col: cron_timezone): cannot scan NULL into *string" "$(sed -n 2p out)"
expect "enqueued for 2026-02-13" 3 \
	"$("$pgbin/psql" -AtX "$URL" -c "select count(*) from dbos.workflow_status where workflow_uuid like '%2026-02-13%'")"
finish
