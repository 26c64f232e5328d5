package workers

// Help is the help of 'soniq worker', which has an example.
func Help() string { return (&runCmd{}).Help() }

// What --json prints.
type (
	CheckedConfig = checkedConfig
	Tried         = tried
)
