package rpc

import (
	"context"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/rpc/coordinatorpb"
)

func (s *service) CreateTenant(ctx context.Context, req *coordinatorpb.CreateTenantRequest) (*coordinatorpb.CreateTenantResponse, error) {
	if err := checkTenant(req.TenantId); err != nil {
		return nil, err
	}
	rf := req.ReplicationFactor
	if rf == 0 {
		rf = DefaultReplicationFactor
	}
	if err := checkReplicationFactor("replication_factor", rf); err != nil {
		return nil, err
	}
	tenant, err := s.engine.CreateTenant(ctx, req.TenantId, int(rf))
	if err != nil {
		return nil, err
	}
	return &coordinatorpb.CreateTenantResponse{
		Success:           true,
		TenantId:          tenant.ID,
		ReplicationFactor: int32(tenant.ReplicationFactor),
		CreatedAt:         tenant.CreatedAt.Unix(),
	}, nil
}

func (s *service) UpdateReplicationFactor(ctx context.Context, req *coordinatorpb.UpdateReplicationFactorRequest) (*coordinatorpb.UpdateReplicationFactorResponse, error) {
	if err := checkTenant(req.TenantId); err != nil {
		return nil, err
	}
	if err := checkReplicationFactor("new_replication_factor", req.NewReplicationFactor); err != nil {
		return nil, err
	}
	tenant, begun, err := s.engine.SetReplicationFactor(ctx, req.TenantId, int(req.NewReplicationFactor))
	if err != nil {
		return nil, err
	}
	return &coordinatorpb.UpdateReplicationFactorResponse{
		Success:              true,
		TenantId:             tenant.ID,
		OldReplicationFactor: int32(tenant.ReplicationFactor),
		NewReplicationFactor: req.NewReplicationFactor,
		MigrationId:          begun.ID,
		UpdatedAt:            tenant.UpdatedAt.Unix(),
	}, nil
}

func (s *service) GetTenant(ctx context.Context, req *coordinatorpb.GetTenantRequest) (*coordinatorpb.GetTenantResponse, error) {
	if err := checkTenant(req.TenantId); err != nil {
		return nil, err
	}
	tenant, err := s.engine.Tenant(ctx, req.TenantId)
	if err != nil {
		return nil, err
	}
	return tenantMessage(tenant), nil
}

func (s *service) ListTenants(ctx context.Context, req *coordinatorpb.ListTenantsRequest) (*coordinatorpb.ListTenantsResponse, error) {
	limit, err := checkPageSize(req.PageSize)
	if err != nil {
		return nil, err
	}
	after, err := parseTenantsToken(req.PageToken)
	if err != nil {
		return nil, err
	}
	// One more than the page tells whether there is a next one.
	tenants, err := s.engine.Tenants(ctx, after, limit+1)
	if err != nil {
		return nil, err
	}
	resp := new(coordinatorpb.ListTenantsResponse)
	if len(tenants) > limit {
		tenants = tenants[:limit]
		resp.NextPageToken = tenantsToken(tenants[limit-1].ID)
	}
	for _, t := range tenants {
		resp.Tenants = append(resp.Tenants, tenantMessage(t))
	}
	return resp, nil
}

func (s *service) DeleteTenant(ctx context.Context, req *coordinatorpb.DeleteTenantRequest) (*coordinatorpb.DeleteTenantResponse, error) {
	if err := checkTenant(req.TenantId); err != nil {
		return nil, err
	}
	if err := s.engine.DeleteTenant(ctx, req.TenantId); err != nil {
		return nil, err
	}
	return &coordinatorpb.DeleteTenantResponse{Success: true}, nil
}

func tenantMessage(t coord.Tenant) *coordinatorpb.GetTenantResponse {
	return &coordinatorpb.GetTenantResponse{
		Success:           true,
		TenantId:          t.ID,
		ReplicationFactor: int32(t.ReplicationFactor),
		CreatedAt:         t.CreatedAt.Unix(),
		UpdatedAt:         t.UpdatedAt.Unix(),
	}
}
