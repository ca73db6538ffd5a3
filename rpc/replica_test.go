package rpc

import (
	"bytes"
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pairdb/coordinator/coord"
)

// memoryReplica is a replica in memory whose answers a test can hold back.
type memoryReplica struct {
	id, uuid string

	mu   sync.Mutex
	held map[coord.Position]coord.Version
	fail error // of every call
	// epoch and topology are the last that Adopt was told.
	epoch    uint64
	topology []byte
	floor    int64 // of every head and read
	floors   []coord.RangeFloor
	boot     uint64
	clock    time.Duration
	// callBoot and callHeard are those of the last apply or drop.
	callBoot  uint64
	callHeard time.Duration
	// waiting are the calls that came while the replica was held.
	waiting []*coord.Call
	holding bool
	started atomic.Int64 // calls that came
}

func newMemoryReplica() *memoryReplica {
	return &memoryReplica{id: "storage-1", uuid: "uuid-1", held: make(map[coord.Position]coord.Version)}
}

// hold keeps back answers until release.
func (r *memoryReplica) hold() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.holding = true
}

// release answers what waited.
func (r *memoryReplica) release() {
	r.mu.Lock()
	waiting := r.waiting
	r.waiting, r.holding = nil, false
	r.mu.Unlock()
	for _, c := range waiting {
		r.Do(c)
	}
}

// forget drops the calls that wait: they are never answered.
func (r *memoryReplica) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting, r.holding = nil, false
}

func (r *memoryReplica) waits() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.waiting)
}

func (r *memoryReplica) failWith(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail = err
}

func (r *memoryReplica) Do(c *coord.Call) {
	r.started.Add(1)
	r.mu.Lock()
	if r.holding {
		r.waiting = append(r.waiting, c)
		r.mu.Unlock()
		return
	}
	err := r.fail
	if err == nil {
		err = r.answer(c)
	}
	r.mu.Unlock()
	c.Finish(err)
}

func (r *memoryReplica) answer(c *coord.Call) error {
	at := coord.Position{Token: c.Token, Tenant: c.Tenant, Key: c.Key}
	held := r.held[at]
	if c.Epoch != 0 && c.Epoch < r.epoch {
		return &coord.StaleRingError{Epoch: r.epoch}
	}
	switch c.Kind {
	case coord.CallDrop:
		r.callBoot, r.callHeard = c.Boot, c.Heard
		if held.Head.Compare(&c.Version.Head) == 0 {
			held = coord.Version{}
			delete(r.held, at)
		}
	case coord.CallApply:
		r.callBoot, r.callHeard = c.Boot, c.Heard
		store, err := coord.Admit(&held.Head, r.floor, &c.Version.Head, c.Intent, time.Now(), coord.DefaultMaxClockOffset)
		if err != nil {
			return err
		}
		if store {
			held = c.Version
			held.Value = bytes.Clone(held.Value)
			r.held[at] = held
		}
	}
	c.Held, c.Floor = held, r.floor
	if c.Kind != coord.CallRead {
		c.Held.Value = nil
	}
	return nil
}

func (r *memoryReplica) Unavailable() error { return nil }

func (r *memoryReplica) Describe(context.Context) (coord.NodeDescription, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return coord.NodeDescription{}, r.fail
	}
	return coord.NodeDescription{ID: r.id, UUID: r.uuid, Keys: int64(len(r.held)), DiskUsedFraction: 0.5}, nil
}

func (r *memoryReplica) Scan(_ context.Context, req coord.ScanRequest) (coord.ScanPage, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var page coord.ScanPage
	for at, v := range r.held {
		if (req.Tenant == "" || at.Tenant == req.Tenant) && req.Span.Contains(at.Token) && strings.HasPrefix(at.Key, req.Prefix) && (req.After == nil || at.Compare(*req.After) > 0) {
			page.Items = append(page.Items, coord.ScanItem{Position: at, Head: v.Head})
		}
	}
	slices.SortFunc(page.Items, func(a, b coord.ScanItem) int { return a.Position.Compare(b.Position) })
	if len(page.Items) > req.Limit {
		page.Items = page.Items[:req.Limit]
		page.Next = &page.Items[req.Limit-1].Position
	}
	return page, nil
}

func (r *memoryReplica) Heard() (uint64, time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.boot, r.clock
}

func (r *memoryReplica) Adopt(_ context.Context, epoch uint64, topology []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if epoch < r.epoch {
		return &coord.StaleRingError{Epoch: r.epoch}
	}
	r.epoch, r.topology = epoch, slices.Clone(topology)
	return nil
}

func (r *memoryReplica) Floors(_ context.Context, epoch uint64, raise []coord.RangeFloor) ([]coord.RangeFloor, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if epoch < r.epoch {
		return nil, &coord.StaleRingError{Epoch: r.epoch}
	}
	r.epoch, r.floors = epoch, append(r.floors, raise...)
	return slices.Clone(r.floors), nil
}

func (r *memoryReplica) Sums(_ context.Context, req coord.SumRequest) ([]coord.SpanSums, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	sums := make([]coord.SpanSums, len(req.Spans))
	for i, span := range req.Spans {
		for at, v := range r.held {
			if span.Contains(at.Token) {
				sums[i] = append(sums[i], coord.SpaceSum{Space: at.Tenant, Keys: 1, Sum: coord.VersionSum(at.Key, &v.Head)})
			}
		}
	}
	return sums, nil
}

func (r *memoryReplica) Close() error { return nil }

// storageNode is a served replica that can be stopped and started again at
// its address.
type storageNode struct {
	t       testing.TB
	replica coord.Replica
	address string
	speaks  speech
	server  *StorageServer
	served  chan error
}

func startStorage(t testing.TB, replica coord.Replica) *storageNode {
	t.Helper()
	return startSpeaking(t, replica, spoken)
}

// startSpeaking serves as a release does that speaks those versions of the protocol.
func startSpeaking(t testing.TB, replica coord.Replica, s speech) *storageNode {
	t.Helper()
	n := &storageNode{t: t, replica: replica, address: "127.0.0.1:0", speaks: s}
	n.start()
	t.Cleanup(n.kill)
	return n
}

func (n *storageNode) start() {
	n.t.Helper()
	lis, err := net.Listen("tcp", n.address)
	if err != nil {
		n.t.Fatal(err)
	}
	n.address = lis.Addr().String()
	if n.server, err = NewStorageServer(StorageServerOptions{Replica: n.replica, speaks: n.speaks}); err != nil {
		n.t.Fatal(err)
	}
	n.served = make(chan error, 1)
	server, served := n.server, n.served
	go func() { served <- server.Serve(lis) }()
}

// kill cuts every connection.
func (n *storageNode) kill() {
	if n.server == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	n.server.Stop(ctx)
	n.server = nil
	if err := <-n.served; err != nil {
		n.t.Errorf("serve: %v", err)
	}
}

// connect returns a client that is connected.
func (n *storageNode) connect(opts StorageOptions) *StorageClient {
	n.t.Helper()
	opts.Address = n.address
	c, err := DialStorage(opts)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { c.Close() })
	eventually(n.t, "connected", func() bool { return c.Unavailable() == nil && c.large.unavailable() == nil })
	return c
}

// ended receives finished calls.
type ended chan *coord.Call

func (e ended) Done(c *coord.Call) { e <- c }

func (e ended) wait(t testing.TB) *coord.Call {
	t.Helper()
	select {
	case c := <-e:
		return c
	case <-time.After(10 * time.Second):
		t.Fatal("a call did not end within 10 s")
		return nil
	}
}
