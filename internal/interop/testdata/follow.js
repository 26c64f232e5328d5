// Follows the dead letters as docs/channel.md says, and tells what it learns;
// see follow.py.

const { Client } = require('pg')

const catchUp = `
select id, moved_xid::text as xid
from soniq_dead_letter_jobs
where (moved_xid, id) > ($1::text::xid8, $2::uuid)
  and moved_xid < pg_snapshot_xmin(pg_current_snapshot())
order by moved_xid, id
limit 100`

let position = ['0', '00000000-0000-0000-0000-000000000000']

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

async function follow() {
  const client = new Client({
    connectionString: process.env.SONIQ_DATABASE_URL,
    application_name: 'follower',
  })
  let lost = false
  let wake = () => {}
  client.on('error', () => {
    lost = true
    wake()
  })
  client.on('notification', ({ payload }) => {
    console.log('announced', JSON.parse(payload).id)
    wake()
  })
  try {
    await client.connect()
    await client.query('listen soniq_dead_letter')
    console.log('listening')
    while (!lost) {
      // Before the query: what is announced during it counts.
      const woken = new Promise((resolve) => { wake = resolve })
      for (;;) {
        const { rows } = await client.query(catchUp, position)
        if (rows.length === 0) break
        for (const row of rows) {
          console.log('read', row.id)
          position = [row.xid, row.id]
        }
      }
      await Promise.race([woken, pause(500)])
    }
  } finally {
    await client.end().catch(() => {})
  }
}

async function main() {
  for (;;) {
    await follow().catch(() => {})
    await pause(50)
  }
}

main()
