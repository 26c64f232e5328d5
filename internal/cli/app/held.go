package app

import "soniq/internal/incarnation"

// NoteHeld notes on standard error that hooks hold because the database is a copy, and reports whether they
// do. Where it can't tell it says nothing: the role may have no right to the table.
func (a *App) NoteHeld() bool {
	pool, err := a.Open()
	if err != nil {
		return false
	}
	schema, err := a.TableSchema()
	if err != nil {
		return false
	}
	v, err := incarnation.Read(a.Ctx, schema.Pool(pool))
	reason := v.Held()
	if err != nil || reason == "" {
		return false
	}
	a.Note("Hooks hold: %s: %s", reason, incarnation.Remedy)
	return true
}
