package rpc

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ring"
	"github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// A coordinator carries out so many at once. Of imports others wait, of exports
// they are refused.
const (
	maxImports = 4
	maxExports = 4
)

// exportBytes is the size that a message of an export has at most, one with a
// single version aside.
const exportBytes = 1 << 20

// ExportVersions sends all versions of a tenant. The client's flow control
// bounds what is read ahead.
func (s *service) ExportVersions(req *coordinatorpb.ExportVersionsRequest, stream grpc.ServerStreamingServer[coordinatorpb.ExportVersionsResponse]) error {
	if err := checkTenant(req.TenantId); err != nil {
		return statusOf(err)
	}
	space, after, err := parseExportToken(req.ResumeToken)
	if err != nil {
		return statusOf(err)
	}
	select {
	case s.exports <- struct{}{}:
	default:
		return statusOf(fmt.Errorf("%w: %d exports are under way already", coord.ErrOverloaded, maxExports))
	}
	defer func() { <-s.exports }()
	var unsent error
	err = s.engine.Export(stream.Context(), coord.ExportRequest{Tenant: req.TenantId, Space: space, After: after}, func(page coord.ExportPage) error {
		if s.server.draining.Load() {
			return coord.ErrShuttingDown
		}
		unsent = sendPage(stream, req.TenantId, &page)
		return unsent
	})
	switch {
	case unsent != nil:
		return unsent // gRPC's own
	case err != nil:
		return statusOf(err)
	}
	return nil
}

// sendPage sends a page in messages of a good size.
func sendPage(stream grpc.ServerStreamingServer[coordinatorpb.ExportVersionsResponse], tenant string, page *coord.ExportPage) error {
	m := new(coordinatorpb.ExportVersionsResponse)
	size := 0
	for i := range page.Versions {
		v := &page.Versions[i]
		stored := &coordinatorpb.StoredVersion{Key: v.Key, Head: coord.AppendHead(nil, &v.Version.Head), Value: v.Version.Value}
		bytes := stored.SizeVT()
		if len(m.Versions) > 0 && (size+bytes > exportBytes || len(m.Versions) == MaxBatchItems) {
			last := page.Versions[i-1].Key
			m.ResumeToken = exportToken(page.Space, &coord.Position{Token: ring.KeyToken(tenant, last), Tenant: page.Space, Key: last})
			if err := stream.Send(m); err != nil {
				return err
			}
			m, size = new(coordinatorpb.ExportVersionsResponse), 0
		}
		m.Versions = append(m.Versions, stored)
		size += bytes
	}
	m.ResumeToken = exportToken(page.Space, page.After)
	return stream.Send(m)
}

// ImportVersions hands versions to replicas.
func (s *service) ImportVersions(ctx context.Context, req *coordinatorpb.ImportVersionsRequest) (*coordinatorpb.ImportVersionsResponse, error) {
	if err := checkTenant(req.TenantId); err != nil {
		return nil, err
	}
	versions := make([]coord.KeyVersion, len(req.Versions))
	for i, m := range req.Versions {
		if err := readStored(&versions[i], m); err != nil {
			return nil, fmt.Errorf("%w: versions[%d]: %w", coord.ErrInvalidRequest, i, err)
		}
	}
	select {
	case s.imports <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %d imports are under way", coord.ErrOverloaded, maxImports)
	}
	defer func() { <-s.imports }()
	result, err := s.engine.Import(ctx, req.TenantId, versions)
	if err != nil {
		return nil, err
	}
	return &coordinatorpb.ImportVersionsResponse{Success: true, Written: result.Written, Kept: result.Kept}, nil
}

// readStored reads a version as it was sent. What it then holds may share the
// message's memory.
func readStored(v *coord.KeyVersion, m *coordinatorpb.StoredVersion) error {
	if m == nil {
		return errors.New("it is absent")
	}
	if err := checkKey(m.Key); err != nil {
		return err
	}
	if err := checkValue(m.Value, MaxValueBytes); err != nil {
		return err
	}
	head, rest, err := coord.DecodeHead(m.Head, nil)
	switch {
	case err != nil:
		return err
	case len(rest) > 0:
		return fmt.Errorf("head has %d bytes behind its end", len(rest))
	case head.Tombstone && len(m.Value) > 0:
		return fmt.Errorf("a deletion has a value of %d bytes, want none", len(m.Value))
	}
	*v = coord.KeyVersion{Key: m.Key, Version: coord.Version{Head: head, Value: m.Value}}
	return nil
}
