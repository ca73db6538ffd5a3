package coord_test

import (
	"errors"
	"testing"
	"time"

	"github.com/pairdb/coordinator/coord"
)

// A tenant's limits are at hand once it was used, and follow changes.
func TestTenantLimits(t *testing.T) {
	c := newCluster(t, 3).start(t, "c1", nil)
	if _, known := c.KnownLimits("shop"); known {
		t.Error("the limits of a tenant that was not used are at hand")
	}
	operations := int64(7)
	for _, want := range []coord.TenantLimits{{}, {OperationsPerSecond: 7}} {
		put(t, c, "k", "v", coord.Quorum)
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			if got, known := c.KnownLimits("shop"); known && got == want {
				break
			} else if time.Now().After(end) {
				t.Fatalf("limits are %+v, %v; want %+v", got, known, want)
			}
		}
		if _, err := c.SetTenantLimits(t.Context(), "shop", coord.LimitsChange{OperationsPerSecond: &operations}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.SetTenantLimits(t.Context(), "nobody", coord.LimitsChange{}); !errors.Is(err, coord.ErrTenantNotFound) {
		t.Errorf("limits of no tenant: %v", err)
	}
	fallback := coord.TenantLimits{OperationsPerSecond: 5, BytesPerSecond: 6}
	if got := (coord.TenantLimits{OperationsPerSecond: coord.NoLimit, Concurrency: 3}).Or(fallback); got != (coord.TenantLimits{OperationsPerSecond: coord.NoLimit, BytesPerSecond: 6, Concurrency: 3}) {
		t.Errorf("with a fallback the limits are %+v", got)
	}
}
