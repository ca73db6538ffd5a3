package cli

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files instead of comparing with them")

// golden compares output with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *rewrite {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got:\n%s\nwant, as in %s:\n%s", got, file, want)
	}
}

// explained is an answer at a level, the nodes named in down being so.
func explained(level string, down ...string) *pb.ExplainResponse {
	a := &pb.ExplainResponse{TenantId: "shop", Key: "cart", Epoch: 4, Token: 0x4a5b000000000000, ReplicationFactor: 3, Consistency: level, HedgeAfterUs: 2400}
	up := 0
	for i, id := range []string{"storage-2", "storage-3", "storage-1"} {
		r := &pb.ExplainedReplica{NodeId: id, Address: "10.0.0." + id[8:] + ":7000", Place: int32(i + 1), Standing: "preferred", LatencyUs: 310, P95Us: 820}
		for _, gone := range down {
			if gone == id {
				r.Standing, r.UnavailableReason, r.LatencyUs, r.P95Us, r.Hints = "down", "connection refused", 0, 0, 12
			}
		}
		if r.UnavailableReason == "" {
			up++
		}
		a.Replicas = append(a.Replicas, r)
	}
	for _, l := range []struct {
		name string
		need int32
	}{{"one", 1}, {"quorum", 2}, {"all", 3}} {
		a.Levels = append(a.Levels, &pb.ExplainedLevel{Consistency: l.name, Need: l.need, Met: up >= int(l.need)})
	}
	return a
}

func TestExplain(t *testing.T) {
	slow := explained("quorum") // the node that hedges were made for is asked last
	slow.Replicas[0], slow.Replicas[2] = slow.Replicas[2], slow.Replicas[0]
	r := slow.Replicas[2]
	r.Standing, r.LatencyUs, r.P95Us, r.Outstanding = "slow", 48_000, 95_000, 3
	few := explained("quorum")
	few.Replicas = few.Replicas[:1]
	few.Levels[1].Met, few.Levels[2].Met = false, false
	for name, answer := range map[string]*pb.ExplainResponse{
		"explain-well.txt": explained("quorum"),
		"explain-one.txt":  explained("one"),
		"explain-down.txt": explained("quorum", "storage-1"),
		"explain-lost.txt": explained("all", "storage-1"),
		"explain-few.txt":  few,
		"explain-slow.txt": slow,
	} {
		t.Run(name, func(t *testing.T) {
			addr := (&server{explain: func(q *pb.ExplainRequest) (*pb.ExplainResponse, error) {
				if q.GetTenantId() != "shop" || q.GetKey() != "cart" || q.GetConsistency() != "quorum" {
					t.Errorf("sent %v", q)
				}
				return answer, nil
			}}).start(t)
			o := run(t, addr, "", "explain", "-tenant", "shop", "-consistency", "quorum", "cart")
			if o.code != ExitDone || o.stderr != "" {
				t.Errorf("exit %d, %s", o.code, o.stderr)
			}
			golden(t, name, o.out)
		})
	}
}
