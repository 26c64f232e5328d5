#!/bin/sh
# What meets: PostgreSQL 15's COPY ... TO CSV and pandas 3.1.1's read_csv with
# parse_dates, beside polars 2.1.0 and duckdb 2.0.1.
#
# Behaviour: PostgreSQL leaves the fraction out of a timestamp that falls on a
# whole second ('10:20:32+00', not '10:20:32.000000+00'). pandas takes the format
# of the first row for all rows: one such row further down and the whole column
# stays text, without an error or a warning. One in the first row does the same,
# for then all the others differ. polars and duckdb read timestamps in each case.
#
# Why it matters: of the times that now() gives, one in a million is such a row, so
# an export of jobs or dead letters works for months and then its times are text.
# Jobs scheduled for a full minute beside others bring it on the first day.
# Name the format: pandas.to_datetime(column, format="ISO8601").
. "$(dirname "$0")/lib.sh"

start_postgres timezone=UTC
python_with pandas==3.1.1 polars==2.1.0 duckdb==2.0.1 tzdata
export_csv() { "$pgbin/psql" -qX -c "copy ($1) to stdout (format csv, header)"; }

thousand="select id, timestamptz '2026-03-05 10:20:30.123457Z' + id * interval '1.000003 s' as died from generate_series(1, 1000) id"
export_csv "$thousand" >fractions.csv
export_csv "$thousand union all values (1001, timestamptz '2026-03-05 12:00:00Z')" >whole.csv
export_csv "values (0, timestamptz '2026-03-05 10:00:00Z') union all $thousand" >first.csv
sed -i '1s/.*/id,died/' first.csv

cat >read.py <<'PY'
import sys, warnings
import duckdb, pandas, polars

warnings.simplefilter("error")
column = pandas.read_csv(sys.argv[1], parse_dates=["died"])["died"]
print("pandas", column.dtype)
print("pandas ISO8601", pandas.to_datetime(column, format="ISO8601").dtype)
print("polars", polars.read_csv(sys.argv[1], try_parse_dates=True)["died"].dtype)
print("duckdb", duckdb.read_csv(sys.argv[1]).types[1])
PY
for file in fractions whole first; do "$python" read.py $file.csv >$file.out; done
types() { paste -sd, "$1.out"; }

expect "no whole second" "pandas datetime64[us, UTC],pandas ISO8601 datetime64[us, UTC],polars Datetime(time_unit='us', time_zone='UTC'),duckdb TIMESTAMP WITH TIME ZONE" "$(types fractions)"
expect "row 1,001 on one" "pandas str,pandas ISO8601 datetime64[us, UTC],polars Datetime(time_unit='us', time_zone='UTC'),duckdb TIMESTAMP WITH TIME ZONE" "$(types whole)"
expect "row 1 on one" "pandas str,pandas ISO8601 datetime64[us, UTC],polars Datetime(time_unit='us', time_zone='UTC'),duckdb TIMESTAMP WITH TIME ZONE" "$(types first)"
finish
