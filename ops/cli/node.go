package cli

import (
	"cmp"
	"context"
	"flag"
	"io"
	"net"
	"strconv"

	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

func nodeCommands() []command {
	return []command{
		{name: "node add", args: "ID HOST:PORT", count: [2]int{2, 2}, summary: "Add a storage node", flags: addNode},
		{name: "node remove", args: "ID", count: [2]int{1, 1}, summary: "Take a storage node out", flags: removeNode},
		{name: "node list", summary: "List the storage nodes", run: listNodes},
	}
}

func addNode(fs *flag.FlagSet) action {
	virtualNodes := fs.Int("virtual-nodes", 0, "weight, as a number of virtual nodes; 0 means 150")
	plan := fs.Bool("plan", false, "only say what would move, and change nothing")
	return func(ctx context.Context, in *invocation) error {
		host, portText, err := net.SplitHostPort(in.args[1])
		if err != nil || host == "" {
			return wrongUsage("%q is not HOST:PORT", in.args[1])
		}
		port, err := strconv.ParseUint(portText, 10, 16)
		if err != nil || port == 0 {
			return wrongUsage("%q is not HOST:PORT with a port from 1 to 65535", in.args[1])
		}
		weight, err := int32Argument("-virtual-nodes", strconv.Itoa(*virtualNodes))
		if err != nil {
			return err
		}
		req := &pb.AddStorageNodeRequest{NodeId: in.args[0], Host: host, Port: int32(port), VirtualNodes: weight}
		if *plan {
			return showPlan(ctx, in, &pb.PlanNodeChangeRequest{Add: req})
		}
		a, err := ask(ctx, in, pb.CoordinatorServiceClient.AddStorageNode, req)
		if err != nil {
			return err
		}
		return in.answer(a, printf("%s%s\n", cmp.Or(a.GetMessage(), "adding node "+a.GetNodeId()), migrationNote(a.GetMigrationId())))
	}
}

func removeNode(fs *flag.FlagSet) action {
	force := fs.Bool("force", false, "the node is lost: rebuild what it held from the others")
	accept := fs.Bool("accept-data-loss", false, "with -force: although some keys have no other replica")
	plan := fs.Bool("plan", false, "only say what would move, and change nothing")
	return func(ctx context.Context, in *invocation) error {
		req := &pb.RemoveStorageNodeRequest{NodeId: in.args[0], Force: *force, AcceptDataLoss: *accept}
		if *plan {
			return showPlan(ctx, in, &pb.PlanNodeChangeRequest{Remove: req})
		}
		a, err := ask(ctx, in, pb.CoordinatorServiceClient.RemoveStorageNode, req)
		if err != nil {
			return err
		}
		return in.answer(a, printf("%s%s\n", cmp.Or(a.GetMessage(), "removing node "+a.GetNodeId()), migrationNote(a.GetMigrationId())))
	}
}

func listNodes(ctx context.Context, in *invocation) error {
	a, err := ask(ctx, in, pb.CoordinatorServiceClient.ListStorageNodes, &pb.ListStorageNodesRequest{})
	if err != nil {
		return err
	}
	return in.answer(a, func(w io.Writer) error {
		rows := [][]string{nodeHeader}
		for _, n := range a.GetNodes() {
			rows = append(rows, nodeRow(n))
		}
		return table(w, rows)
	})
}

var nodeHeader = []string{"NODE", "ADDRESS", "STATUS", "VIRTUAL NODES", "KEYS", "DISK"}

func nodeRow(n *pb.StorageNodeInfo) []string {
	return []string{
		n.GetNodeId(), net.JoinHostPort(n.GetHost(), strconv.Itoa(int(n.GetPort()))), n.GetStatus(),
		strconv.Itoa(int(n.GetVirtualNodes())), strconv.FormatInt(n.GetKeysCount(), 10), percent(n.GetDiskUsagePercent()),
	}
}

func percent(p float32) string { return strconv.FormatFloat(float64(p), 'f', 1, 32) + "%" }
