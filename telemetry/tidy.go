package telemetry

import (
	"slices"

	"soniq/deadletter/classify"
)

// tidy makes the names of a reading values of labels. Those that become equal are counted
// together.
func (r *Reading) tidy() {
	r.Queues = merge(r.Queues, func(q *QueueReading) string {
		q.Queue = label(q.Queue)
		return q.Queue
	}, func(to *QueueReading, q QueueReading) {
		to.Due, to.Scheduled, to.Processing = to.Due+q.Due, to.Scheduled+q.Scheduled, to.Processing+q.Processing
		to.DueEstimate, to.ScheduledEstimate = to.DueEstimate+q.DueEstimate, to.ScheduledEstimate+q.ScheduledEstimate
		to.ProcessingEstimate += q.ProcessingEstimate
		to.OldestDue, to.Paused = max(to.OldestDue, q.OldestDue), to.Paused && q.Paused
	})
	r.Dead, r.Recent = mergeDead(r.Dead), mergeDead(r.Recent)
	r.Hooks = merge(r.Hooks, func(h *HookReading) string {
		h.Hook = label(h.Hook)
		return h.Hook
	}, func(to *HookReading, h HookReading) {
		to.Enabled = to.Enabled || h.Enabled
		to.Pending, to.Dropped = to.Pending+h.Pending, to.Dropped+h.Dropped
		to.OldestPending, to.Failures = max(to.OldestPending, h.OldestPending), max(to.Failures, h.Failures)
	})
}

func mergeDead(dead []DeadReading) []DeadReading {
	return merge(dead, func(d *DeadReading) DeadReading {
		d.JobName, d.Reason = label(d.JobName), reasonLabel(classify.Reason(d.Reason))
		return DeadReading{State: d.State, JobName: d.JobName, Reason: d.Reason}
	}, func(to *DeadReading, d DeadReading) { to.Count, to.Estimate = to.Count+d.Count, to.Estimate+d.Estimate })
}

// reasonLabel is a reason as the value of a label. The column takes any text.
func reasonLabel(reason classify.Reason) string {
	if !slices.Contains(classify.Reasons(), reason) {
		return Other
	}
	return string(reason)
}

// merge joins the elements with equal keys. key may change its element first.
func merge[T any, K comparable](all []T, key func(*T) K, join func(to *T, from T)) []T {
	by := map[K]int{}
	merged := all[:0]
	for _, e := range all {
		k := key(&e)
		if i, ok := by[k]; ok {
			join(&merged[i], e)
			continue
		}
		by[k] = len(merged)
		merged = append(merged, e)
	}
	return merged
}
