package rpc

import (
	"context"
	"fmt"
	"strings"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ring"
	"github.com/pairdb/coordinator/rpc/coordinatorpb"
)

func (s *service) AddStorageNode(ctx context.Context, req *coordinatorpb.AddStorageNodeRequest) (*coordinatorpb.AddStorageNodeResponse, error) {
	node, err := nodeToAdd(req)
	if err != nil {
		return nil, err
	}
	begun, err := s.engine.AddNode(ctx, node)
	if err != nil {
		return nil, err
	}
	message := "storage node " + req.NodeId + " is registered at " + node.Address()
	switch {
	case begun.ID != "" && begun.Kind == coord.MigrationReplace:
		message = "storage node " + req.NodeId + " replaces a lost disk: what that held is being rebuilt"
	case begun.ID != "":
		message = "storage node " + req.NodeId + " joins: its ranges are being copied to it"
	default:
		if under := s.unfinishedOf(ctx, req.NodeId); under != "" {
			message += "; migration " + under + " of it has not ended"
		}
	}
	return &coordinatorpb.AddStorageNodeResponse{Success: true, NodeId: req.NodeId, MigrationId: begun.ID, Message: message}, nil
}

// unfinishedOf is the migration of a node that waits or is under way, empty
// where there is none or nobody can say.
func (s *service) unfinishedOf(ctx context.Context, node string) string {
	all, err := s.engine.Migrations(ctx)
	if err != nil {
		return ""
	}
	for _, m := range all {
		if m.Node == node && (m.Status == coord.MigrationPending || m.Status == coord.MigrationInProgress) {
			return m.ID
		}
	}
	return ""
}

// nodeToAdd checks a request for a node.
func nodeToAdd(req *coordinatorpb.AddStorageNodeRequest) (coord.StorageNode, error) {
	if err := checkNodeID(req.NodeId); err != nil {
		return coord.StorageNode{}, err
	}
	if err := checkHost(req.Host); err != nil {
		return coord.StorageNode{}, err
	}
	if err := checkPort(req.Port); err != nil {
		return coord.StorageNode{}, err
	}
	if err := checkVirtualNodes(req.VirtualNodes); err != nil {
		return coord.StorageNode{}, err
	}
	node := coord.StorageNode{ID: req.NodeId, Host: req.Host, Port: int(req.Port), VirtualNodes: int(req.VirtualNodes)}
	if node.VirtualNodes == 0 {
		node.VirtualNodes = ring.DefaultVirtualNodes
	}
	return node, nil
}

func (s *service) RemoveStorageNode(ctx context.Context, req *coordinatorpb.RemoveStorageNodeRequest) (*coordinatorpb.RemoveStorageNodeResponse, error) {
	how, err := removal(req)
	if err != nil {
		return nil, err
	}
	begun, err := s.engine.RemoveNode(ctx, req.NodeId, how)
	if err != nil {
		return nil, err
	}
	message := "storage node " + req.NodeId + " leaves: its ranges are being copied to others"
	if how.Force {
		message = "storage node " + req.NodeId + " is given up: what it held is being rebuilt from the others"
	}
	return &coordinatorpb.RemoveStorageNodeResponse{Success: true, NodeId: req.NodeId, MigrationId: begun.ID, Message: message}, nil
}

func removal(req *coordinatorpb.RemoveStorageNodeRequest) (coord.Removal, error) {
	if err := checkNodeID(req.NodeId); err != nil {
		return coord.Removal{}, err
	}
	if req.AcceptDataLoss && !req.Force {
		return coord.Removal{}, fmt.Errorf("%w: accept_data_loss is set without force; a node that is not lost loses nothing", coord.ErrInvalidRequest)
	}
	return coord.Removal{Force: req.Force, AcceptLoss: req.AcceptDataLoss}, nil
}

func (s *service) ListStorageNodes(ctx context.Context, _ *coordinatorpb.ListStorageNodesRequest) (*coordinatorpb.ListStorageNodesResponse, error) {
	nodes, err := s.engine.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	resp := &coordinatorpb.ListStorageNodesResponse{Success: true}
	for i := range nodes {
		resp.Nodes = append(resp.Nodes, nodeMessage(&nodes[i]))
	}
	return resp, nil
}

func (s *service) GetStatus(ctx context.Context, _ *coordinatorpb.GetStatusRequest) (*coordinatorpb.GetStatusResponse, error) {
	status := s.engine.Status(ctx)
	// The nodes are asked themselves, for what they alone know.
	nodes, err := s.engine.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	resp := &coordinatorpb.GetStatusResponse{
		NodeId:      status.NodeID,
		Version:     s.version,
		Incarnation: status.Incarnation,
		Epoch:       status.Epoch,
		StartedAt:   status.StartedAt.Unix(),
		InFlight:    int32(status.InFlight),
	}
	for i := range nodes {
		n := &nodes[i]
		state := &coordinatorpb.NodeStatus{
			Node:      nodeMessage(n),
			Reachable: n.Unavailable == nil,
			LatencyUs: n.Latency.Microseconds(),

			Hints:      n.Debt.Hints,
			HintBytes:  n.Debt.Bytes,
			OwedRanges: int32(n.Debt.OwedRanges),
		}
		if !n.Debt.Oldest.IsZero() {
			state.OldestHintAt = n.Debt.Oldest.Unix()
		}
		if n.Unavailable != nil {
			state.UnavailableReason = strings.ToValidUTF8(n.Unavailable.Error(), "\uFFFD")
		}
		resp.Nodes = append(resp.Nodes, state)
	}
	return resp, nil
}

func nodeMessage(n *coord.NodeState) *coordinatorpb.StorageNodeInfo {
	return &coordinatorpb.StorageNodeInfo{
		NodeId:           n.ID,
		Host:             n.Host,
		Port:             int32(n.Port),
		Status:           string(n.Status),
		VirtualNodes:     int32(n.VirtualNodes),
		KeysCount:        n.Keys,
		DiskUsagePercent: float32(n.DiskUsedFraction * 100),
	}
}
