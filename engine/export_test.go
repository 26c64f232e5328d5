package engine

// The statements whose plans are tested.
const (
	ClaimSQL   = claimSQL
	NextDueSQL = nextDueSQL
)
