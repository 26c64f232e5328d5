package hooks

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"soniq/internal/pg"
)

const (
	// renewEvery is how often a dispatcher shows that its configuration is in use.
	renewEvery = 5 * time.Minute
	// staleAfter is when a configuration that nobody has renewed no longer counts.
	staleAfter = 3 * renewEvery
	// declareLock is the advisory lock of a dispatcher that declares: 'soniq:hd'. A row
	// that does not exist yet can't be locked.
	declareLock int64 = 0x736f6e69713a6864
)

// declaration is what one configuration says of a hook: an entry of the column
// declarations, under the digest of Spec.
type declaration struct {
	// Origin is where the configuration is.
	Origin string `json:"origin"`
	// Spec is redacted.
	Spec json.RawMessage `json:"spec"`
	// SeenAt is when one of its dispatchers last ran, by the database's clock.
	SeenAt time.Time `json:"seen_at"`
}

// spec reads what the column holds. SQL can write anything there.
func (c declaration) spec() (s plainSpec) {
	_ = json.Unmarshal(c.Spec, &s)
	return s
}

// digestOf identifies what a configuration says of a hook.
func digestOf(s Spec) (digest string, encoded json.RawMessage, err error) {
	encoded, err = json.Marshal(plainSpec(s.redacted()))
	sum := sha256.Sum256(encoded)
	return hex.EncodeToString(sum[:8]), encoded, err
}

const declarationsSQL = `
select declarations, clock_timestamp()
from public.soniq_hooks
where name = $1
  and declared_at is not null
for update`

// declarations returns what other configurations that are in use say of the hook, and all
// of the column with this dispatcher's own entry. It locks the row.
func (d *Dispatcher) declarations(ctx context.Context, tx pgx.Tx, spec Spec) (others []declaration, all map[string]declaration, err error) {
	var stored []byte
	now := time.Now() // for a new row, until it is renewed
	err = tx.QueryRow(ctx, declarationsSQL, spec.Name).Scan(&stored, &now)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return nil, nil, err
	}
	if json.Unmarshal(stored, &all) != nil || all == nil {
		all = map[string]declaration{}
	}
	digest, encoded, err := digestOf(spec)
	if err != nil {
		return nil, nil, err
	}
	d.mu.Lock()
	earlier := d.declared[spec.Name]
	d.mu.Unlock()
	if earlier != nil { // this dispatcher says something else now
		before, _, err := digestOf(earlier())
		if err != nil {
			return nil, nil, err
		}
		delete(all, before)
	}
	maps.DeleteFunc(all, func(_ string, c declaration) bool { return now.Sub(c.SeenAt) > staleAfter })
	for _, other := range slices.Sorted(maps.Keys(all)) {
		if other != digest {
			others = append(others, all[other])
		}
	}
	all[digest] = declaration{d.origin, encoded, now}
	return others, all, nil
}

// widened returns s with a filter that picks what any of the configurations asks for.
func (s Spec) widened(others []declaration) Spec {
	for _, c := range others {
		o := c.spec()
		if s.Events, o.Events = orDead(s.Events), orDead(o.Events); !slices.Equal(s.Events, o.Events) {
			s.Events = union(s.Events, o.Events)
		}
		s.Jobs, s.Queues, s.Reasons = union(s.Jobs, o.Jobs), union(s.Queues, o.Queues), union(s.Reasons, o.Reasons)
		if !maps.Equal(s.Tags, o.Tags) {
			s.Tags = nil
		}
	}
	return s
}

func orDead(events []EventType) []EventType {
	if len(events) == 0 {
		return []EventType{Dead}
	}
	return events
}

// union is both lists. An empty one matches all.
func union[T ~string](a, b []T) []T {
	if len(a) == 0 || len(b) == 0 {
		return nil
	}
	both := slices.Concat(a, b)
	slices.Sort(both)
	return slices.Compact(both)
}

// warnOfConflicts says once where configurations differ. The caller holds mu.
func (d *Dispatcher) warnOfConflicts(conflicts []declaration, specs []Spec) {
	for _, c := range conflicts {
		there := c.spec()
		i := slices.IndexFunc(specs, func(s Spec) bool { return s.Name == there.Name })
		key := there.Name + string(c.Spec)
		if i < 0 || d.warned[key] {
			continue
		}
		d.warned[key] = true
		d.log.Warn("another configuration in use says something else of this hook; until one of them is gone or changed, the hook receives what any of them asks for, and each dispatcher sends as its own says",
			"hook", there.Name, "here", d.origin, "there", c.Origin, "differ", strings.Join(differences(plainSpec(specs[i].redacted()), there), "; "))
	}
}

// differences are the fields in which two specs differ, with both values.
func differences(here, there plainSpec) (texts []string) {
	a, b := reflect.ValueOf(here), reflect.ValueOf(there)
	for i := range a.NumField() {
		x, y := fmt.Sprint(a.Field(i).Interface()), fmt.Sprint(b.Field(i).Interface())
		if x != y {
			texts = append(texts, fmt.Sprintf("%s: %s here, %s there", strings.ToLower(a.Type().Field(i).Name), cut(x, maxName), cut(y, maxName)))
		}
	}
	return texts
}

const renewedSQL = `
update public.soniq_hooks
set declarations = $2,
  declared_at = clock_timestamp(),
  events = $3,
  jobs = $4,
  queues = $5,
  reasons = $6,
  tags = $7
where name = $1`

// renew shows that this dispatcher's configuration is in use, and notices others.
func (d *Dispatcher) renew(ctx context.Context) error {
	d.mu.Lock()
	var specs []Spec
	for _, spec := range d.declared {
		specs = append(specs, spec())
	}
	d.mu.Unlock()
	var conflicts []declaration
	for _, spec := range specs {
		var others []declaration
		err := pg.InTxWith(ctx, d.outbox.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
			found, all, err := d.declarations(ctx, tx, spec)
			if err != nil {
				return err
			}
			others = found
			wide := spec.redacted().widened(others)
			_, err = tx.Exec(ctx, renewedSQL, append([]any{spec.Name, all}, wide.row()[5:]...)...)
			return err
		})
		if err != nil {
			return fmt.Errorf("renew the declaration of a hook: %w", err)
		}
		conflicts = append(conflicts, others...)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.warnOfConflicts(conflicts, specs)
	return nil
}
