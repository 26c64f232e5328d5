#!/bin/sh
# What meets: go-quartz 0.15.2's CronTrigger and a zone whose clocks go forward at
# midnight (America/Santiago, 2026-09-06: 00:00 becomes 01:00), beside
# robfig/cron 3.0.1.
#
# Behaviour: a daily midnight job fires at 23:00 of the evening before, so twice
# on 5 September and not at all on 6 September. The rule for a missing time is
# not the same all day: where 02:30 is missing (Europe/Berlin, 29 March) go-quartz
# fires later, at 03:30. robfig/cron skips the day in both zones.
#
# Why it matters: "close yesterday's books at midnight" runs while the day it
# closes has an hour to go, and a key made of the date names the wrong day twice.
. "$(dirname "$0")/lib.sh"

go_with github.com/reugn/go-quartz@v0.15.2 github.com/robfig/cron/v3@v3.0.1
cat >go/main.go <<'GO'
package main

import (
	"fmt"
	"time"
	_ "time/tzdata"

	"github.com/reugn/go-quartz/quartz"
	"github.com/robfig/cron/v3"
)

func show(name string, minute, hour int, zone *time.Location, at time.Time) {
	trigger, err := quartz.NewCronTriggerWithLoc(fmt.Sprintf("0 %d %d * * ?", minute, hour), zone)
	if err != nil {
		panic(err)
	}
	schedule, _ := cron.ParseStandard(fmt.Sprintf("%d %d * * *", minute, hour))
	fmt.Print(name, " go-quartz:")
	for next, i := at.UnixNano(), 0; i < 3; i++ {
		next, _ = trigger.NextFireTime(next)
		fmt.Print(time.Unix(0, next).In(zone).Format(" 01-02T15:04-07:00"))
	}
	fmt.Print("\n", name, " robfig:")
	for next, i := at, 0; i < 3; i++ {
		next = schedule.Next(next)
		fmt.Print(next.Format(" 01-02T15:04-07:00"))
	}
	fmt.Println()
}

func main() {
	santiago, _ := time.LoadLocation("America/Santiago")
	berlin, _ := time.LoadLocation("Europe/Berlin")
	show("00:00 Santiago", 0, 0, santiago, time.Date(2026, 9, 4, 12, 0, 0, 0, santiago))
	show("02:30 Berlin", 30, 2, berlin, time.Date(2026, 3, 27, 12, 0, 0, 0, berlin))
}
GO
go_run >out
line() { sed -n "$1p" out; }

expect "midnight, missing on 6 September" \
	"00:00 Santiago go-quartz: 09-05T00:00-04:00 09-05T23:00-04:00 09-07T00:00-03:00" "$(line 1)"
expect "midnight, missing on 6 September" \
	"00:00 Santiago robfig: 09-05T00:00-04:00 09-07T00:00-03:00 09-08T00:00-03:00" "$(line 2)"
expect "02:30, missing on 29 March" \
	"02:30 Berlin go-quartz: 03-28T02:30+01:00 03-29T03:30+02:00 03-30T02:30+02:00" "$(line 3)"
expect "02:30, missing on 29 March" \
	"02:30 Berlin robfig: 03-28T02:30+01:00 03-30T02:30+02:00 03-31T02:30+02:00" "$(line 4)"
finish
