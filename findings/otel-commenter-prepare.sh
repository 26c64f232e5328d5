#!/bin/sh
# What meets: psycopg 3.3.9, which prepares a statement at its sixth execution,
# and opentelemetry-instrumentation-psycopg 0.66b1 with enable_commenter=True, on
# PostgreSQL 15.
#
# Behaviour: the commenter appends the span's traceparent to the text of each
# statement. psycopg counts executions by text, so the same query, run 30 times,
# is 30 queries to it and is never prepared: the server has no prepared statement,
# where it has one with the instrumentation alone. The rest of the comment is the
# same each time: opentelemetry_values=False, which leaves out the traceparent
# alone, brings the prepared statement back.
#
# Why it matters: a queue runs a handful of statements all day, and its claim is
# among the costliest to plan. Turning the comments on for tracing makes each
# claim be parsed and planned anew, with nothing in a log to say so.
. "$(dirname "$0")/lib.sh"

start_postgres
python_with 'psycopg[binary]==3.3.9' opentelemetry-instrumentation-psycopg==0.66b1 \
	opentelemetry-sdk==1.45.1
cat >claim.py <<'PY'
import psycopg
from opentelemetry import trace
from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor
from opentelemetry.sdk.trace import TracerProvider

trace.set_tracer_provider(TracerProvider())
instrumentor = PsycopgInstrumentor()

def run(name):
    connection = psycopg.connect(autocommit=True)
    for n in range(30):
        connection.cursor().execute("select %s::int", (n,))
    plain = psycopg.Cursor(connection)
    plain.execute("select count(*) from pg_prepared_statements")
    last = connection.cursor()
    last.execute("select current_query()")
    print(name, plain.fetchone()[0], "prepared, traceparent:", "traceparent" in last.fetchone()[0])

run("not instrumented:")
for name, options in [
    ("instrumented:", {}),
    ("commenter:", {"enable_commenter": True}),
    ("commenter without traceparent:",
     {"enable_commenter": True, "commenter_options": {"opentelemetry_values": False}}),
]:
    instrumentor.instrument(**options)
    run(name)
    instrumentor.uninstrument()
PY
"$python" claim.py >out
line() { sed -n "$1p" out; }

expect "30 executions" "not instrumented: 1 prepared, traceparent: False" "$(line 1)"
expect "30 executions" "instrumented: 1 prepared, traceparent: False" "$(line 2)"
expect "30 executions" "commenter: 0 prepared, traceparent: True" "$(line 3)"
expect "30 executions" "commenter without traceparent: 1 prepared, traceparent: False" "$(line 4)"
finish
