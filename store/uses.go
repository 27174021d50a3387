package store

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
)

// kindUses marks a list of objects. It is public even where the rest is sealed.
const kindUses kind = "JKUSES01"

// Uses names every object that a restore point needs: itself, or, where there
// are many, by lists that several restore points can share. The lists are such
// objects, too.
type Uses struct {
	Objects []Used `json:"objects,omitempty"`
	Lists   []Ref  `json:"lists,omitempty"`
}

// minUsedName is less than what any object has whose name is its hash.
const minUsedName = 64

// Used is an object that a restore point needs.
type Used struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
}

// with returns the uses with one object more.
func (u Uses) with(o Used) Uses {
	if !slices.Contains(u.Objects, o) {
		u.Objects = append(slices.Clone(u.Objects), o)
	}
	return u
}

// check refuses names that are none. They would take far more memory than their
// encoding does, and can only be made up.
func (u *Uses) check() error {
	for i := range u.Objects {
		if len(u.Objects[i].Name) < minUsedName {
			return fmt.Errorf("%w: use of an object named %q", errMalformed, u.Objects[i].Name)
		}
	}
	for i := range u.Lists {
		if _, err := u.Lists[i].hash(); err != nil {
			return err
		}
	}
	return nil
}

func chainObject(prefix, chain, hash string) string { return prefix + chain + "/" + hash }

// resolve returns all objects that are used, lists included, by name.
func (r *Repository) resolve(ctx context.Context, chain string, u Uses) (map[string]Used, error) {
	all := map[string]Used{}
	err := r.eachUse(ctx, chain, u, func(o Used) bool {
		_, known := all[o.Name]
		all[o.Name] = o
		return !known
	})
	return all, err
}

// eachUse hands on each object that is used; of a list first the object that
// it is, and then, if visit asks for it, what it names.
func (r *Repository) eachUse(ctx context.Context, chain string, u Uses, visit func(Used) bool) error {
	for _, o := range u.Objects {
		visit(o)
	}
	for _, ref := range u.Lists {
		if _, err := ref.hash(); err != nil {
			return fmt.Errorf("list of used objects: %w", err)
		}
		if !visit(Used{Name: chainObject(metaPrefix, chain, ref.Hash), Size: ref.Size}) {
			continue
		}
		inner, err := r.readUses(ctx, chain, ref)
		if err != nil {
			return err
		}
		if err := r.eachUse(ctx, chain, inner, visit); err != nil {
			return err
		}
	}
	return nil
}

// readUses reads a list of used objects.
func (r *Repository) readUses(ctx context.Context, chain string, ref Ref) (Uses, error) {
	payload, err := r.getBlob(ctx, chain, kindUses, Blob{Ref: &ref})
	if err != nil {
		return Uses{}, err
	}
	var u Uses
	if err = json.Unmarshal(payload, &u); err == nil {
		err = u.check()
	}
	if err != nil {
		return Uses{}, damaged(chainObject(metaPrefix, chain, ref.Hash), err, "list of used objects")
	}
	return u, nil
}
