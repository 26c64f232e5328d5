package cli

import (
	"bytes"
	"io"
	"strings"

	"github.com/alecthomas/kong"
)

// printHelp is kong's help, in which a command that runs a default subcommand
// has the flags of that too, and may stand alone.
func printHelp(options kong.HelpOptions, ctx *kong.Context) error {
	node := ctx.Selected()
	if node == nil || node.DefaultCmd == nil {
		return kong.DefaultHelpPrinter(options, ctx)
	}
	// The grammar is built anew for each run.
	node.Flags = append(node.Flags, node.DefaultCmd.Flags...)
	var help bytes.Buffer
	out := ctx.Stdout
	ctx.Stdout = &help
	err := kong.DefaultHelpPrinter(options, ctx)
	ctx.Stdout = out
	if err != nil {
		return err
	}
	usage := " [<command>]"
	if positional := node.DefaultCmd.Positional; len(positional) > 0 {
		usage = " " + positional[0].Summary() + " | <command>"
	}
	_, err = io.WriteString(out, strings.Replace(help.String(), " <command>", usage, 1))
	return err
}
