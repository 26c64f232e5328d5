#!/bin/sh
# What meets: `*/15 * * * *` in Europe/Berlin, the night the clocks go back
# (2026-10-25, 03:00+02:00 becomes 02:00+01:00), and the schedules of four queue
# and cron packages in four languages: JobRunr 8.7.0, Celery 5.7.0 (crontab),
# go-quartz 0.15.2, cron-schedule 6.0.0 (Node).
#
# Behaviour: all four lose an hour of quarter-hours, though the expression names
# no hour. JobRunr, Celery and cron-schedule run in the first pass of 02:00-02:45
# and not in the second: the next after 02:45+02:00 is 03:00+01:00. go-quartz
# runs in the second and not in the first: the next after 01:45+02:00 is
# 02:00+01:00. Either way nothing runs for 75 minutes. APScheduler 3.11.3 runs in
# both.
#
# Why it matters: a sweep, a heartbeat or a queue-lag check "every 15 minutes"
# pauses once a year, longer than an alert on it waits; and two services with the
# same expression pause at different times. Such jobs belong in UTC.
. "$(dirname "$0")/lib.sh"

java_with org.jobrunr:jobrunr:8.7.0
python_with celery==5.7.0 apscheduler==3.11.3 tzdata
node_with cron-schedule@6.0.0
go_with github.com/reugn/go-quartz@v0.15.2
mkdir java/src

cat >java/src/Fold.java <<'JAVA'
import java.time.*;
import org.jobrunr.scheduling.cron.CronExpression;

class Fold {
	public static void main(String[] args) {
		var zone = ZoneId.of("Europe/Berlin");
		var at = Instant.parse("2026-10-24T23:35:00Z");
		for (var i = 0; i < 10; i++) {
			at = new CronExpression("*/15 * * * *").next(at, at, zone);
			System.out.print(at.atZone(zone).toOffsetDateTime().toString().substring(11) + " ");
		}
	}
}
JAVA
cat >fold.py <<'PY'
import sys
from datetime import datetime, timezone
from zoneinfo import ZoneInfo
from apscheduler.triggers.cron import CronTrigger
from celery import Celery
from celery.schedules import crontab

zone = ZoneInfo("Europe/Berlin")
app = Celery()
app.conf.timezone = "Europe/Berlin"
trigger = CronTrigger.from_crontab("*/15 * * * *", timezone=zone)

def celery(at):
    left = crontab(minute="*/15", app=app, nowfun=lambda: at).remaining_estimate(at)
    return (at.astimezone(timezone.utc) + left).astimezone(zone)

def apscheduler(at):
    return trigger.get_next_fire_time(at, at)

at = datetime(2026, 10, 24, 23, 35, tzinfo=timezone.utc).astimezone(zone)
for _ in range(10):
    at = {"celery": celery, "apscheduler": apscheduler}[sys.argv[1]](at)
    print(at.isoformat()[11:16] + at.isoformat()[-6:], end=" ")
PY
cat >js/fold.mjs <<'JS'
import { parseCronExpression } from 'cron-schedule'
let at = new Date('2026-10-24T23:35:00Z')
for (let i = 0; i < 10; i++) {
  at = parseCronExpression('*/15 * * * *').getNextDate(at)
  const part = at.toLocaleString('en-GB', { timeStyle: 'short' })
  process.stdout.write(`${part}+0${-at.getTimezoneOffset() / 60}:00 `)
}
JS
cat >go/main.go <<'GO'
package main

import (
	"fmt"
	"time"
	_ "time/tzdata"

	"github.com/reugn/go-quartz/quartz"
)

func main() {
	zone, _ := time.LoadLocation("Europe/Berlin")
	trigger, err := quartz.NewCronTriggerWithLoc("0 */15 * * * ?", zone)
	if err != nil {
		panic(err)
	}
	at := time.Date(2026, 10, 24, 23, 35, 0, 0, time.UTC).UnixNano()
	for range 10 {
		at, _ = trigger.NextFireTime(at)
		fmt.Print(time.Unix(0, at).In(zone).Format("15:04-07:00 "))
	}
}
GO
first="01:45+02:00 02:00+02:00 02:15+02:00 02:30+02:00 02:45+02:00 03:00+01:00 03:15+01:00 03:30+01:00 03:45+01:00 04:00+01:00 "
second="01:45+02:00 02:00+01:00 02:15+01:00 02:30+01:00 02:45+01:00 03:00+01:00 03:15+01:00 03:30+01:00 03:45+01:00 04:00+01:00 "
both="01:45+02:00 02:00+02:00 02:15+02:00 02:30+02:00 02:45+02:00 02:00+01:00 02:15+01:00 02:30+01:00 02:45+01:00 03:00+01:00 "
expect JobRunr "$first" "$(java -cp "$jars" java/src/Fold.java 2>/dev/null)"
expect Celery "$first" "$("$python" fold.py celery)"
expect cron-schedule "$first" "$(TZ=Europe/Berlin node js/fold.mjs)"
expect go-quartz "$second" "$(go_run)"
expect APScheduler "$both" "$("$python" fold.py apscheduler)"
finish
