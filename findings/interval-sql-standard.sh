#!/bin/sh
# What meets: PostgreSQL 15's IntervalStyle = sql_standard (set for a role, as
# ALTER ROLE ... SET allows) and the drivers psycopg2 2.9.13, pgjdbc 42.7.8 and
# psycopg 3.3.9.
#
# Behaviour: the interval '1 day 02:03:04' arrives as the text '1 2:03:04'.
# psycopg2 reads it as 12 hours 3 minutes 4 seconds: the day's digit is put
# before the hour's. pgjdbc reads it as nothing at all: every field of the
# PGInterval is 0. Neither raises. psycopg2 refuses the style iso_8601 and
# psycopg 3 refuses both, by an error that names the style. '90 seconds' is
# read rightly by all three, so a test with a short interval sees nothing.
#
# Why it matters: retry delays, timeouts and retention times are intervals. A
# worker that reads them in its program waits 12 hours where 26 were set, or
# none. Read extract(epoch from ...) or set IntervalStyle in the session.
. "$(dirname "$0")/lib.sh"

start_postgres
python_with psycopg2-binary==2.9.13 'psycopg[binary]==3.3.9'
java_with org.postgresql:postgresql:42.7.8
"$pgbin/psql" -qX -c "create role worker login" -c "alter role worker set intervalstyle = sql_standard"
export PGUSER=worker

cat >read.py <<'PY'
import importlib, sys
driver = importlib.import_module(sys.argv[1])
cursor = driver.connect("").cursor()
cursor.execute("select interval '%s', interval '%s'::text" % (sys.argv[2], sys.argv[2]))
try:
    value, text = cursor.fetchone()
    print(f"{text} is {int(value.total_seconds())} s")
except Exception as error:
    print(type(error).__name__)
PY

cat >Read.java <<'JAVA'
import java.sql.DriverManager;
import org.postgresql.util.PGInterval;

class Read {
	public static void main(String[] args) throws Exception {
		var url = "jdbc:postgresql://127.0.0.1:" + System.getenv("PGPORT") + "/postgres?user=worker";
		try (var connection = DriverManager.getConnection(url)) {
			var rows = connection.createStatement().executeQuery("select interval '" + args[0] + "'");
			rows.next();
			var value = (PGInterval) rows.getObject(1);
			System.out.println(rows.getString(1) + " is " + value.getDays() + " d " + value.getHours() + " h "
				+ value.getMinutes() + " min " + value.getWholeSeconds() + " s");
		}
	}
}
JAVA

expect "psycopg2, 1 day 02:03:04 (93784 s)" "1 2:03:04 is 43384 s" \
	"$("$python" read.py psycopg2 '1 day 02:03:04')"
expect "psycopg2, 90 seconds" "0:01:30 is 90 s" "$("$python" read.py psycopg2 '90 seconds')"
expect "pgjdbc, 1 day 02:03:04" "1 2:03:04 is 0 d 0 h 0 min 0 s" \
	"$(java -cp "$jars" Read.java '1 day 02:03:04')"
expect "pgjdbc, 90 seconds" "0:01:30 is 0 d 0 h 1 min 30 s" \
	"$(java -cp "$jars" Read.java '90 seconds')"
expect "psycopg 3, 1 day 02:03:04" "NotImplementedError" \
	"$("$python" read.py psycopg '1 day 02:03:04')"
finish
