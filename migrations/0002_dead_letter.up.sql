create table if not exists public.soniq_dead_letter_jobs (
  id uuid primary key,
  job_name text not null,
  args jsonb not null,
  queue text not null,
  priority integer not null,
  max_attempts integer not null,
  attempts integer not null,
  last_error text,
  dead_letter_reason text not null,
  original_created_at timestamptz not null,
  moved_to_dead_letter_at timestamptz not null,
  resurrection_count integer default 0,
  last_resurrection_at timestamptz,
  tags jsonb,
  created_at timestamptz default now()
);

create index if not exists idx_soniq_dead_letter_jobs_moved_at
  on public.soniq_dead_letter_jobs (moved_to_dead_letter_at);

-- Python's indexes on the name, the queue and the reason alone are not made
-- here: those of 0153 begin with the same column, and each one more costs a
