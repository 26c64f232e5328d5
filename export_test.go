package soniq

// What the schema's text says that it makes.
var (
	ObjectNames  = objectNames
	FunctionsSQL = functionsSQL
)

// FunctionKeys are the functions, by name and types.
func FunctionKeys() map[string]bool {
	byKey, _ := (&home{}).definitions()
	keys := map[string]bool{}
	for key, d := range byKey {
		if !d.gone {
			keys[key] = d.definer
		}
	}
	return keys
}

// Statements splits SQL of ours.
var Statements = statements
