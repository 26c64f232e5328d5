package cli

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/alecthomas/kong"

	"soniq/internal/cli/app"
)

// onceTag is a struct tag of list flags whose values have keys, such as KEY=VALUE. Its
// value is the separator, or 'all' if the whole value is the key. Each key may be given
// once.
const onceTag = "once"

// emptyTag is a struct tag of text flags that mean the same when their value is empty as
// when they are left out.
const emptyTag = "empty"

// checkFilled refuses a flag of the command line, or an argument that may be left out,
// whose value is empty. In a script that
// is a variable which isn't set: the command would do as if the flag weren't there.
func checkFilled(cmd *kong.Context) error {
	for _, part := range cmd.Path {
		if flag := part.Flag; flag != nil && !flag.Tag.Has(emptyTag) && hasEmpty(flag.Target) {
			return app.Usagef("--%s is empty; give it a value, or leave it out", flag.Name)
		}
		if arg := part.Positional; arg != nil && !arg.Required && !arg.IsCumulative() && hasEmpty(arg.Target) {
			return app.Usagef("<%s> is empty; give it a value, or leave it out", arg.Name)
		}
	}
	return nil
}

// hasEmpty tells whether a flag's value is an empty text, or a list of texts with one.
func hasEmpty(value reflect.Value) bool {
	switch {
	case value.Kind() == reflect.Pointer && !value.IsNil():
		return hasEmpty(value.Elem())
	case value.Kind() == reflect.String:
		return value.Len() == 0
	case value.Kind() != reflect.Slice || value.Type().Elem().Kind() != reflect.String:
		return false
	}
	for i := range value.Len() {
		if value.Index(i).Len() == 0 {
			return true
		}
	}
	return value.Len() == 0
}

// checkOnce refuses a single-value flag that is given twice, and a key that is given
// twice to a list flag. kong would silently keep the last one.
func checkOnce(cmd *kong.Context) error {
	seen := map[*kong.Flag]bool{}
	for _, part := range cmd.Path {
		flag := part.Flag
		if flag == nil {
			continue
		}
		if seen[flag] && !flag.IsCumulative() {
			return app.Usagef("%s is given twice; give it once", flagName(flag))
		}
		seen[flag] = true
	}
	for flag := range seen {
		if err := checkKeys(flag); err != nil {
			return err
		}
	}
	return nil
}

// flagName is the flag as one types it, with its opposite where it has one.
func flagName(flag *kong.Flag) string {
	switch flag.Tag.Negatable {
	case "":
		return "--" + flag.Name
	case "_":
		return "--[no-]" + flag.Name
	default:
		return "--" + flag.Name + " or --" + flag.Tag.Negatable
	}
}

// checkKeys refuses a key that two values of a list flag have.
func checkKeys(flag *kong.Flag) error {
	cut := flag.Tag.Get(onceTag)
	if cut == "" || flag.Target.Kind() != reflect.Slice {
		return nil
	}
	seen := map[string]bool{}
	for i := range flag.Target.Len() {
		key := fmt.Sprint(flag.Target.Index(i))
		if cut != "all" {
			// A backslash keeps what follows in the key.
			key = cutKey(key, cut)
		}
		if seen[key] {
			return app.Usagef("--%s is given twice for %q; give it once", flag.Name, key)
		}
		seen[key] = true
	}
	return nil
}

// cutKey is the part of text before cut. A backslash makes the next character a
// part of the key. Case doesn't count in the name of a header, which ends at a
// colon.
func cutKey(text, cut string) string {
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == '\\':
			i++
		case strings.HasPrefix(text[i:], cut):
			key := strings.TrimSpace(text[:i])
			if cut == ":" {
				return strings.ToLower(key)
			}
			return key
		}
	}
	return text
}
