package engine

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"

	"soniq/internal/argshash"
)

func TestEncodeArgs_badInputIsNamed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args any
		want string
	}{
		"array":         {json.RawMessage(`[1]`), "must be a JSON object"},
		"string":        {"x", "not a string"},
		"number":        {json.RawMessage(` 4`), "not a number"},
		"null":          {json.RawMessage(`null`), "not null"},
		"empty":         {json.RawMessage(``), "are empty"},
		"syntax":        {json.RawMessage(`{"a":}`), "at byte 6"},
		"two values":    {json.RawMessage(`{} {}`), "not valid JSON"},
		"NUL":           {json.RawMessage(`{"a":"x\u0000"}`), `contain \u0000`},
		"NUL in struct": {struct{ A string }{"\x00"}, `contain \u0000`},
		"bad UTF-8":     {json.RawMessage("{\"a\":\"\xff\"}"), "not valid UTF-8"},
		"half high":     {json.RawMessage(`{"a":"\ud800x"}`), "half of a surrogate pair"},
		"half high end": {json.RawMessage(`{"a":"\ud800"}`), "half of a surrogate pair"},
		"half low":      {json.RawMessage(`{"a":"\udc00"}`), "half of a surrogate pair"},
		"two highs":     {json.RawMessage(`{"a":"\ud800\ud800"}`), "half of a surrogate pair"},
		"NaN":           {map[string]any{"a": math.NaN()}, "can't be JSON"},
		"channel":       {make(chan int), "can't be JSON"},
		"too big":       {map[string]string{"a": strings.Repeat("x", 200)}, "over the limit of 100"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := encodeArgs(c.args, 100)
			var argErr *ArgumentError
			if !errors.As(err, &argErr) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an ArgumentError with %q", err, c.want)
			}
		})
	}
}

func TestEncodeArgs_goodInputIsUntouched(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args any
		want string
	}{
		{nil, `{}`},
		{json.RawMessage(`{"a":"\\u0000 \ud83d\ude00"}`), `{"a":"\\u0000 \ud83d\ude00"}`},
		{map[string]string{"html": "<&>"}, `{"html":"<&>"}`},
		{struct {
			N int `json:"n"`
		}{3}, `{"n":3}`},
	} {
		got, err := encodeArgs(c.args, 1000)
		if err != nil || string(got) != c.want {
			t.Errorf("encodeArgs(%v) = %s, %v; want %s", c.args, got, err, c.want)
		}
	}
}

type welcome struct {
	UserID int    `json:"user_id"`
	Email  string `json:"email"`
}

func (w *welcome) Validate() error {
	if !strings.Contains(w.Email, "@") {
		return errors.New(`field "email": no @ in it`)
	}
	return nil
}

func TestDecodeArgs_namesTheField(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		`{"user_id":"x","email":"a@b"}`:         `field "user_id": want int, got a JSON string`,
		`{"user_id":1,"email":"a@b","color":1}`: `field "color": not known to this job`,
		`{"user_id":1,"email":"nobody"}`:        `field "email": no @ in it`,
		`{"user_id":1.5,"email":"a@b"}`:         `field "user_id": want int, got a JSON number 1.5`,
		`[]`:                                    `arguments: want engine.welcome, got a JSON array`,
	} {
		var w welcome
		if err := decodeArgs(json.RawMessage(raw), &w, false); err == nil || err.Error() != want {
			t.Errorf("decodeArgs(%s) = %v, want %s", raw, err, want)
		}
	}
	var w welcome
	if err := decodeArgs(json.RawMessage(`{"user_id":1,"email":"a@b"}`), &w, false); err != nil || w.UserID != 1 {
		t.Errorf("good arguments: %v, %v", w, err)
	}
	var m map[string]any
	if err := decodeArgs(json.RawMessage(`{"n":12345678901234567890123}`), &m, false); err != nil || m["n"] != json.Number("12345678901234567890123") {
		t.Errorf("big integer: %v, %v", m, err)
	}
}

// FuzzEncodeArgs holds encodeArgs to its word: what it lets through is a JSON
// object without anything that jsonb refuses.
func FuzzEncodeArgs(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":"\u0000"}`, `{"a":"\ud83d\ude00"}`, `{"a":"\\\ud800"}`, "{\"\xff\":1}", `[]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := encodeArgs(json.RawMessage(raw), 1<<16)
		if err != nil {
			return
		}
		var v map[string]any
		if err := json.Unmarshal(got, &v); err != nil {
			t.Fatalf("%q passed: %v", raw, err)
		}
		if hash, err := argshash.Sum(got); err != nil || len(hash) != 64 {
			t.Fatalf("%q can't be hashed: %v", raw, err)
		}
		var walk func(any)
		walk = func(v any) {
			switch v := v.(type) {
			case string:
				if strings.ContainsRune(v, 0) {
					t.Fatalf("%q passed with a NUL", raw)
				}
			case []any:
				for _, e := range v {
					walk(e)
				}
			case map[string]any:
				for k, e := range v {
					walk(k)
					walk(e)
				}
			}
		}
		walk(v)
	})
}
