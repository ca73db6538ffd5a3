package rpc

import (
	"google.golang.org/grpc"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// scanPage is how many keys a message of a scan holds at most.
const scanPage = 1000

// ScanKeys sends all of a tenant's keys, page by page.
func (s *service) ScanKeys(req *coordinatorpb.ScanKeysRequest, stream grpc.ServerStreamingServer[coordinatorpb.ScanKeysResponse]) error {
	if err := checkTenant(req.TenantId); err != nil {
		return statusOf(err)
	}
	if err := checkText("prefix", req.Prefix, 0, MaxKeyBytes); err != nil {
		return statusOf(err)
	}
	after, err := parseKeysToken(req.TenantId, req.ResumeToken)
	if err != nil {
		return statusOf(err)
	}
	for {
		if s.server.draining.Load() {
			return statusOf(coord.ErrShuttingDown)
		}
		page, err := s.engine.Keys(stream.Context(), coord.KeysRequest{Tenant: req.TenantId, Prefix: req.Prefix, After: after, Limit: scanPage})
		if err != nil {
			return statusOf(err)
		}
		if len(page.Keys) > 0 || page.Next == nil {
			if err := stream.Send(&coordinatorpb.ScanKeysResponse{Keys: page.Keys, ResumeToken: keysToken(req.TenantId, page.Next)}); err != nil {
				return err
			}
		}
		if after = page.Next; after == nil {
			return nil
		}
	}
}
