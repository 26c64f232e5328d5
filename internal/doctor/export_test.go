package doctor

// Settings are the names of the settings that are looked at.
func Settings() (names []string) {
	for _, r := range rules {
		names = append(names, r.name)
	}
	return names
}
