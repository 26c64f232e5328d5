package hooks

import (
	"fmt"

	"soniq/internal/redact"
)

// prepared is a hook as its row or our configuration describes it, with references
// resolved and sealed values opened.
type prepared struct {
	name     string
	kind     Kind
	secrets  secrets
	settings settings
}

// prepare describes a hook, if it may be sent to from here. A row gets only what this
// dispatcher was started with. A configuration gets all.
func (d *Dispatcher) prepare(h dueHook) (p prepared, err error) {
	d.mu.Lock()
	declared := d.declared[h.Name]
	d.mu.Unlock()
	if h.Declared && declared != nil {
		spec := declared()
		p = prepared{spec.Name, spec.Kind, spec.secrets(), spec.settings()}
	} else if p, err = d.prepareRow(h); err != nil {
		return p, err
	}
	if !p.kind.Uses(FieldURL) {
		return p, nil
	}
	p.secrets, err = d.rights.resolve(p.secrets)
	return p, err
}

func (d *Dispatcher) prepareRow(h dueHook) (p prepared, err error) {
	p = prepared{name: h.Name, kind: h.Kind}
	if p.kind == Own {
		return p, nil
	}
	if p.settings, err = readSettings(h.Settings); err != nil {
		return p, err
	}
	if kinds[p.kind].exec && !d.rights.exec {
		return p, ErrExecNotAllowed
	}
	if !p.kind.Uses(FieldURL) {
		return p, nil
	}
	if p.secrets, err = d.rights.keys.openAll(secrets{h.URL, h.Secrets, p.settings.Headers}, h.Name); err != nil {
		return p, err
	}
	return p, d.rights.check(p.secrets, p.settings.Allow)
}

// opened is a hook that can be sent to.
type opened struct {
	Hook
	// known are the secrets that must not be kept of an answer.
	known *redact.Set
	// digest and preemptible are the kind's.
	digest      digestLimits
	preemptible bool
}

func (o opened) close() {
	if c, ok := o.Hook.(interface{ close() }); ok {
		c.close()
	}
}

// open makes a hook. Its Hook is nil for one that no program has registered here.
func (d *Dispatcher) open(h dueHook) (opened, error) {
	p, err := d.prepare(h)
	if err != nil {
		return opened{}, err
	}
	k, ok := kinds[p.kind]
	if !ok {
		return opened{}, fmt.Errorf("the kind %q is unknown", p.kind)
	}
	hook, known, err := k.open(d, p)
	if err != nil {
		return opened{}, err
	}
	o := opened{hook, known, k.digest, k.preemptible}
	d.mu.Lock()
	defer d.mu.Unlock()
	if p.kind == Own && d.own[p.name].digest {
		o.digest = ownDigest
	}
	return o, nil
}
