package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

func explainKey(ctx context.Context, in *invocation) error {
	a, err := ask(ctx, in, pb.CoordinatorServiceClient.Explain,
		&pb.ExplainRequest{TenantId: in.tenant, Key: in.args[0], Consistency: in.consistency})
	if err != nil {
		return err
	}
	return in.answer(a, func(w io.Writer) error { return printExplanation(w, a) })
}

func printExplanation(w io.Writer, a *pb.ExplainResponse) error {
	if _, err := fmt.Fprintf(w, "key           %s\ntenant        %s, replication factor %d\ntoken         %016x, at %.2f%% of the ring of epoch %d\n\n",
		a.GetKey(), a.GetTenantId(), a.GetReplicationFactor(), a.GetToken(),
		float64(a.GetToken())/(1<<64)*100, a.GetEpoch()); err != nil {
		return err
	}
	rows := [][]string{{"ASKED", "NODE", "ADDRESS", "PLACE", "STANDING", "LATENCY", "P95", "OUTSTANDING", "OWED"}}
	for i, r := range a.GetReplicas() {
		owed := "-"
		if r.GetHints() > 0 || r.GetOwedRanges() > 0 {
			owed = fmt.Sprintf("%d hints, %d ranges", r.GetHints(), r.GetOwedRanges())
		}
		rows = append(rows, []string{
			fmt.Sprint(i + 1), r.GetNodeId(), r.GetAddress(), fmt.Sprint(r.GetPlace()), r.GetStanding() + note(r.GetUnavailableReason()),
			micros(r.GetLatencyUs()), micros(r.GetP95Us()), fmt.Sprint(r.GetOutstanding()), owed,
		})
	}
	if err := table(w, rows); err != nil {
		return err
	}
	if missing := int(a.GetReplicationFactor()) - len(a.GetReplicas()); missing > 0 {
		if _, err := fmt.Fprintf(w, "and %d more that no active node is there for\n", missing); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	for _, l := range a.GetLevels() {
		met, asked := "can be met", ""
		if !l.GetMet() {
			met = "cannot be met now"
		}
		if l.GetConsistency() == a.GetConsistency() {
			asked = ", which this request uses"
		}
		if _, err := fmt.Fprintf(w, "%-8s needs %d of %d: %s%s\n", l.GetConsistency(), l.GetNeed(), a.GetReplicationFactor(), met, asked); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "\n%s", strings.Join([]string{
		readPlan(a), writePlan(a), "",
	}, "\n"))
	return err
}

// readPlan and writePlan say what an operation would do, in the order of the replicas.
func readPlan(a *pb.ExplainResponse) string {
	asked := firstNodes(a, need(a))
	if asked == "" {
		return "A read would fail at once: too few replicas can be asked."
	}
	others := ""
	if need(a) > 1 {
		others = ", its value from the first and its version from the others"
	}
	return fmt.Sprintf("A read would ask %s%s; after %s without an answer, one more.", asked, others, micros(a.GetHedgeAfterUs()))
}

func writePlan(a *pb.ExplainResponse) string {
	if firstNodes(a, need(a)) == "" {
		return "A write would fail at once, and have no effect."
	}
	heads := need(a)
	if majority := int(a.GetReplicationFactor())/2 + 1; heads > majority {
		heads = majority
	}
	acknowledgements := "one acknowledgement"
	if need(a) > 1 {
		acknowledgements = fmt.Sprintf("%d acknowledgements", need(a))
	}
	return fmt.Sprintf("A write would ask %s for the version held, then send to all, and answer after %s.",
		firstNodes(a, heads), acknowledgements)
}

func need(a *pb.ExplainResponse) int {
	for _, l := range a.GetLevels() {
		if l.GetConsistency() == a.GetConsistency() {
			return int(l.GetNeed())
		}
	}
	return 0
}

// firstNodes names the first n replicas, nothing where not as many can be asked.
func firstNodes(a *pb.ExplainResponse, n int) string {
	var names []string
	for _, r := range a.GetReplicas() {
		if r.GetUnavailableReason() == "" && len(names) < n {
			names = append(names, r.GetNodeId())
		}
	}
	switch {
	case len(names) < n || n == 0:
		return ""
	case n == 1:
		return names[0]
	}
	return strings.Join(names[:n-1], ", ") + " and " + names[n-1]
}

func micros(us int64) string {
	if us == 0 {
		return "-"
	}
	return (time.Duration(us) * time.Microsecond).String()
}
