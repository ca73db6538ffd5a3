package conformance

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"

	"github.com/pairdb/coordinator/coord"
)

// wantSpaces compares with what every handle lists as deleted.
func wantSpaces(t *testing.T, m *metadataTest, what string, want []string, handles ...coord.Metadata) {
	t.Helper()
	for i, h := range handles {
		if got, err := h.DeletedSpaces(m.ctx, "", math.MaxInt32); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: handle %d lists the deleted spaces %q, %v; want %q", what, i, got, err, want)
		}
	}
}

// tenantSpaces: no two tenants ever have the same space, and those that were
// deleted are listed until they are forgotten.
func tenantSpaces(t *testing.T, m *metadataTest) {
	a, b := m.open(t), m.open(t)
	wantSpaces(t, m, "new store", nil, a, b)
	const generations = 12
	var want []string
	for generation := range uint64(generations) {
		shop := mustCreate(t, m, a, "shop", 3)
		if space := coord.TenantSpace("shop", generation); shop.Space != space {
			t.Errorf("after %d were deleted the space is %q, want %q", generation, shop.Space, space)
		}
		wantTenant(t, m, shop, a, b)
		if err := b.DeleteTenant(m.ctx, "shop"); err != nil {
			t.Fatal(err)
		}
		want = append(want, shop.Space)
	}
	// Each id has its own generations.
	for _, id := range sortedOddIDs(t) {
		if tenant := mustCreate(t, m, a, id, 3); tenant.Space != id {
			t.Errorf("the first tenant %q has the space %q", id, tenant.Space)
		}
		if err := a.DeleteTenant(m.ctx, id); err != nil {
			t.Fatal(err)
		}
		want = append(want, id)
	}
	slices.Sort(want)
	wantSpaces(t, m, "deleted", want, a, b)
	for _, limit := range []int{1, 3, len(want), len(want) + 1} {
		var got []string
		for after := ""; len(got) <= len(want); after = got[len(got)-1] {
			page, err := b.DeletedSpaces(m.ctx, after, limit)
			if err != nil || len(page) > limit {
				t.Fatalf("a page of at most %d: %q, %v", limit, page, err)
			}
			if len(page) == 0 {
				break
			}
			got = append(got, page...)
		}
		if !slices.Equal(got, want) {
			t.Errorf("pages of %d list %q, want %q", limit, got, want)
		}
	}
	for _, limit := range []int{0, -1} {
		if got, err := a.DeletedSpaces(m.ctx, "", limit); len(got) != 0 || err != nil {
			t.Errorf("a page of at most %d: %q, %v", limit, got, err)
		}
	}
	// What was never there, or not deleted, is forgotten without effect.
	here := mustCreate(t, m, a, "here", 3)
	for _, space := range []string{"", "here", "SHOP", "sho%"} {
		if err := a.ForgetSpace(m.ctx, space); err != nil {
			t.Errorf("forget %q: %v", space, err)
		}
	}
	wantTenant(t, m, here, a, b)
	wantSpaces(t, m, "nothing was forgotten", want, a, b)
	for _, space := range []string{want[3], "shop", want[3]} {
		if err := b.ForgetSpace(m.ctx, space); err != nil {
			t.Fatal(err)
		}
	}
	want = slices.DeleteFunc(slices.Clone(want), func(s string) bool { return s == want[3] || s == "shop" })
	wantSpaces(t, m, "two were forgotten", want, a, b)
	if shop := mustCreate(t, m, b, "shop", 3); shop.Space != coord.TenantSpace("shop", generations) {
		t.Errorf("a space that was forgotten is given out again, or %q is", shop.Space)
	}
}

// tenantSpacesConcurrently creates and deletes tenants of one id at once.
func tenantSpacesConcurrently(t *testing.T, m *metadataTest) {
	handles := []coord.Metadata{m.open(t), m.open(t)}
	var mu sync.Mutex
	var created []string
	deleted := 0
	for _, err := range concurrently(8, func(i int) error {
		h := handles[i%2]
		for range 12 {
			if i < 4 {
				tenant, err := h.CreateTenant(m.ctx, "shop", 3, 0)
				if err == nil {
					mu.Lock()
					created = append(created, tenant.Space)
					mu.Unlock()
				} else if !errors.Is(err, coord.ErrTenantExists) {
					return err
				}
				continue
			}
			err := h.DeleteTenant(m.ctx, "shop")
			if err == nil {
				mu.Lock()
				deleted++
				mu.Unlock()
			} else if !errors.Is(err, coord.ErrTenantNotFound) {
				return err
			}
		}
		return nil
	}) {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := handles[0].DeleteTenant(m.ctx, "shop"); err == nil {
		deleted++
	} else if !errors.Is(err, coord.ErrTenantNotFound) {
		t.Fatal(err)
	}
	want := make([]string, deleted)
	for i := range want {
		want[i] = coord.TenantSpace("shop", uint64(i))
	}
	slices.Sort(want)
	slices.Sort(created)
	if !slices.Equal(created, want) {
		t.Errorf("the tenants that were created had the spaces %q, want %q", created, want)
	}
	wantSpaces(t, m, fmt.Sprintf("%d were deleted", deleted), want, handles...)
}
