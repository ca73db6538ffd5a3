package coord_test

import (
	"fmt"
	"testing"

	"github.com/pairdb/coordinator/coord"
)

// A plan counts every range that changes hands, and names nobody as a source
// who is lost.
func TestPlanOfALoss(t *testing.T) {
	cluster := newCluster(t, 4)
	c := cluster.start(t, "c1", nil)
	for i := range 20 {
		put(t, c, fmt.Sprint("k", i), "value", coord.All)
	}
	for _, force := range []bool{false, true} {
		plan, err := c.Plan(t.Context(), coord.PlanRequest{Remove: "storage-2", How: coord.Removal{Force: force}})
		if err != nil {
			t.Fatal(err)
		}
		var keys int64
		ranges := 0
		fromLost := false
		for _, m := range plan.Moves {
			keys, ranges = keys+m.Keys, ranges+m.Ranges
			fromLost = fromLost || m.From == "storage-2"
		}
		// There are more of them than keys, and at most one for each virtual node.
		if plan.Ranges <= 20 || plan.Ranges > 128 || ranges != plan.Ranges {
			t.Errorf("force %t: %d ranges change hands, %d in all moves; want the same, more than 20 and at most 128", force, plan.Ranges, ranges)
		}
		if keys == 0 || keys != plan.Keys || keys > 20 {
			t.Errorf("force %t: %d keys, %d in all moves; want some of 20", force, plan.Keys, keys)
		}
		if fromLost == force {
			t.Errorf("force %t: copies come from the node that leaves: %t", force, fromLost)
		}
	}
}
