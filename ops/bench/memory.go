package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ops/metrics"
	"github.com/pairdb/coordinator/ring"
	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// memoryCommand makes this program a gRPC server with the engine behind it and
// maps in its own memory for replicas: what a coordinator itself costs, without
// the way to replicas.
const memoryCommand = "serve-memory"

// tenantName is the id of the i-th tenant of such a coordinator.
func tenantName(i int) string { return "tenant-" + strconv.Itoa(i) }

// manyTenants is metadata with a fixed topology in which every tenant exists.
// What would change either is not there: nothing here calls it.
type manyTenants struct {
	coord.Metadata
	topology coord.Topology
}

func (m *manyTenants) Topology(context.Context) (coord.Topology, error) { return m.topology, nil }

func (m *manyTenants) Tenant(_ context.Context, id string) (coord.Tenant, error) {
	return coord.Tenant{ID: id, Space: id, ReplicationFactor: replicationFactor, AsOf: m.topology.Epoch}, nil
}

// AcquireLease never gives the lease: there is no house to keep.
func (*manyTenants) AcquireLease(context.Context, string, string, time.Duration) (bool, error) {
	return false, nil
}

func (*manyTenants) ReleaseLease(context.Context, string, string) error { return nil }

// noClaims is there because an engine needs a store of claims: no request has
// an idempotency key.
type noClaims struct{ coord.Idempotency }

// memoryReplica keeps versions in a map.
type memoryReplica struct {
	node coord.StorageNode
	mu   sync.Mutex
	data map[[2]string]coord.Version // by tenant and key
}

func (m *memoryReplica) Do(c *coord.Call) {
	m.mu.Lock()
	at := [2]string{c.Tenant, c.Key}
	held := m.data[at]
	if c.Kind == coord.CallApply {
		store, err := coord.Admit(&held.Head, 0, &c.Version.Head, c.Intent, time.Now(), coord.DefaultMaxClockOffset)
		if err != nil {
			m.mu.Unlock()
			c.Finish(err)
			return
		}
		if store {
			held = c.Version
			held.Value = bytes.Clone(held.Value)
			m.data[at] = held
		}
	}
	m.mu.Unlock()
	c.Held = held
	if c.Kind != coord.CallRead {
		c.Held.Value = nil
	}
	c.Finish(nil)
}

func (*memoryReplica) Unavailable() error { return nil }

func (m *memoryReplica) Describe(context.Context) (coord.NodeDescription, error) {
	return coord.NodeDescription{ID: m.node.ID, UUID: m.node.UUID}, nil
}

func (*memoryReplica) Scan(context.Context, coord.ScanRequest) (coord.ScanPage, error) {
	return coord.ScanPage{}, errors.New("a replica in memory lists no keys")
}

func (*memoryReplica) Heard() (uint64, time.Duration) { return 0, 0 }

func (*memoryReplica) Adopt(context.Context, uint64, []byte) error { return nil }

func (*memoryReplica) Sums(context.Context, coord.SumRequest) ([]coord.SpanSums, error) {
	return nil, errors.New("a replica in memory adds nothing up")
}

func (*memoryReplica) Floors(context.Context, uint64, []coord.RangeFloor) ([]coord.RangeFloor, error) {
	return nil, errors.New("a replica in memory forgets nothing")
}

func (*memoryReplica) Close() error { return nil }

// memoryService answers reads and writes by an engine.
type memoryService struct {
	pb.UnimplementedCoordinatorServiceServer
	engine *coord.Coordinator
}

func (m *memoryService) WriteKeyValue(ctx context.Context, req *pb.WriteKeyValueRequest) (*pb.WriteKeyValueResponse, error) {
	_, err := m.engine.Write(ctx, coord.WriteRequest{Tenant: req.TenantId, Key: req.Key, Value: req.Value})
	if err != nil {
		return nil, err
	}
	return &pb.WriteKeyValueResponse{
		Success: true, Key: req.Key, IdempotencyKey: "0123456789abcdef0123456789abcdef",
		VectorClock: echoClock, ReplicaCount: 2, Consistency: "quorum",
	}, nil
}

func (m *memoryService) ReadKeyValue(ctx context.Context, req *pb.ReadKeyValueRequest) (*pb.ReadKeyValueResponse, error) {
	found, err := m.engine.Read(ctx, coord.ReadRequest{Tenant: req.TenantId, Key: req.Key})
	if err != nil {
		return nil, err
	}
	return &pb.ReadKeyValueResponse{
		Success: true, Key: req.Key, Value: found.Value, VectorClock: echoClock, UpdatedAt: found.UpdatedAt.UnixMilli(),
	}, nil
}

// newMemoryEngine makes an engine over so many replicas in memory.
func newMemoryEngine(ctx context.Context, nodes int) (*coord.Coordinator, error) {
	metadata := &manyTenants{topology: coord.Topology{Version: 1, Epoch: 1}}
	for i := range nodes {
		id := fmt.Sprintf("storage-%03d", i+1)
		metadata.topology.Nodes = append(metadata.topology.Nodes, coord.StorageNode{
			ID: id, UUID: "uuid-" + id, Host: "memory", VirtualNodes: ring.DefaultVirtualNodes, Status: coord.NodeActive,
		})
	}
	measured := metrics.New("bench", "")
	return coord.New(ctx, coord.Options{
		Identity: coord.Identity{Writer: coord.Writer{ID: "bench", Incarnation: 1}},
		Metadata: metadata, Idempotency: noClaims{}, Events: measured.Events(),
		Connect: func(n coord.StorageNode) (coord.Replica, error) {
			return &memoryReplica{node: n, data: map[[2]string]coord.Version{}}, nil
		},
	})
}

// serveMemory serves with so many replicas until it is killed. It prints its
// address on a line.
func serveMemory(nodes int) error {
	debug.SetGCPercent(400) // as the coordinator's own program
	engine, err := newMemoryEngine(context.Background(), nodes)
	if err != nil {
		return err
	}
	return serveUntilKilled(newServer(&memoryService{engine: engine}))
}

// spread is a transport whose keys belong to many tenants in turn.
type spread struct {
	*unary
	tenants []string
}

func (s spread) lane(worker int, _ string) lane {
	return &spreadLane{s.unary.lane(worker, "").(*unaryLane), s.tenants}
}

type spreadLane struct {
	*unaryLane
	tenants []string
}

// tenantOf is the tenant of a key of the load's.
func (l *spreadLane) tenantOf(key string) (string, error) {
	n, err := strconv.Atoi(key[strings.LastIndexByte(key, '-')+1:])
	if err != nil {
		return "", fmt.Errorf("key %q has no number: %w", key, err)
	}
	return l.tenants[n%len(l.tenants)], nil
}

func (l *spreadLane) write(ctx context.Context, key, idempotencyKey string, value []byte) (err error) {
	if l.writeReq.TenantId, err = l.tenantOf(key); err != nil {
		return err
	}
	return l.unaryLane.write(ctx, key, idempotencyKey, value)
}

func (l *spreadLane) read(ctx context.Context, key string) (err error) {
	if l.readReq.TenantId, err = l.tenantOf(key); err != nil {
		return err
	}
	return l.unaryLane.read(ctx, key)
}

// The sizes that are compared.
const (
	fewNodes, fewTenants  = 3, 1
	manyNodes, allTenants = 100, 10_000
)

// scalingTurns is how many turns each size takes for an operation.
const scalingTurns = 4

// scaling compares what an operation costs a coordinator of many tenants and
// nodes with what it costs one of few.
func (b *bench) scaling(ctx context.Context) error {
	type size struct {
		system *system
		way    transport
	}
	begin := func(nodes, tenants int) (size, error) {
		s, err := b.launcher.launch(ctx, layout{name: systemMemory, nodes: nodes})
		if err != nil {
			return size{}, err
		}
		names := make([]string, tenants)
		for i := range names {
			names[i] = tenantName(i)
		}
		way := spread{s.unary, names}
		if err := b.load.prepare(ctx, way, ""); err != nil {
			s.close()
			return size{}, err
		}
		return size{s, way}, nil
	}
	few, err := begin(fewNodes, fewTenants)
	if err != nil {
		return err
	}
	defer few.system.close()
	many, err := begin(manyNodes, allTenants)
	if err != nil {
		return err
	}
	defer many.system.close()
	for _, do := range []operation{opWrite, opRead} {
		costs := [2]*sample{newSample(), newSample()}
		for turn := range 2 * scalingTurns {
			i := (turn + turn/2) % 2 // few, many, many, few
			on := []size{few, many}[i]
			got, err := b.load.run(ctx, on.system, on.way, drive{do: do, warmUp: tuneWarmUp, length: b.length / scalingTurns})
			if err != nil {
				return err
			}
			costs[i].add(got)
		}
		before, after := costs[0].perOp(costs[0].cpu[few.system.server]), costs[1].perOp(costs[1].cpu[many.system.server])
		b.report.judge(atMost(1.25, 0).judge(fmt.Sprintf("%d tenants on %d nodes: CPU per %s over that of 1 on 3", allTenants, manyNodes, do), after/before))
		b.report.note("replicas in memory, %s: %.1f us of the coordinator's processor time with 1 tenant on %d nodes, %.1f with %d on %d; p99 %v and %v %s %s",
			do, before, fewNodes, after, allTenants, manyNodes, costs[0].quantile(99), costs[1].quantile(99), costs[0].failures(), costs[1].failures())
	}
	return nil
}
