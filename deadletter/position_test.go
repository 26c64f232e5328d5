package deadletter_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/uuid"

	"soniq/deadletter"
)

func TestPosition_text_isReadBack(t *testing.T) {
	t.Parallel()
	id := uuid.MustParse("0f3a8a43-46ab-4ab1-8b7b-0c3c3a2f7f10")
	for text, want := range map[string]string{
		"1764551142123456/748/" + id.String(): "1764551142123456/748/" + id.String(),
		"748/" + id.String():                  "0/748/" + id.String(), // of version 0.1
		"":                                    "0/0/" + uuid.Nil.String(),
		"0":                                   "0/0/" + uuid.Nil.String(),
		"9223372036854775807/18446744073709551615/" + id.String(): "9223372036854775807/18446744073709551615/" + id.String(),
	} {
		p, err := deadletter.ParsePosition(text)
		if err != nil || p.String() != want {
			t.Errorf("%s: %s, %v", text, p, err)
		}
		var back deadletter.Position
		if err := json.Unmarshal([]byte(jsonOf(t, p)), &back); err != nil || back != p {
			t.Errorf("%s: from JSON %s, %v", text, back, err)
		}
	}
	for _, text := range []string{
		"x", "1", "1/2", "1/2/3", "1/2/3/4", "-1/2/" + id.String(), "1/-2/" + id.String(), "1/2/" + strings.ReplaceAll(id.String(), "-", ""),
		"1/2/{" + id.String() + "}", "99999999999999999999/1/" + id.String(), "1/99999999999999999999/" + id.String(),
	} {
		if p, err := deadletter.ParsePosition(text); err == nil {
			t.Errorf("%s is taken for %s", text, p)
		}
	}
}
