package main

import (
	"slices"
	"strings"
)

// synonyms are what other programs call what a configuration file has.
var synonyms = map[string]string{
	"command": "exec", "cmd": "exec", "run": "exec", "shell": "exec",
	"url": "http", "endpoint": "http", "https": "http", "webhook": "http",
	"handlers": "jobs", "tasks": "jobs", "job": "jobs",
	"attempts": "max_attempts", "retries": "retry", "backoff": "retry",
	"environment": "env", "cwd": "dir", "workdir": "dir", "exit_codes": "permanent_exit_codes",
}

// closest is the one of known that somebody who wrote word probably meant, or
// empty.
func closest(word string, known []string) string {
	// No word that is known is half as long, and to compare takes the square.
	const longest = 64
	if len(word) > longest {
		return ""
	}
	plain := strings.NewReplacer("_", "", "-", "", ".", "", " ", "").Replace
	word = strings.ToLower(word)
	if meant := synonyms[word]; slices.Contains(known, meant) {
		return meant
	}
	word = plain(word)
	best, least := "", len(word)/3+1 // a third of a word may be wrong, and one letter of a short one
	for _, k := range known {
		if d := distance(word, plain(strings.ToLower(k))); d <= least && d < len(k) {
			best, least = k, d-1
		}
	}
	return best
}

// distance is how many characters must be inserted, deleted or replaced to
// turn a into b.
func distance(a, b string) int {
	from, to := []rune(a), []rune(b)
	row := make([]int, len(to)+1)
	for j := range row {
		row[j] = j
	}
	for i, c := range from {
		diagonal := row[0]
		row[0] = i + 1
		for j, d := range to {
			cost := diagonal
			if c != d {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(to)]
}
