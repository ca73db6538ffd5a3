package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// What a dead node misses is owed to it, seen in status and metrics, and paid
// when it is back, without any client reading the keys. The ledger survives
// the coordinator.
func TestHintsArePaid(t *testing.T) {
	dir := t.TempDir()
	p := &pair{t: t, coordinators: []*process{startConfigured(t, "coordinator-1", dir, "")}}
	for i := range 3 {
		p.storage = append(p.storage, startStorage(t, fmt.Sprintf("storage-%d", i+1), t.TempDir(), "-join", p.coordinators[0].grpc, "-sync=false"))
	}
	c := p.coordinators[0]
	client := c.dial()
	eventually(t, startTimeout, func() error {
		_, err := client.CreateTenant(t.Context(), &pb.CreateTenantRequest{TenantId: "default"})
		return err
	})
	eventually(t, startTimeout, func() error { return write(t, client, "warm", "up", "all") })
	dead := p.storage[2]
	dead.kill()
	const keys = 200
	for i := range keys {
		if err := write(t, client, fmt.Sprint("k", i), "v", "quorum"); err != nil {
			t.Fatal(err)
		}
	}
	owed := func(c *process) int64 {
		resp, err := c.dial().GetStatus(t.Context(), &pb.GetStatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range resp.GetNodes() {
			if n.GetNode().GetNodeId() == "storage-3" {
				return n.GetHints()
			}
		}
		return -1
	}
	if n := owed(c); n != keys {
		t.Errorf("storage-3 is owed %d hints, want %d", n, keys)
	}
	if out, _, _ := c.command("status"); !strings.Contains(out, fmt.Sprint(keys)) {
		t.Errorf("status does not show what is owed:\n%s", out)
	}
	if code := c.terminate(); code != 0 {
		t.Errorf("exit %d", code)
	}
	c = startConfiguredAt(t, "coordinator-1", dir, c.grpc, "")
	p.coordinators[0] = c
	if n := owed(c); n != keys {
		t.Errorf("after a restart of the coordinator storage-3 is owed %d hints, want %d", n, keys)
	}
	p.storage[2] = start(t, servingLine, "storage", "-id", "storage-3", "-data", dead.dir, "-listen", dead.grpc, "-sync=false")
	eventually(t, 30*time.Second, func() error {
		if n := owed(c); n != 0 {
			return fmt.Errorf("storage-3 is owed %d hints", n)
		}
		return nil
	})
	for i := range keys {
		if err := p.converged(fmt.Sprint("k", i)); err != nil {
			t.Fatal(err)
		}
	}
}
