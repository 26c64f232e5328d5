package hooks_test

import (
	"testing"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"soniq/hooks"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

// What the receivers have verifies what we send, with the old secret and the
// new one while they change over, and with the new one alone after --drop.
func TestSign_referenceLibrary_verifiesEachSecretOfARotation(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	store := storeOf(t, pool, nil)
	rc := newReceiver(t, nil)
	first, second, third := hooks.NewSecret(), hooks.NewSecret(), hooks.NewSecret()
	_, err := store.Add(t.Context(), hooks.Spec{Name: "h", Kind: "webhook", URL: rc.URL, Secrets: first, Allow: []string{"127.0.0.0/8"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	dispatch(t, pool)
	for i, step := range []struct {
		rotate       string
		drop         bool
		good, strays []string
	}{
		{good: []string{first}, strays: []string{second, third}},
		{rotate: second, good: []string{first, second}, strays: []string{third}},
		{rotate: third, drop: true, good: []string{third}, strays: []string{first, second}},
	} {
		if step.rotate != "" {
			if err := store.RotateSecret(t.Context(), "h", step.rotate, step.drop, nil); err != nil {
				t.Fatal(err)
			}
		}
		die(t, pool, 1, "emails.send", "é <&> \x01")
		eventually.True(t, "the delivery", func() bool { return len(rc.requests()) == i+1 })
		r := rc.requests()[i]
		verify := func(secret string) error {
			w, err := standardwebhooks.NewWebhook(secret)
			if err != nil {
				t.Fatal(err)
			}
			return w.Verify(r.body, r.header)
		}
		for _, secret := range step.good {
			if err := verify(secret); err != nil {
				t.Errorf("step %d: %v", i, err)
			}
		}
		for _, secret := range step.strays {
			if verify(secret) == nil {
				t.Errorf("step %d: verified by a secret that doesn't sign", i)
			}
		}
	}
}
