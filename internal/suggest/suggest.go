// Package suggest finds the known word that a misspelt one was probably meant to
// be.
package suggest

import (
	"fmt"
	"strings"
)

// Closest returns the word of known that word probably stands for, or "". Case, and
// the characters '_', '-', '.' and space, don't count.
func Closest(word string, known []string) string {
	// No known word is half as long, and a comparison takes quadratic time.
	const longest = 64
	if len(word) > longest {
		return ""
	}
	plain := strings.NewReplacer("_", "", "-", "", ".", "", " ", "").Replace
	word = plain(strings.ToLower(word))
	best, least := "", len(word)/3+1 // a third of a word may be wrong, and one letter of a short one
	for _, k := range known {
		if d := distance(word, plain(strings.ToLower(k))); d <= least && d < len(k) {
			best, least = k, d-1
		}
	}
	return best
}

// Question asks whether the closest of the known words was meant, as the end of an error:
// '; did you mean "list"?'. It is empty if none is close.
func Question[T ~string](word T, known []T) string {
	texts := make([]string, len(known))
	for i, k := range known {
		texts[i] = string(k)
	}
	closest := Closest(string(word), texts)
	if closest == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", closest)
}

// distance is the Levenshtein distance of a and b: how many characters must be
// inserted, deleted or replaced to turn a into b.
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
