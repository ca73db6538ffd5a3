package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

func showStatus(ctx context.Context, in *invocation) error {
	a, err := ask(ctx, in, pb.CoordinatorServiceClient.GetStatus, &pb.GetStatusRequest{})
	if err != nil {
		return err
	}
	return in.answer(a, func(w io.Writer) error {
		if _, err := fmt.Fprintf(w, "coordinator   %s\nversion       %s\nincarnation   %d\nstarted       %s\nring epoch    %d\nin flight     %d\n\n",
			a.GetNodeId(), a.GetVersion(), a.GetIncarnation(), moment(a.GetStartedAt()), a.GetEpoch(), a.GetInFlight()); err != nil {
			return err
		}
		rows := [][]string{append(nodeHeader[:len(nodeHeader):len(nodeHeader)], "HINTS", "OLDEST", "OWED", "REACHABLE", "LATENCY")}
		for _, n := range a.GetNodes() {
			reachable := "yes"
			if !n.GetReachable() {
				reachable = "no" + note(n.GetUnavailableReason())
			}
			latency := "-"
			if us := n.GetLatencyUs(); us > 0 {
				latency = (time.Duration(us) * time.Microsecond).String()
			}
			oldest := "-"
			if at := n.GetOldestHintAt(); at > 0 {
				oldest = time.Since(time.Unix(at, 0)).Round(time.Second).String()
			}
			rows = append(rows, append(nodeRow(n.GetNode()), fmt.Sprint(n.GetHints()), oldest, fmt.Sprint(n.GetOwedRanges()), reachable, latency))
		}
		return table(w, rows)
	})
}

// note is what comes behind a word that it explains, if there is anything.
func note(message string) string {
	if message == "" {
		return ""
	}
	return ": " + message
}
