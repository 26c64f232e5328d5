package redact

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

type stringer string

func (s stringer) String() string { return "token=" + string(s) }

type valuer string

func (v valuer) LogValue() slog.Value {
	return slog.GroupValue(slog.String("password", string(v)), slog.String("text", "password="+string(v)))
}

type broken struct{ secret string }

func (b *broken) Error() string { panic("password=" + b.secret) }

func TestHandler_noAttributeSaysASecret(t *testing.T) {
	t.Parallel()
	const secret = "Zk3vQ9pL7w"
	text := "password=" + secret
	type login struct {
		User     string
		Password string
		Hidden   string `json:"-"`
	}
	var nobody *broken
	for name, format := range map[string]func(*bytes.Buffer) slog.Handler{
		"text": func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
		"JSON": func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
	} {
		var b bytes.Buffer
		log := slog.New(Handler(format(&b)))
		log.Info(text)
		log.With("a", text, "password", secret).WithGroup("g").Info("", "b", text)
		log.WithGroup("credentials").Info("", "a", secret, "n", 7)
		log.Info("x",
			"error", fmt.Errorf("dial: %w", errors.New("postgres://ann:"+secret+"@db/app")),
			"broken", &broken{secret}, "nil error", error(nobody), "nothing", nil,
			"stringer", stringer(secret), "valuer", valuer(secret), "bytes", []byte(text),
			"raw", json.RawMessage(`{"password":"`+secret+`"}`), "bad raw", json.RawMessage(text),
			"list", []string{text}, "lists", [][]string{{text}}, "map", map[string]any{"token": secret, "a": map[string]string{"b": text}},
			"struct", login{"ann", secret, secret}, "pointer", &login{"ann", secret, secret}, "func", func() {},
			"token", secret, "secret", []string{secret}, "nested", slog.GroupValue(slog.Group("deep", "x", text, "api_key", secret)),
			slog.Group("password", "value", secret), "key "+text, 1,
		)
		if strings.Contains(b.String(), secret) {
			t.Errorf("%s: %s", name, b.String())
		}
		if name == "JSON" {
			for line := range strings.Lines(b.String()) {
				if !json.Valid([]byte(line)) {
					t.Errorf("not JSON: %s", line)
				}
			}
		}
	}
}

func TestHandler_leavesAloneWhatIsNoSecret(t *testing.T) {
	t.Parallel()
	var plain, redacted bytes.Buffer
	options := &slog.HandlerOptions{AddSource: true, Level: slog.LevelDebug}
	for _, l := range []*slog.Logger{slog.New(slog.NewTextHandler(&plain, options)), slog.New(Handler(slog.NewTextHandler(&redacted, options)))} {
		l = l.With("worker", "w1").WithGroup("job")
		r := slog.NewRecord(time.Unix(1, 0), slog.LevelInfo, "done", 0)
		r.Add("n", 1, "took", time.Second, "at", time.Unix(2, 0), "ok", true, "f", 1.5, "queues", []string{"a", "b"}, "m", map[string]int{"a": 1},
			"level", slog.LevelWarn, "error", errors.New("connection refused"), "none", nil, slog.Group("g", "x", "y"))
		if err := l.Handler().Handle(context.Background(), r); err != nil {
			t.Fatal(err)
		}
	}
	if plain.String() != redacted.String() {
		t.Errorf("%s\nbecame\n%s", plain.String(), redacted.String())
	}
	if Handler(slog.NewTextHandler(&plain, nil)).Enabled(context.Background(), slog.LevelDebug) {
		t.Error("the level of the next handler was not asked")
	}
}
