package metrics

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
)

func TestTenantsAreCountedByName(t *testing.T) {
	s := New("", "")
	s.TenantRequest("shop", true, codes.OK, 2*time.Millisecond)
	s.TenantRequest("shop", false, codes.NotFound, time.Millisecond)
	s.TenantRequest("shop", false, codes.Unavailable, time.Second)
	s.TenantRequest("shop", false, codes.ResourceExhausted, 0)
	s.TenantRequest("invented", false, codes.NotFound, time.Millisecond)
	samples := scrape(t, &s.Page)
	expect(t, samples, map[string]float64{
		`coordinator_tenant_requests_total{tenant="shop",operation="read"}`:   3,
		`coordinator_tenant_requests_total{tenant="shop",operation="write"}`:  1,
		`coordinator_tenant_failures_total{tenant="shop"}`:                    1,
		`coordinator_tenant_refusals_total{tenant="shop"}`:                    1,
		`coordinator_tenant_request_seconds_total{tenant="shop"}`:             1.003,
		`coordinator_tenant_requests_total{tenant="other",operation="read"}`:  1,
		`coordinator_tenant_requests_total{tenant="other",operation="write"}`: 0,
	})
	if _, ok := samples[`coordinator_tenant_requests_total{tenant="invented",operation="read"}`]; ok {
		t.Error("a tenant that nobody created has a series of its own")
	}
	if got := s.Tenants(); len(got) != 1 || got[0] != (TenantTotals{"shop", 3, 1, 1, 1}) {
		t.Errorf("got %+v", got)
	}
}

// Beyond the bound the busiest tenants take the places of the least busy, and
// nothing is counted twice or not at all.
func TestBusyTenantsGetPlaces(t *testing.T) {
	s := New("", "")
	now := time.Unix(1000, 0)
	s.tenants = newTenants(func() time.Time { return now })
	total := 0
	request := func(id string, times int) {
		for range times {
			s.TenantRequest(id, false, codes.OK, 0)
		}
		total += times
	}
	for i := range maxTenants {
		request(fmt.Sprintf("early-%03d", i), 100+i)
	}
	const late = 50_000
	request("late", late)
	for i := range 10 * maxTenants { // rare ones, which must not displace anybody
		request(fmt.Sprintf("rare-%d", i), 1)
	}
	counted := func() (sum int, names map[string]int) {
		names = map[string]int{}
		s.tenants.each(func(id string, tenant *Tenant) {
			names[id] = int(tenant.requests())
			sum += int(tenant.requests())
		})
		return sum, names
	}
	sum, names := counted()
	if sum != total || len(names) != maxTenants+1 || names[other] != late+10*maxTenants {
		t.Fatalf("%d of %d requests counted for %d tenants, other %d", sum, total, len(names), names[other])
	}
	now = now.Add(tenantSweep)
	_, names = counted()
	if _, has := names["late"]; !has || len(names) != maxTenants+1 {
		t.Errorf("the busiest tenant has no place among %d", len(names))
	}
	if _, has := names["early-000"]; has {
		t.Error("the least busy tenant has kept its place")
	}
	for _, id := range []string{"early-001", "early-099"} {
		if _, has := names[id]; !has {
			t.Errorf("%s has lost its place to a tenant that is less busy", id)
		}
	}
	request("late", 7)
	if _, names = counted(); names["late"] != 7 {
		t.Errorf("late counts %d since it has its place, want 7", names["late"])
	}
}

func TestCountingATenantDoesNotAllocate(t *testing.T) {
	s := New("", "")
	for i := range maxTenants + 1 {
		s.TenantRequest(fmt.Sprint("tenant-", i), false, codes.OK, 0)
	}
	if n := testing.AllocsPerRun(1000, func() { s.TenantRequest("tenant-7", true, codes.OK, time.Millisecond) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
