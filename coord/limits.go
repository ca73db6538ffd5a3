package coord

import "context"

// TenantLimits bound what one tenant may ask of one coordinator. In each field 0
// means what the coordinator's configuration says, and NoLimit that there is none.
type TenantLimits struct {
	OperationsPerSecond int64
	BytesPerSecond      int64 // of values, written and read
	Concurrency         int64 // operations under way at once
}

// NoLimit in a field of TenantLimits lifts the limit.
const NoLimit = -1

// Or returns l with what it leaves to the configuration as fallback has it.
func (l TenantLimits) Or(fallback TenantLimits) TenantLimits {
	or := func(a, b int64) int64 {
		if a == 0 {
			return b
		}
		return a
	}
	return TenantLimits{
		OperationsPerSecond: or(l.OperationsPerSecond, fallback.OperationsPerSecond),
		BytesPerSecond:      or(l.BytesPerSecond, fallback.BytesPerSecond),
		Concurrency:         or(l.Concurrency, fallback.Concurrency),
	}
}

// LimitsChange says which of a tenant's limits to change; nil ones stay.
type LimitsChange struct {
	OperationsPerSecond, BytesPerSecond, Concurrency *int64
}

// SetTenantLimits changes a tenant's limits, for all coordinators, and returns
// the tenant as it is then. It fails with ErrTenantNotFound.
func (c *Coordinator) SetTenantLimits(ctx context.Context, id string, change LimitsChange) (Tenant, error) {
	t, err := c.metadata.SetTenantLimits(ctx, id, change)
	if err == nil {
		c.tenants.cache.Invalidate(id)
	}
	return t, err
}

// KnownLimits returns a tenant's limits where the tenant is at hand; it waits
// for nothing.
func (c *Coordinator) KnownLimits(id string) (limits TenantLimits, known bool) {
	t, known := c.tenants.cache.GetIfPresent(id)
	if !known {
		return TenantLimits{}, false
	}
	return t.tenant.Limits, true
}
