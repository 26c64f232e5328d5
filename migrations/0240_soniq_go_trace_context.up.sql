-- To which trace a job belongs, as W3C's headers have it: traceparent and, where there is one, a space and
-- tracestate. Whatever else stands there counts as nothing. NULL, as the programs before leave it, takes no
-- room; the tables are not rewritten, and no index has the column.
alter table public.soniq_jobs add column if not exists trace_context text;
alter table public.soniq_dead_letter_jobs add column if not exists trace_context text;
