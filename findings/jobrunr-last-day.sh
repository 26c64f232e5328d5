#!/bin/sh
# What meets: JobRunr 8.7.0's cron expressions and `L`, the last day of the month.
#
# Behaviour: `0 9 L * *` runs on the last day. In a list, which is accepted, L
# turns into the four days 28, 29, 30 and 31: `0 9 15,L * *` (the usual payroll
# days) runs on the 15th and on each of 28-31 March. `0 9 L * 5` ignores Friday
# and runs on the last day alone, though `0 9 13 * 5` is the 13th or a Friday,
# and `0 9 * * 1,5L` runs on each Monday and each Friday, not the last one.
# hashicorp/cronexpr 1.1.3 reads `15,L` as the 15th and the last day.
#
# Why it matters: an expression carried over from another scheduler is accepted
# and runs five times a month in place of two. February hides it: 28 is its last
# day, so a test of the next run after 1 February passes.
. "$(dirname "$0")/lib.sh"

java_with org.jobrunr:jobrunr:8.7.0
go_with github.com/hashicorp/cronexpr@v1.1.3
cat >Days.java <<'JAVA'
import java.time.*;
import org.jobrunr.scheduling.cron.CronExpression;

class Days {
	public static void main(String[] args) {
		var at = Instant.parse(args[1] + "T00:00:00Z");
		for (var i = 0; i < Integer.parseInt(args[2]); i++) {
			at = new CronExpression(args[0]).next(at, at, ZoneOffset.UTC);
			System.out.print(at.atZone(ZoneOffset.UTC).toLocalDate().toString().substring(5) + " ");
		}
	}
}
JAVA
cat >go/main.go <<'GO'
package main

import (
	"fmt"
	"time"

	"github.com/hashicorp/cronexpr"
)

func main() {
	at := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	for range 4 {
		at = cronexpr.MustParse("0 9 15,L * *").Next(at)
		fmt.Print(at.Format("01-02 "))
	}
}
GO
jobrunr() { java -cp "$jars" Days.java "$@" 2>/dev/null; }

expect "JobRunr L" "03-31 04-30 05-31 06-30 " "$(jobrunr '0 9 L * *' 2026-03-01 4)"
expect "JobRunr 15,L" "03-15 03-28 03-29 03-30 03-31 04-15 " "$(jobrunr '0 9 15,L * *' 2026-03-01 6)"
expect "JobRunr 15,L in February" "02-15 02-28 " "$(jobrunr '0 9 15,L * *' 2026-02-01 2)"
expect "JobRunr 13th or Friday" "03-06 03-13 03-20 03-27 " "$(jobrunr '0 9 13 * 5' 2026-03-01 4)"
expect "JobRunr last day or Friday" "03-31 04-30 05-31 06-30 " "$(jobrunr '0 9 L * 5' 2026-03-01 4)"
expect "JobRunr Monday and last Friday" "03-02 03-06 03-09 03-13 " "$(jobrunr '0 9 * * 1,5L' 2026-03-01 4)"
expect "cronexpr 15,L" "03-15 03-31 04-15 04-30 " "$(go_run)"
finish
