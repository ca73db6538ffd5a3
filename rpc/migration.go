package rpc

import (
	"context"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// Topology changes take effect at once: there is never one to be asked about.

func (s *service) GetMigrationStatus(_ context.Context, req *coordinatorpb.GetMigrationStatusRequest) (*coordinatorpb.GetMigrationStatusResponse, error) {
	if err := checkMigrationID(req.MigrationId); err != nil {
		return nil, err
	}
	return nil, coord.ErrMigrationNotFound
}

func (s *service) ListMigrations(context.Context, *coordinatorpb.ListMigrationsRequest) (*coordinatorpb.ListMigrationsResponse, error) {
	return new(coordinatorpb.ListMigrationsResponse), nil
}

func (s *service) CancelMigration(_ context.Context, req *coordinatorpb.CancelMigrationRequest) (*coordinatorpb.CancelMigrationResponse, error) {
	if err := checkMigrationID(req.MigrationId); err != nil {
		return nil, err
	}
	return nil, coord.ErrMigrationNotFound
}
