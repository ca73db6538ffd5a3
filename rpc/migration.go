package rpc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ring"
	"github.com/pairdb/coordinator/rpc/coordinatorpb"
)

func (s *service) GetMigrationStatus(ctx context.Context, req *coordinatorpb.GetMigrationStatusRequest) (*coordinatorpb.GetMigrationStatusResponse, error) {
	if err := checkMigrationID(req.MigrationId); err != nil {
		return nil, err
	}
	m, err := s.engine.Migration(ctx, req.MigrationId)
	if err != nil {
		return nil, err
	}
	return migrationMessage(&m), nil
}

func (s *service) ListMigrations(ctx context.Context, _ *coordinatorpb.ListMigrationsRequest) (*coordinatorpb.ListMigrationsResponse, error) {
	all, err := s.engine.Migrations(ctx)
	if err != nil {
		return nil, err
	}
	resp := new(coordinatorpb.ListMigrationsResponse)
	for i := range all {
		resp.Migrations = append(resp.Migrations, migrationMessage(&all[i]))
	}
	return resp, nil
}

func (s *service) CancelMigration(ctx context.Context, req *coordinatorpb.CancelMigrationRequest) (*coordinatorpb.CancelMigrationResponse, error) {
	if err := checkMigrationID(req.MigrationId); err != nil {
		return nil, err
	}
	if err := s.engine.CancelMigration(ctx, req.MigrationId); err != nil {
		return nil, err
	}
	return &coordinatorpb.CancelMigrationResponse{Success: true}, nil
}

func migrationMessage(m *coord.MigrationState) *coordinatorpb.GetMigrationStatusResponse {
	text := m.Error
	if text == "" {
		text = m.Waiting
	}
	return &coordinatorpb.GetMigrationStatusResponse{
		Success:     true,
		MigrationId: m.ID,
		Type:        m.Kind.Type(),
		NodeId:      m.Node,
		Status:      string(m.Status),
		Progress: &coordinatorpb.MigrationProgress{
			KeysMigrated: m.Keys,
			TotalKeys:    m.Total,
			Percentage:   float32(100 * m.Part),
		},
		StartedAt:           unixOrZero(m.StartedAt),
		EstimatedCompletion: unixOrZero(m.Ends),
		ErrorMessage:        text,
		TenantId:            m.Tenant,
		CreatedAt:           unixOrZero(m.CreatedAt),
		EndedAt:             unixOrZero(m.EndedAt),
		BytesRead:           m.Bytes,
	}
}

func unixOrZero(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

func (s *service) PlanNodeChange(ctx context.Context, req *coordinatorpb.PlanNodeChangeRequest) (*coordinatorpb.PlanNodeChangeResponse, error) {
	var ask coord.PlanRequest
	switch {
	case (req.Add == nil) == (req.Remove == nil):
		return nil, fmt.Errorf("%w: want one of add and remove", coord.ErrInvalidRequest)
	case req.Add != nil:
		node, err := nodeToAdd(req.Add)
		if err != nil {
			return nil, err
		}
		ask.Add = &node
	default:
		how, err := removal(req.Remove)
		if err != nil {
			return nil, err
		}
		ask.Remove, ask.How = req.Remove.NodeId, how
	}
	plan, err := s.engine.Plan(ctx, ask)
	if err != nil {
		return nil, err
	}
	resp := &coordinatorpb.PlanNodeChangeResponse{Ranges: int64(plan.Ranges), Keys: plan.Keys, Bytes: plan.Bytes}
	for _, m := range plan.Moves {
		resp.Moves = append(resp.Moves, &coordinatorpb.PlannedMove{
			FromNodeId: m.From, ToNodeId: m.To, Ranges: int64(m.Ranges), Keys: m.Keys, Bytes: m.Bytes,
		})
	}
	for _, n := range plan.Nodes {
		resp.Nodes = append(resp.Nodes, &coordinatorpb.PlannedNode{
			NodeId: n.ID, KeysBefore: n.KeysBefore, KeysAfter: n.KeysAfter, ShareBefore: n.ShareBefore, ShareAfter: n.ShareAfter,
		})
	}
	return resp, nil
}

// RepairReplicas tells its progress at most so often.
const repairTold = 500 * time.Millisecond

// RepairReplicas compares replicas while the client listens.
func (s *service) RepairReplicas(req *coordinatorpb.RepairReplicasRequest, stream grpc.ServerStreamingServer[coordinatorpb.RepairReplicasResponse]) error {
	ask := coord.RepairRequest{Tenant: req.TenantId, Span: ring.Span{First: ring.Token(req.FirstToken), Last: ring.Token(req.LastToken)}}
	if req.TenantId != "" {
		if err := checkTenant(req.TenantId); err != nil {
			return statusOf(err)
		}
	}
	if req.FirstToken == 0 && req.LastToken == 0 {
		ask.Span = ring.Everything()
	}
	if ask.Span.First > ask.Span.Last {
		return statusOf(fmt.Errorf("%w: first_token is greater than last_token", coord.ErrInvalidRequest))
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	defer context.AfterFunc(s.server.streams, func() { cancel(coord.ErrShuttingDown) })()
	var last coord.RepairProgress
	var told time.Time
	err := s.engine.Repair(ctx, ask, func(p coord.RepairProgress) {
		last = p
		if time.Since(told) >= repairTold {
			told = time.Now()
			if err := stream.Send(repairMessage(p, false)); err != nil {
				cancel(err)
			}
		}
	})
	if err != nil {
		if cause := context.Cause(ctx); errors.Is(cause, coord.ErrShuttingDown) {
			err = cause
		}
		return statusOf(err)
	}
	return stream.Send(repairMessage(last, true))
}

func repairMessage(p coord.RepairProgress, done bool) *coordinatorpb.RepairReplicasResponse {
	return &coordinatorpb.RepairReplicasResponse{
		Spans: p.Spans, Compared: p.Compared, Differed: p.Differed, Skipped: p.Skipped,
		KeysRepaired: p.Keys, BytesRepaired: p.Bytes, Done: done,
	}
}
