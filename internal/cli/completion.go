package cli

import (
	"embed"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"soniq/deadletter"
	"soniq/deadletter/classify"
	"soniq/internal/cli/app"
	"soniq/internal/cli/jobs"
	"soniq/internal/cli/terminal"
)

// The scripts ask the program itself what fits ('soniq __complete -- WORD...',
// the last word being the unfinished one), so they are never out of date.
//
//go:embed completion/soniq.bash completion/soniq.zsh completion/soniq.fish
var completionScripts embed.FS

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

func (completionCmd) Help() string {
	return `For this shell alone, or in its start-up file for all:

    source <(soniq completion bash)
    source <(soniq completion zsh)
    soniq completion fish | source`
}

func (c *completionCmd) Run(a *app.App) error {
	script, err := completionScripts.ReadFile("completion/soniq." + c.Shell)
	if err != nil {
		return err
	}
	a.Out.Printf("%s", strings.TrimSuffix(string(script), "\n"))
	return nil
}

// completeCmd is what the scripts run. It prints a candidate and, after a tab,
// what it is; nothing means that the shell may offer files.
type completeCmd struct {
	Words []string `arg:"" optional:""`
}

func (c *completeCmd) Run(a *app.App, k *kong.Context) error {
	words := c.Words
	if len(words) > 0 && words[0] == "--" {
		words = words[1:]
	}
	for _, found := range complete(k.Model.Node, words) {
		a.Out.Printf("%s\t%s", found.text, terminal.OneLine(found.help))
	}
	return nil
}

// candidate is one way to go on.
type candidate struct{ text, help string }

// flagsNode is where node's flags and arguments are: those of a default
// command are accepted without its name.
func flagsNode(node *kong.Node) *kong.Node {
	if d := node.DefaultCmd; d != nil && d.Tag.Default == "withargs" {
		return d
	}
	return node
}

// complete finds what the last of words can become.
func complete(node *kong.Node, words []string) []candidate {
	if len(words) == 0 {
		return nil
	}
	var (
		current    = words[len(words)-1]
		value      *kong.Flag // whose value comes next
		positional int
		noFlags    bool // after --
	)
	for _, word := range words[:len(words)-1] {
		switch {
		case word == "=" && value != nil:
			// bash makes three words of --flag=value.
		case value != nil:
			value = nil
		case word == "--":
			noFlags = true
		case !noFlags && len(word) > 1 && word[0] == '-':
			if flag := findFlag(node, word); flag != nil && !flag.IsBool() && !strings.Contains(word, "=") {
				value = flag
			}
		default:
			if child := findChild(node, word); child != nil && positional == 0 {
				node = child
			} else {
				positional++
			}
		}
	}
	if value != nil {
		return completeValue(value.Value, "", strings.TrimPrefix(current, "="))
	}
	if name, text, ok := strings.Cut(current, "="); ok && !noFlags && strings.HasPrefix(current, "--") {
		if flag := findFlag(node, name); flag != nil {
			return completeValue(flag.Value, name+"=", text)
		}
		return nil
	}
	if !noFlags && strings.HasPrefix(current, "-") {
		return completeFlag(node, current)
	}
	return append(completeCommand(node, current), completePositional(node, positional, current)...)
}

func completeCommand(node *kong.Node, current string) (found []candidate) {
	for _, child := range node.Children {
		switch {
		case child.Hidden || child.Type != kong.CommandNode:
		case strings.HasPrefix(child.Name, current):
			found = append(found, candidate{child.Name, firstSentence(child.Help)})
		default:
			// An alias only once it is being written: twice the same is noise.
			for _, alias := range child.Aliases {
				if current != "" && strings.HasPrefix(alias, current) {
					found = append(found, candidate{alias, firstSentence(child.Help)})
				}
			}
		}
	}
	return found
}

func completePositional(node *kong.Node, n int, current string) []candidate {
	node = flagsNode(node)
	if len(node.Positional) == 0 {
		return nil
	}
	last := len(node.Positional) - 1
	if n > last && !node.Positional[last].IsCumulative() {
		return nil
	}
	return completeValue(node.Positional[min(n, last)], "", current)
}

func completeFlag(node *kong.Node, current string) (found []candidate) {
	for _, group := range flagsNode(node).AllFlags(true) {
		for _, flag := range group {
			if name := "--" + flag.Name; strings.HasPrefix(name, current) {
				found = append(found, candidate{name, firstSentence(flag.Help)})
			}
		}
	}
	return found
}

// completeValue completes the last of a list's values.
func completeValue(value *kong.Value, prefix, current string) (found []candidate) {
	if i := strings.LastIndexByte(current, ','); i >= 0 && value.IsCumulative() {
		prefix, current = prefix+current[:i+1], current[i+1:]
	}
	for _, text := range valuesOf(value) {
		if strings.HasPrefix(text, current) {
			found = append(found, candidate{prefix + text, ""})
		}
	}
	return found
}

// valuesOf lists what a flag or an argument can be, where that is known. Not
// all have kong's enum: its complaint about a wrong value is worse than ours.
func valuesOf(value *kong.Value) []string {
	if value.Enum != "" {
		return value.EnumSlice()
	}
	switch value.Name {
	case "reason":
		var reasons []string
		for _, r := range classify.Reasons() {
			reasons = append(reasons, string(r))
		}
		return reasons
	case "status":
		return jobs.Statuses()
	case "state":
		return []string{string(deadletter.StateDead), string(deadletter.StateReplaying), string(deadletter.StateResolved)}
	case "format":
		return []string{string(deadletter.FormatJSON), string(deadletter.FormatJSONL), string(deadletter.FormatCSV)}
	default:
		return nil
	}
}

func findChild(node *kong.Node, word string) *kong.Node {
	for _, child := range node.Children {
		if !child.Hidden && (child.Name == word || slices.Contains(child.Aliases, word)) {
			return child
		}
	}
	return nil
}

// findFlag finds the flag that a word such as --limit, --limit=3 or -o names.
func findFlag(node *kong.Node, word string) *kong.Flag {
	name, _, _ := strings.Cut(strings.TrimLeft(word, "-"), "=")
	for _, group := range flagsNode(node).AllFlags(false) {
		for _, flag := range group {
			if strings.HasPrefix(word, "--") && flag.Name == name ||
				!strings.HasPrefix(word, "--") && flag.Short != 0 && strings.HasSuffix(name, string(flag.Short)) {
				return flag
			}
		}
	}
	return nil
}

func firstSentence(help string) string {
	first, _, _ := strings.Cut(help, ". ")
	return strings.TrimSuffix(first, ".")
}

// The scripts are this program's own.
func (*completionCmd) ShowsSecret() {}
