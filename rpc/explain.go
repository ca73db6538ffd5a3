package rpc

import (
	"context"
	"strings"

	"github.com/pairdb/coordinator/rpc/coordinatorpb"
)

func (s *service) Explain(ctx context.Context, req *coordinatorpb.ExplainRequest) (*coordinatorpb.ExplainResponse, error) {
	level, err := s.checkAddress(req.TenantId, req.Key, req.Consistency)
	if err != nil {
		return nil, err
	}
	e, err := s.engine.Explain(ctx, req.TenantId, req.Key, level)
	if err != nil {
		return nil, err
	}
	resp := &coordinatorpb.ExplainResponse{
		TenantId: req.TenantId, Key: req.Key,
		Epoch: e.Epoch, Token: uint64(e.Token),
		ReplicationFactor: int32(e.ReplicationFactor), Consistency: e.Level.String(),
		HedgeAfterUs: e.HedgeAfter.Microseconds(),
	}
	for i := range e.Replicas {
		r := &e.Replicas[i]
		replica := &coordinatorpb.ExplainedReplica{
			NodeId: r.Node.ID, Address: r.Node.Address(), Place: int32(r.Place), Standing: r.Standing.String(),
			LatencyUs: r.Latency.Microseconds(), P95Us: r.P95.Microseconds(), Outstanding: int32(r.Outstanding),
			Hints: r.Debt.Hints, OwedRanges: int32(r.Debt.OwedRanges),
		}
		if r.Unavailable != nil {
			replica.UnavailableReason = strings.ToValidUTF8(r.Unavailable.Error(), "\uFFFD")
		}
		resp.Replicas = append(resp.Replicas, replica)
	}
	for _, l := range e.Levels {
		resp.Levels = append(resp.Levels, &coordinatorpb.ExplainedLevel{Consistency: l.Level.String(), Need: int32(l.Need), Met: l.Met})
	}
	return resp, nil
}
