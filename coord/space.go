package coord

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// A tenant's space is its id for the first tenant of that id, and has the
// generation behind it, with a control character in between that no id holds,
// for those that follow when one was deleted.
const spaceMark = "\x01"

// MaxSpaceBytes is how much longer a space may be than the tenant's id.
const MaxSpaceBytes = len(spaceMark) + 20

// TenantSpace is the space of a tenant before which so many of its id were deleted.
func TenantSpace(id string, generation uint64) string {
	if generation == 0 {
		return id
	}
	return id + spaceMark + strconv.FormatUint(generation, 10)
}

// tenantOfSpace is the id of the tenant that a space belongs, or belonged, to.
func tenantOfSpace(space string) string {
	id, _, _ := strings.Cut(space, spaceMark)
	return id
}

// tenantOf is the tenant to which a space belongs, in a view that serves it;
// nil where that tenant was deleted.
func (c *Coordinator) tenantOf(ctx context.Context, v *view, space string) (*Tenant, error) {
	id := tenantOfSpace(space)
	t, ok := c.tenants.ready(id)
	if !ok || !v.serves(t) {
		var err error
		t, err = c.tenants.get(ctx, id, v.topology.TenantsEpoch)
		if errors.Is(err, ErrTenantNotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
	}
	if t.Space != space {
		return nil, nil
	}
	if !v.serves(t) {
		return nil, fmt.Errorf("%w: the ring has changed", ErrMigrationConflict)
	}
	return t, nil
}
