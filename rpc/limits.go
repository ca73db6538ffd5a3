package rpc

import (
	"context"
	"fmt"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// maxLimit bounds each limit of a tenant.
const maxLimit = 1 << 50

func (s *service) GetTenantLimits(ctx context.Context, req *coordinatorpb.GetTenantLimitsRequest) (*coordinatorpb.GetTenantLimitsResponse, error) {
	if err := checkTenant(req.TenantId); err != nil {
		return nil, err
	}
	t, err := s.engine.Tenant(ctx, req.TenantId)
	if err != nil {
		return nil, err
	}
	return &coordinatorpb.GetTenantLimitsResponse{
		Success: true, TenantId: t.ID, Set: limitsMessage(t.Limits), InForce: limitsMessage(s.server.limiter.InForce(t.Limits)),
	}, nil
}

func (s *service) SetTenantLimits(ctx context.Context, req *coordinatorpb.SetTenantLimitsRequest) (*coordinatorpb.SetTenantLimitsResponse, error) {
	if err := checkTenant(req.TenantId); err != nil {
		return nil, err
	}
	for field, limit := range map[string]*int64{
		"operations_per_second": req.OperationsPerSecond, "bytes_per_second": req.BytesPerSecond, "concurrency": req.Concurrency,
	} {
		if limit != nil && (*limit < coord.NoLimit || *limit > maxLimit) {
			return nil, fmt.Errorf("%w: %s is %d, want %d (no limit), 0 (as configured), or 1 to %d",
				coord.ErrInvalidRequest, field, *limit, coord.NoLimit, maxLimit)
		}
	}
	t, err := s.engine.SetTenantLimits(ctx, req.TenantId, coord.LimitsChange{
		OperationsPerSecond: req.OperationsPerSecond, BytesPerSecond: req.BytesPerSecond, Concurrency: req.Concurrency,
	})
	if err != nil {
		return nil, err
	}
	return &coordinatorpb.SetTenantLimitsResponse{
		Success: true, TenantId: t.ID, Set: limitsMessage(t.Limits), InForce: limitsMessage(s.server.limiter.InForce(t.Limits)),
	}, nil
}

func limitsMessage(l coord.TenantLimits) *coordinatorpb.TenantLimits {
	return &coordinatorpb.TenantLimits{
		OperationsPerSecond: l.OperationsPerSecond, BytesPerSecond: l.BytesPerSecond, Concurrency: l.Concurrency,
	}
}
