package rpc

import (
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/rpc/storagepb"
)

// willing is an engine that does whatever it is asked.
func willing() *script {
	tenant := coord.Tenant{ID: "t", ReplicationFactor: 3}
	return &script{
		write: func(context.Context, coord.WriteRequest) (coord.WriteResult, error) {
			return coord.WriteResult{Level: coord.Quorum}, nil
		},
		read:    func(context.Context, coord.ReadRequest) (coord.ReadResult, error) { return coord.ReadResult{}, nil },
		keys:    func(coord.KeysRequest) (coord.KeysPage, error) { return coord.KeysPage{}, nil },
		tenants: func(string, int) ([]coord.Tenant, error) { return []coord.Tenant{tenant}, nil },
		tenant:  func(string) (coord.Tenant, error) { return tenant, nil },
		create:  func(string, int) (coord.Tenant, error) { return tenant, nil },
		setRF:   func(string, int) (coord.Tenant, coord.Migration, error) { return tenant, coord.Migration{}, nil },
		setLimits: func(string, coord.LimitsChange) (coord.Tenant, error) {
			return tenant, nil
		},
		drop:       func(string) error { return nil },
		addNode:    func(coord.StorageNode) (coord.Migration, error) { return coord.Migration{}, nil },
		removeNode: func(string, coord.Removal) (coord.Migration, error) { return coord.Migration{}, nil },
		explain: func(string, string, coord.Level) (coord.Explanation, error) {
			return coord.Explanation{}, nil
		},
		plan:   func(coord.PlanRequest) (coord.Plan, error) { return coord.Plan{}, nil },
		cancel: func(string) error { return nil },
		repair: func(context.Context, coord.RepairRequest, func(coord.RepairProgress)) error { return nil },
		nodes:  func() ([]coord.NodeState, error) { return nil, nil },
		export: func(_ coord.ExportRequest, send func(coord.ExportPage) error) error { return send(coord.ExportPage{}) },
		imports: func(string, []coord.KeyVersion) (coord.ImportResult, error) {
			return coord.ImportResult{}, nil
		},
	}
}

// Whatever bytes a request of any RPC holds, it is served, or its sender is told
// that it is bad: nothing is ever the coordinator's fault.
func FuzzRequest(f *testing.F) {
	_, conn := start(f, Options{Engine: willing()})
	var methods []string
	for method := range accessRules {
		methods = append(methods, method)
	}
	slices.Sort(methods)
	for i, method := range methods {
		raw, err := proto.Marshal(goodRequests()[method])
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), raw)
	}
	f.Fuzz(func(t *testing.T, which uint8, raw []byte) {
		method := methods[int(which)%len(methods)]
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		operation, err := deliver(ctx, conn, method, raw)
		if errors.Is(err, io.EOF) {
			return // a stream without an operation
		}
		code := status.Code(err)
		if operation != nil {
			code = codes.Code(operation.Code)
		}
		switch code {
		case codes.OK, codes.InvalidArgument, codes.NotFound, codes.FailedPrecondition:
		default:
			t.Errorf("%s: %v, %v", method, err, operation)
		}
	})
}

// Page tokens come back as they were made, and all others are refused.
func FuzzPageTokens(f *testing.F) {
	f.Add(keysToken("t", &coord.Position{Token: 1, Tenant: "t", Key: "k"}))
	f.Add(tenantsToken("t"))
	f.Add(exportToken("t", &coord.Position{Token: 1, Tenant: "t", Key: "k"}))
	f.Add("")
	f.Fuzz(func(t *testing.T, token string) {
		if after, err := parseTenantsToken(token); err == nil && after != "" {
			if again, err := parseTenantsToken(tenantsToken(after)); err != nil || again != after {
				t.Errorf("tenant %q comes back as %q, %v", after, again, err)
			}
		}
		if space, after, err := parseExportToken(token); err == nil && token != "" {
			if s, again, err := parseExportToken(exportToken(space, after)); err != nil || s != space || *again != *after {
				t.Errorf("%q, %+v comes back as %q, %+v, %v", space, after, s, again, err)
			}
		}
		if after, err := parseKeysToken("t", token); err == nil && after != nil {
			again, err := parseKeysToken("t", keysToken("t", after))
			if err != nil || *again != *after {
				t.Errorf("%+v comes back as %+v, %v", after, again, err)
			}
		}
	})
}

// Whatever a storage node or a coordinator is sent, what it takes for a version
// is a valid one.
func FuzzStorageVersion(f *testing.F) {
	v := coord.Version{Head: coord.Head{Timestamp: 5, Writer: coord.Writer{ID: "c", Incarnation: 1}, Clock: clockOf("c", "d")}, Value: []byte("v")}
	raw, err := new(outbound).set(&v.Head, v.Value).MarshalVT()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		m := new(storagepb.Version)
		if m.UnmarshalVTUnsafe(raw) != nil {
			return
		}
		var got coord.Version
		if _, err := new(names).version(&got, m); err != nil {
			return
		}
		if got.Timestamp == 0 || got.Writer.ID == "" {
			t.Errorf("version %+v is taken", got.Head)
		}
		var again coord.Version
		if _, err := new(names).version(&again, new(outbound).set(&got.Head, got.Value)); err != nil || again.Compare(&got.Head) != 0 {
			t.Errorf("%+v comes back as %+v, %v", got.Head, again.Head, err)
		}
	})
}
