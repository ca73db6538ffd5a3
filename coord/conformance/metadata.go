package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pairdb/coordinator/coord"
)

// patience bounds every call of the metadata suite that is expected to
// succeed, and what a test waits for others to do.
const patience = 30 * time.Second

// OpenMetadata opens another handle on one store, as another coordinator (or
// the same one after a restart) would. It fails the test where it cannot.
type OpenMetadata func(t *testing.T) coord.Metadata

// Metadata checks every sentence of coord.Metadata. NewStore makes an empty
// store, apart from those made before, and returns how to open it; the suite
// opens several handles on it at a time and closes them.
func Metadata(t *testing.T, newStore func(t *testing.T) OpenMetadata) {
	tests := []struct {
		name string
		run  func(t *testing.T, m *metadataTest)
	}{
		{"tenant/create", createTenant},
		{"tenant/create concurrently", createTenantConcurrently},
		{"tenant/not found", tenantNotFound},
		{"tenant/delete", deleteTenant},
		{"tenant/spaces", tenantSpaces},
		{"tenant/spaces concurrently", tenantSpacesConcurrently},
		{"tenant/ids are distinct", tenantIDsAreDistinct},
		{"tenant/pages", tenantPages},
		{"tenant/epochs", tenantEpochs},
		{"tenant/replication factors", replicationFactors},
		{"topology/empty", emptyTopology},
		{"topology/document", topologyDocument},
		{"topology/outdated version", outdatedVersion},
		{"topology/concurrent changes", concurrentTopologyChanges},
		{"topology/least replicas", leastReplicas},
		{"topology/least replicas concurrently", leastReplicasConcurrently},
		{"topology/most replicas", mostReplicas},
		{"topology/removal against creation", removalAgainstCreation},
		{"topology/resize", resizeTenant},
		{"topology/resize of one that is gone", resizeGoneTenant},
		{"topology/resize of one that another has followed", resizeFollower},
		{"tenant/created as of an epoch", createAtEpoch},
		{"topology/snapshot", topologySnapshot},
		{"checkpoint/save and remove", saveCheckpoints},
		{"checkpoint/bound", checkpointBound},
		{"checkpoint/concurrently", checkpointsConcurrently},
		{"identity/incarnations", incarnations},
		{"identity/taken", identityTaken},
		{"identity/waits for release", identityWaits},
		{"identity/one holder at a time", identityOneHolder},
		{"identity/concurrent ids", concurrentIdentities},
		{"identity/auto takes the lowest free", autoIdentity},
		{"identity/auto concurrently", concurrentAutoIdentities},
		{"lease/one owner", leaseOwner},
		{"tenant/limits", tenantLimits},
		{"lease/release", leaseRelease},
		{"lease/ends", leaseEndsByItself},
		{"lease/renewed", leaseRenewed},
		{"lease/concurrently", concurrentLeases},
		{"watch/changes", watchChanges},
		{"watch/several", watchSeveral},
		{"watch/ends", watchEnds},
		{"ended context", endedContext},
		{"ping and close", pingAndClose},
		{"reopen", reopen},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			t.Cleanup(cancel)
			test.run(t, &metadataTest{ctx: ctx, openStore: newStore(t)})
		})
	}
}

// metadataTest is one test's store.
type metadataTest struct {
	ctx       context.Context
	openStore OpenMetadata
}

// open opens a handle, to be closed when the test ends.
func (m *metadataTest) open(t *testing.T) coord.Metadata {
	t.Helper()
	h := m.openStore(t)
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return h
}

// oddIDs are different ids that a careless store would confuse, reorder or
// break on, sorted by their bytes. In UTF-16 the last one would come before
// the one ahead of it.
var oddIDs = []string{
	" ", "  ", `"`, "%", "'; DROP TABLE tenants; --", "..", "../../x", "/", "10", "2", "A", "B", `\`, "_",
	"a", "a ", "a b", "aB", "ab", strings.Repeat("b", 255), strings.Repeat("b", 256),
	"e\u0301", "z", strings.Repeat("\u00e9", 128), "\u00e9", "\u65e5\u672c", "\ufffd", "\U0001f600",
}

func sortedOddIDs(t *testing.T) []string {
	ids := slices.Clone(oddIDs)
	slices.Sort(ids)
	if len(slices.Compact(slices.Clone(ids))) != len(ids) {
		t.Fatal("the suite lists an id twice")
	}
	return ids
}

func wantErr(t *testing.T, what string, err error, kinds ...error) {
	t.Helper()
	for _, kind := range kinds {
		if !errors.Is(err, kind) {
			t.Errorf("%s: got error %v, want one that is %q", what, err, kind)
		}
	}
}

func mustCreate(t *testing.T, m *metadataTest, h coord.Metadata, id string, rf int) coord.Tenant {
	t.Helper()
	tenant, err := h.CreateTenant(m.ctx, id, rf, 0)
	if err != nil {
		t.Fatalf("create tenant %q: %v", id, err)
	}
	return tenant
}

func mustTopology(t *testing.T, m *metadataTest, h coord.Metadata) coord.Topology {
	t.Helper()
	topology, err := h.Topology(m.ctx)
	if err != nil {
		t.Fatalf("topology: %v", err)
	}
	return topology
}

func wantTopology(t *testing.T, m *metadataTest, what string, want coord.Topology, handles ...coord.Metadata) {
	t.Helper()
	for i, h := range handles {
		if got := mustTopology(t, m, h); !sameTopology(got, want) {
			t.Errorf("%s: handle %d has the topology %+v, want %+v", what, i, got, want)
		}
	}
}

func sameTopology(a, b coord.Topology) bool {
	x, errA := a.Encode()
	y, errB := b.Encode()
	return errA == nil && errB == nil && bytes.Equal(x, y)
}

// step takes a step to the topology after the one that stands: the next version
// and epoch, as change makes it.
func step(t *testing.T, m *metadataTest, h coord.Metadata, change func(*coord.TopologyStep)) coord.Topology {
	t.Helper()
	s := coord.TopologyStep{Next: mustTopology(t, m, h)}
	s.Next.Version++
	s.Next.Epoch++
	if change != nil {
		change(&s)
	}
	if err := h.SetTopology(m.ctx, s); err != nil {
		t.Fatalf("set topology of version %d: %v", s.Next.Version, err)
	}
	return s.Next
}

func sameTenant(a, b coord.Tenant) bool {
	return a.ID == b.ID && a.ReplicationFactor == b.ReplicationFactor &&
		a.CreatedAt.Equal(b.CreatedAt) && a.UpdatedAt.Equal(b.UpdatedAt) &&
		a.Space == b.Space && a.Since == b.Since && a.AsOf == b.AsOf && a.Limits == b.Limits
}

// wantTenant compares with what every handle finds.
func wantTenant(t *testing.T, m *metadataTest, want coord.Tenant, handles ...coord.Metadata) {
	t.Helper()
	for i, h := range handles {
		if got, err := h.Tenant(m.ctx, want.ID); err != nil || !sameTenant(got, want) {
			t.Errorf("tenant %q by handle %d: got %+v, %v; want %+v", want.ID, i, got, err, want)
		}
	}
}

func member(id string) coord.StorageNode {
	return coord.StorageNode{ID: id, UUID: "uuid-of-" + id, Host: "host.example", Port: 7000, VirtualNodes: 150, Status: coord.NodeActive}
}

// concurrently runs f n times at once and returns the errors by index.
func concurrently(n int, f func(i int) error) []error {
	errs := make([]error, n)
	start := make(chan struct{})
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			<-start
			errs[i] = f(i)
		})
	}
	close(start)
	group.Wait()
	return errs
}

func createTenant(t *testing.T, m *metadataTest) {
	a, b := m.open(t), m.open(t)
	before := time.Now().Truncate(time.Second)
	tenant := mustCreate(t, m, a, "shop", 5)
	if tenant.ID != "shop" || tenant.ReplicationFactor != 5 || tenant.Space != "shop" {
		t.Errorf("created %+v, want shop, in the space shop, with replication factor 5", tenant)
	}
	if tenant.Since != 0 || tenant.AsOf != 0 {
		t.Errorf("created before the first epoch: since epoch %d, as of epoch %d", tenant.Since, tenant.AsOf)
	}
	if tenant.CreatedAt.Before(before) || tenant.CreatedAt.After(time.Now()) || tenant.CreatedAt.Nanosecond() != 0 {
		t.Errorf("created at %v, want a whole second between %v and now", tenant.CreatedAt, before)
	}
	if !tenant.UpdatedAt.Equal(tenant.CreatedAt) {
		t.Errorf("a new tenant was created at %v and updated at %v, want the same", tenant.CreatedAt, tenant.UpdatedAt)
	}
	wantTenant(t, m, tenant, a, b)
	for _, h := range []coord.Metadata{a, b} {
		got, err := h.CreateTenant(m.ctx, "shop", 1, 0)
		wantErr(t, "create it again", err, coord.ErrTenantExists)
		if got != (coord.Tenant{}) {
			t.Errorf("create it again: got %+v beside the error, want nothing", got)
		}
	}
	wantTenant(t, m, tenant, a, b)
}

func createTenantConcurrently(t *testing.T, m *metadataTest) {
	handles := []coord.Metadata{m.open(t), m.open(t)}
	const callers = 12
	created := make([]coord.Tenant, callers)
	errs := concurrently(callers, func(i int) (err error) {
		created[i], err = handles[i%2].CreateTenant(m.ctx, "contended", i+1, 0)
		return err
	})
	winner := -1
	for i, err := range errs {
		switch {
		case err != nil:
			wantErr(t, "a loser", err, coord.ErrTenantExists)
		case winner >= 0:
			t.Errorf("callers %d and %d both created the tenant", winner, i)
		default:
			winner = i
		}
	}
	if winner < 0 {
		t.Fatalf("nobody created the tenant: %v", errs)
	}
	if created[winner].ReplicationFactor != winner+1 {
		t.Errorf("caller %d was told %+v, want its own replication factor %d", winner, created[winner], winner+1)
	}
	wantTenant(t, m, created[winner], handles...)
}

func tenantNotFound(t *testing.T, m *metadataTest) {
	h := m.open(t)
	mustCreate(t, m, h, "there", 3)
	for _, id := range []string{"", "not there", "ther", "there ", "THERE", "ther%"} {
		_, err := h.Tenant(m.ctx, id)
		wantErr(t, fmt.Sprintf("tenant %q", id), err, coord.ErrTenantNotFound)
		deleted := h.DeleteTenant(m.ctx, id)
		wantErr(t, fmt.Sprintf("delete %q", id), deleted, coord.ErrTenantNotFound)
		for _, err := range []error{err, deleted} {
			if errors.Is(err, coord.ErrMetadataUnavailable) {
				t.Errorf("tenant %q: an answer must not pass for the lack of one: %v", id, err)
			}
		}
	}
	wantSpaces(t, m, "what was not there was deleted", nil, h)
}

func deleteTenant(t *testing.T, m *metadataTest) {
	a, b := m.open(t), m.open(t)
	mustCreate(t, m, a, "shop", 5)
	other := mustCreate(t, m, a, "other", 3)
	if err := b.DeleteTenant(m.ctx, "shop"); err != nil {
		t.Fatal(err)
	}
	for _, h := range []coord.Metadata{a, b} {
		_, err := h.Tenant(m.ctx, "shop")
		wantErr(t, "tenant after its deletion", err, coord.ErrTenantNotFound)
		wantErr(t, "delete it again", h.DeleteTenant(m.ctx, "shop"), coord.ErrTenantNotFound)
	}
	wantTenant(t, m, other, a, b)
	again := mustCreate(t, m, a, "shop", 2)
	if again.ReplicationFactor != 2 || !again.UpdatedAt.Equal(again.CreatedAt) {
		t.Errorf("created again: %+v, want a new tenant", again)
	}
	wantTenant(t, m, again, a, b)
}

func tenantIDsAreDistinct(t *testing.T, m *metadataTest) {
	h := m.open(t)
	for i, id := range oddIDs {
		mustCreate(t, m, h, id, i+1)
	}
	for i, id := range oddIDs {
		if tenant, err := h.Tenant(m.ctx, id); err != nil || tenant.ID != id || tenant.ReplicationFactor != i+1 {
			t.Errorf("tenant %q: got %+v, %v; want its replication factor %d", id, tenant, err, i+1)
		}
	}
}

func tenantPages(t *testing.T, m *metadataTest) {
	h := m.open(t)
	list := func(after string, limit int) []string {
		t.Helper()
		tenants, err := h.Tenants(m.ctx, after, limit)
		if err != nil {
			t.Fatalf("tenants after %q, at most %d: %v", after, limit, err)
		}
		ids := make([]string, len(tenants))
		for i, tenant := range tenants {
			ids[i] = tenant.ID
			wantTenant(t, m, tenant, h)
		}
		return ids
	}
	if got := list("", 10); len(got) != 0 {
		t.Errorf("an empty store lists %q", got)
	}
	want := sortedOddIDs(t)
	shuffled := slices.Clone(want)
	for i := range shuffled { // any order but the sorted one
		j := (i * 7) % len(shuffled)
		shuffled[i], shuffled[j] = shuffled[j], shuffled[i]
	}
	for _, id := range shuffled {
		mustCreate(t, m, h, id, 3)
	}
	for _, limit := range []int{1, 3, len(want), len(want) + 1, math.MaxInt32} {
		var got []string
		for after := ""; ; after = got[len(got)-1] {
			page := list(after, limit)
			if len(page) > limit {
				t.Fatalf("a page of at most %d has %d tenants", limit, len(page))
			}
			if len(page) == 0 {
				break
			}
			got = append(got, page...)
			if len(got) > len(want) {
				break
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("pages of %d list %q, want %q", limit, got, want)
		}
	}
	if got := list("", 0); len(got) != 0 {
		t.Errorf("a page of at most 0 has %q", got)
	}
	if got := list("a!", 2); !slices.Equal(got, []string{"aB", "ab"}) {
		t.Errorf("after an id that does not exist: %q, want aB and ab", got)
	}
	if err := h.DeleteTenant(m.ctx, "aB"); err != nil {
		t.Fatal(err)
	}
	if got := list("aB", 1); !slices.Equal(got, []string{"ab"}) {
		t.Errorf("after an id that was deleted: %q, want ab", got)
	}
}

func acquire(t *testing.T, m *metadataTest, h coord.Metadata, id string) coord.Identity {
	t.Helper()
	identity, err := h.AcquireIdentity(m.ctx, id)
	if err != nil {
		t.Fatalf("acquire %q: %v", id, err)
	}
	if identity.Writer.ID != id {
		t.Errorf("acquired %q, got the writer %+v", id, identity.Writer)
	}
	return identity
}

func release(t *testing.T, identity coord.Identity) {
	t.Helper()
	if err := identity.Release(); err != nil {
		t.Errorf("release %+v: %v", identity.Writer, err)
	}
}

func incarnations(t *testing.T, m *metadataTest) {
	handles := []coord.Metadata{m.open(t), m.open(t)}
	for _, id := range []string{"c1", "C1", "c1 ", "../c1", strings.Repeat("c", 256), "\u65e5\u672c"} {
		for want := uint64(1); want <= 4; want++ {
			identity := acquire(t, m, handles[want%2], id)
			if identity.Writer.Incarnation != want {
				t.Errorf("life %d of %q has incarnation %d", want, id, identity.Writer.Incarnation)
			}
			release(t, identity)
			release(t, identity) // of no effect
		}
	}
}

func identityTaken(t *testing.T, m *metadataTest) {
	a, b := m.open(t), m.open(t)
	held := acquire(t, m, a, "c1")
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	const wait = 200 * time.Millisecond
	for name, h := range map[string]coord.Metadata{"the same handle": a, "another handle": b} {
		start := time.Now() // before the deadline is set
		ctx, cancel := context.WithTimeout(m.ctx, wait)
		got, err := h.AcquireIdentity(ctx, "c1")
		took := time.Since(start)
		cancel()
		wantErr(t, "second acquire by "+name, err, coord.ErrNodeIDTaken, context.DeadlineExceeded)
		if errors.Is(err, coord.ErrMetadataUnavailable) {
			t.Errorf("second acquire by %s: the store did answer: %v", name, err)
		}
		if took < wait || took > wait+5*time.Second {
			t.Errorf("second acquire by %s took %v, want it to wait the %v it was given and no more", name, took, wait)
		}
		for _, part := range []string{"c1", strconv.Itoa(os.Getpid()), host} {
			if err != nil && !strings.Contains(err.Error(), part) {
				t.Errorf("second acquire by %s: %q does not name the holder: it lacks %q", name, err, part)
			}
		}
		if got.Release != nil || got.Writer != (coord.Writer{}) {
			t.Errorf("second acquire by %s: got %+v beside the error, want nothing", name, got)
		}
	}
	// Neither the failures nor a second release of an old identity take it away.
	release(t, held)
	again := acquire(t, m, b, "c1")
	if again.Writer.Incarnation != held.Writer.Incarnation+1 {
		t.Errorf("after failed attempts the incarnation went from %d to %d, want one more", held.Writer.Incarnation, again.Writer.Incarnation)
	}
	release(t, held)
	ctx, cancel := context.WithTimeout(m.ctx, wait)
	defer cancel()
	_, err = a.AcquireIdentity(ctx, "c1")
	wantErr(t, "acquire after a repeated release of the earlier life", err, coord.ErrNodeIDTaken)
	release(t, again)
}

func identityWaits(t *testing.T, m *metadataTest) {
	a, b := m.open(t), m.open(t)
	held := acquire(t, m, a, "c1")
	other := acquire(t, m, b, "c2") // another id waits for nobody
	var released, acquired time.Time
	var group sync.WaitGroup
	group.Go(func() {
		identity, err := b.AcquireIdentity(m.ctx, "c1")
		acquired = time.Now()
		if err != nil {
			t.Errorf("acquire while held: %v", err)
			return
		}
		if identity.Writer.Incarnation != held.Writer.Incarnation+1 {
			t.Errorf("incarnation %d followed %d", identity.Writer.Incarnation, held.Writer.Incarnation)
		}
		release(t, identity)
	})
	time.Sleep(150 * time.Millisecond) // whether it waits by now or not, it must not get through
	released = time.Now()
	release(t, held)
	group.Wait()
	if acquired.Before(released) {
		t.Error("the id was acquired before it was released")
	}
	if late := acquired.Sub(released); late > 5*time.Second {
		t.Errorf("the id was acquired %v after its release", late)
	}
	release(t, other)
}

func identityOneHolder(t *testing.T, m *metadataTest) {
	handles := []coord.Metadata{m.open(t), m.open(t)}
	const callers = 6
	var mu sync.Mutex
	holders := 0
	var seen []uint64
	for _, err := range concurrently(callers, func(i int) error {
		identity, err := handles[i%2].AcquireIdentity(m.ctx, "c1")
		if err != nil {
			return err
		}
		mu.Lock()
		holders++
		if holders != 1 {
			t.Errorf("%d hold the id at once", holders)
		}
		seen = append(seen, identity.Writer.Incarnation)
		mu.Unlock()
		time.Sleep(time.Millisecond) // long enough for another to be seen
		mu.Lock()
		holders--
		mu.Unlock()
		return identity.Release()
	}) {
		if err != nil {
			t.Fatal(err)
		}
	}
	for i, incarnation := range seen {
		if incarnation != uint64(i)+1 {
			t.Fatalf("incarnations in the order of holding: %d, want 1 to %d", seen, callers)
		}
	}
}

func concurrentIdentities(t *testing.T, m *metadataTest) {
	handles := []coord.Metadata{m.open(t), m.open(t)}
	const ids = 30
	held := make([]coord.Identity, ids)
	for i, err := range concurrently(ids, func(i int) (err error) {
		held[i], err = handles[i%2].AcquireIdentity(m.ctx, fmt.Sprintf("c%d", i))
		return err
	}) {
		if err != nil {
			t.Fatalf("acquire c%d: %v", i, err)
		}
	}
	for i, identity := range held {
		if want := (coord.Writer{ID: fmt.Sprintf("c%d", i), Incarnation: 1}); identity.Writer != want {
			t.Errorf("acquired %+v, want %+v", identity.Writer, want)
		}
		release(t, identity)
	}
}

func acquireAuto(t *testing.T, m *metadataTest, h coord.Metadata, want coord.Writer) coord.Identity {
	t.Helper()
	identity, err := h.AcquireIdentity(m.ctx, coord.AutoNodeID)
	if err != nil {
		t.Fatalf("acquire any id: %v", err)
	}
	if identity.Writer != want {
		t.Errorf("acquired %+v, want %+v", identity.Writer, want)
	}
	return identity
}

func autoIdentity(t *testing.T, m *metadataTest) {
	a, b := m.open(t), m.open(t)
	named := acquire(t, m, a, "coordinator-2")
	one := acquireAuto(t, m, a, coord.Writer{ID: "coordinator-1", Incarnation: 1})
	three := acquireAuto(t, m, a, coord.Writer{ID: "coordinator-3", Incarnation: 1})
	four := acquireAuto(t, m, b, coord.Writer{ID: "coordinator-4", Incarnation: 1})
	// What is free again is taken first, and goes on counting its lives.
	release(t, three)
	release(t, one)
	one = acquireAuto(t, m, b, coord.Writer{ID: "coordinator-1", Incarnation: 2})
	release(t, named)
	two := acquireAuto(t, m, b, coord.Writer{ID: "coordinator-2", Incarnation: 2})
	three = acquireAuto(t, m, a, coord.Writer{ID: "coordinator-3", Incarnation: 2})
	// An id that was taken so is held like any other.
	for _, h := range []coord.Metadata{a, b} {
		ctx, cancel := context.WithTimeout(m.ctx, 200*time.Millisecond)
		_, err := h.AcquireIdentity(ctx, "coordinator-4")
		cancel()
		wantErr(t, "acquire an id that was taken as any", err, coord.ErrNodeIDTaken)
	}
	for _, identity := range []coord.Identity{one, two, three, four} {
		release(t, identity)
	}
}

func concurrentAutoIdentities(t *testing.T, m *metadataTest) {
	handles := []coord.Metadata{m.open(t), m.open(t)}
	const ids = 30
	held := make([]coord.Identity, ids)
	for _, err := range concurrently(ids, func(i int) (err error) {
		held[i], err = handles[i%2].AcquireIdentity(m.ctx, coord.AutoNodeID)
		return err
	}) {
		if err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]bool{}
	for _, identity := range held {
		seen[identity.Writer.ID] = true
		if identity.Writer.Incarnation != 1 {
			t.Errorf("acquired %+v, want the first incarnation", identity.Writer)
		}
		release(t, identity)
	}
	for i := range ids {
		if id := fmt.Sprintf("coordinator-%d", i+1); !seen[id] {
			t.Errorf("of %d ids none is %s", ids, id)
		}
	}
}

// everyCall makes each call of the interface that takes a context.
func everyCall(ctx context.Context, h coord.Metadata, call func(name string, err error)) {
	_, err := h.AcquireIdentity(ctx, "unheld")
	call("AcquireIdentity", err)
	_, err = h.Tenant(ctx, "shop")
	call("Tenant", err)
	_, err = h.CreateTenant(ctx, "new", 3, 0)
	call("CreateTenant", err)
	call("DeleteTenant", h.DeleteTenant(ctx, "shop"))
	_, err = h.Tenants(ctx, "", 10)
	call("Tenants", err)
	_, err = h.ReplicationFactors(ctx)
	call("ReplicationFactors", err)
	_, err = h.DeletedSpaces(ctx, "", 10)
	call("DeletedSpaces", err)
	call("ForgetSpace", h.ForgetSpace(ctx, "deleted"))
	_, err = h.Topology(ctx)
	call("Topology", err)
	call("SetTopology", h.SetTopology(ctx, coord.TopologyStep{
		Next: coord.Topology{Version: 2, Epoch: 2}, Resize: &coord.Resize{Tenant: "shop", ReplicationFactor: 5},
	}))
	_, err = h.Checkpoint(ctx, "saved")
	call("Checkpoint", err)
	call("SaveCheckpoint", h.SaveCheckpoint(ctx, "saved", []byte("later")))
	call("SaveCheckpoint of nothing", h.SaveCheckpoint(ctx, "saved", nil))
	_, err = h.AcquireIdentity(ctx, coord.AutoNodeID)
	call("AcquireIdentity of any id", err)
	_, err = h.AcquireLease(ctx, "unowned", "c1", time.Hour)
	call("AcquireLease", err)
	call("ReleaseLease", h.ReleaseLease(ctx, "owned", "c1"))
	call("Ping", h.Ping(ctx))
}

func endedContext(t *testing.T, m *metadataTest) {
	h := m.open(t)
	mustCreate(t, m, h, "deleted", 3)
	if err := h.DeleteTenant(m.ctx, "deleted"); err != nil {
		t.Fatal(err)
	}
	topology := step(t, m, h, func(s *coord.TopologyStep) { s.Next.Nodes = []coord.StorageNode{member("x")} })
	shop := mustCreate(t, m, h, "shop", 3)
	save(t, m, h, "saved", []byte("before"))
	wantLease(t, m, h, "owned", "c1", time.Hour, true)
	cancelled, cancel := context.WithCancel(m.ctx)
	cancel()
	expired, cancel := context.WithDeadline(m.ctx, time.Now().Add(-time.Second))
	defer cancel()
	for _, ctx := range []context.Context{cancelled, expired} {
		everyCall(ctx, h, func(name string, err error) {
			wantErr(t, name, err, coord.ErrMetadataUnavailable, ctx.Err())
		})
	}
	// None of it had an effect, and the handle goes on working.
	wantTenant(t, m, shop, h)
	_, err := h.Tenant(m.ctx, "new")
	wantErr(t, "a tenant whose creation was cancelled", err, coord.ErrTenantNotFound)
	wantTopology(t, m, "after cancelled calls", topology, h)
	wantSpaces(t, m, "after cancelled calls", []string{"deleted"}, h)
	wantCheckpoint(t, m, "after cancelled calls", "saved", []byte("before"), h)
	identity := acquire(t, m, h, "unheld")
	if identity.Writer.Incarnation != 1 {
		t.Errorf("the first life after a cancelled attempt has incarnation %d, want 1", identity.Writer.Incarnation)
	}
	release(t, identity)
	auto, err := h.AcquireIdentity(m.ctx, coord.AutoNodeID)
	if want := (coord.Writer{ID: "coordinator-1", Incarnation: 1}); err != nil || auto.Writer != want {
		t.Fatalf("any id after cancelled attempts: %+v, %v; want %+v", auto.Writer, err, want)
	}
	release(t, auto)
	wantLease(t, m, h, "unowned", "c2", time.Hour, true)
	wantLease(t, m, h, "owned", "c2", time.Hour, false)
}

func pingAndClose(t *testing.T, m *metadataTest) {
	h, other := m.openStore(t), m.open(t)
	if err := h.Ping(m.ctx); err != nil {
		t.Errorf("ping: %v", err)
	}
	if err := h.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	everyCall(m.ctx, h, func(name string, err error) {
		wantErr(t, name+" of a closed handle", err, coord.ErrMetadataUnavailable)
	})
	if err := other.Ping(m.ctx); err != nil {
		t.Errorf("ping by a handle that is still open: %v", err)
	}
	// An acquisition that failed holds nothing.
	release(t, acquire(t, m, other, "unheld"))
}

func reopen(t *testing.T, m *metadataTest) {
	h := m.openStore(t)
	mustCreate(t, m, h, "gone", 3)
	if err := h.DeleteTenant(m.ctx, "gone"); err != nil {
		t.Fatal(err)
	}
	topology := step(t, m, h, func(s *coord.TopologyStep) {
		s.Next.Nodes, s.Next.Gone = []coord.StorageNode{member("x")}, []string{"y"}
	})
	shop := mustCreate(t, m, h, "shop", 5)
	save(t, m, h, "migration", []byte("half way"))
	identity := acquire(t, m, h, "c1")
	release(t, identity)
	if err := h.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}

	h = m.open(t)
	wantTenant(t, m, shop, h)
	_, err := h.Tenant(m.ctx, "gone")
	wantErr(t, "a tenant deleted before", err, coord.ErrTenantNotFound)
	wantTopology(t, m, "after a restart", topology, h)
	wantSpaces(t, m, "after a restart", []string{"gone"}, h)
	wantCheckpoint(t, m, "after a restart", "migration", []byte("half way"), h)
	if tenant := mustCreate(t, m, h, "gone", 3); tenant.Space != coord.TenantSpace("gone", 1) {
		t.Errorf("a tenant of the id of one deleted before the restart has the space %q", tenant.Space)
	}
	again := acquire(t, m, h, "c1")
	if again.Writer.Incarnation != identity.Writer.Incarnation+1 {
		t.Errorf("incarnation %d before, %d after, want one more", identity.Writer.Incarnation, again.Writer.Incarnation)
	}
	release(t, again)
}
