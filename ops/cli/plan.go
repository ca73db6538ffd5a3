package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"

	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// showPlan prints what a change of members would move.
func showPlan(ctx context.Context, in *invocation, req *pb.PlanNodeChangeRequest) error {
	a, err := ask(ctx, in, pb.CoordinatorServiceClient.PlanNodeChange, req)
	if err != nil {
		return err
	}
	return in.answer(a, func(w io.Writer) error {
		if _, err := fmt.Fprintf(w, "%d ranges change hands; %d keys (%s) would be copied\n\n", a.GetRanges(), a.GetKeys(), size(a.GetBytes())); err != nil {
			return err
		}
		moves := [][]string{{"FROM", "TO", "RANGES", "KEYS", "BYTES"}}
		for _, m := range a.GetMoves() {
			moves = append(moves, []string{m.GetFromNodeId(), m.GetToNodeId(), strconv.FormatInt(m.GetRanges(), 10),
				strconv.FormatInt(m.GetKeys(), 10), size(m.GetBytes())})
		}
		if err := table(w, moves); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
		nodes := [][]string{{"NODE", "KEYS BEFORE", "AFTER", "SHARE BEFORE", "AFTER"}}
		for _, n := range a.GetNodes() {
			nodes = append(nodes, []string{n.GetNodeId(), strconv.FormatInt(n.GetKeysBefore(), 10), strconv.FormatInt(n.GetKeysAfter(), 10),
				percent(float32(100 * n.GetShareBefore())), percent(float32(100 * n.GetShareAfter()))})
		}
		return table(w, nodes)
	})
}
