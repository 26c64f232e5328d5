package deadwrite

// Recounted is a query for the ids of the rows in the state dead whose work counts with
// a younger row: their replay died and is a dead letter of its own, or what they are a
// replay of was replayed again since. It reads the deaths of replays alone.
const Recounted = `
    select p.id
    from public.soniq_dead_letter_jobs r
    join public.soniq_dead_letter_jobs p on p.id = r.replay_of
    where r.replay_of is not null
      and p.state = 'dead'
      and p.replay_job_id = r.id
    union
    select r.id
    from public.soniq_dead_letter_jobs r
    join public.soniq_dead_letter_jobs p on p.id = r.replay_of
    where r.replay_of is not null
      and r.state = 'dead'
      and p.replay_job_id <> r.id`
