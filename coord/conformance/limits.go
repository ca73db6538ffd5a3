package conformance

import (
	"testing"
	"time"

	"github.com/pairdb/coordinator/coord"
)

// tenantLimits: a change sets what it names and nothing else, every handle sees
// it, and whoever watches is told.
func tenantLimits(t *testing.T, m *metadataTest) {
	a, b := m.open(t), m.open(t)
	created := mustCreate(t, m, a, "shop", 3)
	mustCreate(t, m, a, "other", 3)
	if created.Limits != (coord.TenantLimits{}) {
		t.Errorf("a new tenant has limits %+v", created.Limits)
	}
	number := func(n int64) *int64 { return &n }
	for _, step := range []struct {
		change coord.LimitsChange
		want   coord.TenantLimits
	}{
		{coord.LimitsChange{OperationsPerSecond: number(1000)}, coord.TenantLimits{OperationsPerSecond: 1000}},
		{coord.LimitsChange{BytesPerSecond: number(1 << 50), Concurrency: number(coord.NoLimit)},
			coord.TenantLimits{OperationsPerSecond: 1000, BytesPerSecond: 1 << 50, Concurrency: coord.NoLimit}},
		{coord.LimitsChange{}, coord.TenantLimits{OperationsPerSecond: 1000, BytesPerSecond: 1 << 50, Concurrency: coord.NoLimit}},
		{coord.LimitsChange{OperationsPerSecond: number(0)}, coord.TenantLimits{BytesPerSecond: 1 << 50, Concurrency: coord.NoLimit}},
	} {
		got, err := a.SetTenantLimits(m.ctx, "shop", step.change)
		if err != nil || got.Limits != step.want || got.ReplicationFactor != 3 {
			t.Errorf("set limits: got %+v, %v; want limits %+v", got, err, step.want)
		}
		wantTenant(t, m, got, a, b)
	}
	if other, err := b.Tenant(m.ctx, "other"); err != nil || other.Limits != (coord.TenantLimits{}) {
		t.Errorf("another tenant: %+v, %v", other, err)
	}
	_, err := a.SetTenantLimits(m.ctx, "nobody", coord.LimitsChange{})
	wantErr(t, "limits of no tenant", err, coord.ErrTenantNotFound)

	w := watch(t, m, b)
	if w == nil {
		return
	}
	if _, err := a.SetTenantLimits(m.ctx, "shop", coord.LimitsChange{Concurrency: number(7)}); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(patience)
	for {
		select {
		case c := <-w.changes:
			if c.Tenant == "shop" {
				return
			}
		case <-deadline:
			t.Fatal("nobody was told of the change")
		}
	}
}
