package dashboard

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter"
	"soniq/internal/unit"
)

// operationPage is what the page of an operation shows.
type operationPage struct {
	deadletter.Operation
	// Here: it runs in this process, which can stop it.
	Here bool
	// Running, Resumable: what can be done with it.
	Running, Resumable bool
	Percent            int64
	Stopped            string
	Picked             string
	Token              string
}

func (v *visit) operationID() (uuid.UUID, error) {
	id, err := uuid.Parse(v.r.PathValue("id"))
	if err != nil {
		return id, deadletter.ErrNoOperation
	}
	return id, nil
}

func (d *Dashboard) operation(v *visit) error {
	id, err := v.operationID()
	if err != nil {
		return err
	}
	op, err := d.queue.Operation(v.Context(), id)
	if err != nil {
		return err
	}
	page := operationPage{Operation: op.Redacted(), Here: d.runs.here(id), Stopped: stoppedText(op), Token: uuid.NewString()}
	page.Running = op.State == deadletter.OperationRunning
	page.Resumable = op.Action == deadletter.ActionReplay && op.State == deadletter.OperationStopped && time.Since(op.UpdatedAt) < deadletter.ResumableFor
	if op.Total > 0 {
		page.Percent = (op.Done + op.Skipped) * 100 / op.Total
	}
	title := map[deadletter.Action]string{deadletter.ActionReplay: "Replay of ", deadletter.ActionDelete: "Deletion of ", deadletter.ActionCleanup: "Cleanup of "}[op.Action]
	if title == "" {
		title = string(op.Action) + " of "
	}
	return v.show("operation", view{Title: title + unit.Plural(op.Total, "dead letter"), Nav: "/groups", Data: page})
}

// stoppedText says why an operation stopped.
func stoppedText(op deadletter.Operation) string {
	switch op.StoppedBy {
	case "":
		return ""
	case deadletter.StoppedByCanary:
		return "One of the first replays did not succeed, so the others were left. Look at why it died, mend the cause, and resume."
	case deadletter.StoppedByBreaker:
		return "Too many of the replays died again. Mend the cause, and resume."
	case deadletter.StoppedByLoss:
		return "Its process is gone. Resume to go on."
	case deadletter.StoppedByCaller:
		return "It was interrupted. Resume to go on."
	default:
		return "It stopped: " + deadletter.RedactText(op.StoppedBy)
	}
}

// stopOperation stops a replay after its batch.
func (d *Dashboard) stopOperation(v *visit) error {
	id, err := v.operationID()
	if err == nil {
		err = d.stopHere(v, id)
	}
	if err != nil {
		return err
	}
	return v.redirect("/operations/" + id.String())
}

// stopHere stops a replay that runs in this process. One that has ended is left as it is.
func (d *Dashboard) stopHere(v *visit, id uuid.UUID) error {
	if d.runs.stop(id) {
		return nil
	}
	op, err := d.queue.Operation(v.Context(), id)
	if err == nil && op.State == deadletter.OperationRunning {
		err = badInput("it runs in another program, which alone can stop it")
	}
	return err
}

// resumeOperation goes on with a replay that has stopped, as it was begun.
func (d *Dashboard) resumeOperation(v *visit) error {
	id, err := v.operationID()
	if err != nil {
		return err
	}
	if err := v.r.ParseForm(); err != nil {
		return err
	}
	path, err := d.runs.once(v.Context(), v.r.PostForm.Get("token"), func() (string, error) {
		return "/operations/" + id.String(), d.resumeHere(v, id, v.r.PostForm.Get("comment"))
	})
	if err != nil {
		return err
	}
	return v.redirect(path)
}

// resumeHere goes on with a replay in this process, unless it runs here already.
func (d *Dashboard) resumeHere(v *visit, id uuid.UUID, comment string) error {
	if d.runs.here(id) {
		return nil
	}
	queue := v.queue(comment)
	_, err := d.runs.replay(v.Context(), func(ctx context.Context, onProgress func(deadletter.Operation, []deadletter.Replayed)) (deadletter.ReplayResult, error) {
		return queue.ResumeReplay(ctx, id, onProgress)
	})
	if errors.Is(err, deadletter.ErrNotResumable) {
		return badInput("it can't be resumed: it is done, or too old")
	}
	return err
}
