package rpc

import (
	"context"
	"strings"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ring"
	"github.com/pairdb/coordinator/rpc/coordinatorpb"
)

func (s *service) AddStorageNode(ctx context.Context, req *coordinatorpb.AddStorageNodeRequest) (*coordinatorpb.AddStorageNodeResponse, error) {
	if err := checkNodeID(req.NodeId); err != nil {
		return nil, err
	}
	if err := checkHost(req.Host); err != nil {
		return nil, err
	}
	if err := checkPort(req.Port); err != nil {
		return nil, err
	}
	if err := checkVirtualNodes(req.VirtualNodes); err != nil {
		return nil, err
	}
	node := coord.StorageNode{
		ID:           req.NodeId,
		Host:         req.Host,
		Port:         int(req.Port),
		VirtualNodes: int(req.VirtualNodes),
		Status:       coord.NodeActive,
	}
	if node.VirtualNodes == 0 {
		node.VirtualNodes = ring.DefaultVirtualNodes
	}
	if err := s.engine.AddNode(ctx, node); err != nil {
		return nil, err
	}
	return &coordinatorpb.AddStorageNodeResponse{
		Success: true,
		NodeId:  req.NodeId,
		Message: "storage node " + req.NodeId + " is registered at " + node.Address(),
	}, nil
}

func (s *service) RemoveStorageNode(ctx context.Context, req *coordinatorpb.RemoveStorageNodeRequest) (*coordinatorpb.RemoveStorageNodeResponse, error) {
	if err := checkNodeID(req.NodeId); err != nil {
		return nil, err
	}
	if err := s.engine.RemoveNode(ctx, req.NodeId, req.Force); err != nil {
		return nil, err
	}
	return &coordinatorpb.RemoveStorageNodeResponse{
		Success: true,
		NodeId:  req.NodeId,
		Message: "storage node " + req.NodeId + " is removed",
	}, nil
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
