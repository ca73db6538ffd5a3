package postgres

import (
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pairdb/coordinator/backends/postgrestest"
	"github.com/pairdb/coordinator/coord"
)

// listen watches until the test ends, and returns what is told; the first Lost,
// of the beginning, has been taken. A change from before may still be told, if
// its notification is under way: begin to listen first.
func listen(t *testing.T, s *Store) <-chan coord.Change {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	changes := make(chan coord.Change, 100)
	var group sync.WaitGroup
	group.Go(func() { s.Watch(ctx, func(c coord.Change) { changes <- c }) })
	t.Cleanup(func() {
		stop()
		group.Wait()
	})
	if c := <-changes; !c.Lost {
		t.Errorf("the first change is %+v, want Lost", c)
	}
	return changes
}

func wantChange(t *testing.T, changes <-chan coord.Change, want coord.Change) {
	t.Helper()
	select {
	case c := <-changes:
		if c != want {
			t.Errorf("told of %+v, want %+v", c, want)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("not told of %+v", want)
	}
}

func isLost(i coord.Identity) bool {
	select {
	case <-i.Lost:
		return true
	default:
		return false
	}
}

// TestServerRestarts: everything that was opened works again by itself.
func TestServerRestarts(t *testing.T) {
	server := postgrestest.Start(t)
	address := server.Database(t)
	s := opened(t, Options{URL: address})
	claims := must(s.Claims(ClaimsOptions{}))(t)
	t.Cleanup(func() { closed(t, claims) })
	ctx := t.Context()
	changes := listen(t, s)
	must(s.CreateTenant(ctx, "shop", 3, 0))(t)
	wantChange(t, changes, coord.Change{Tenant: "shop"})
	must(claims.Reserve(ctx, someKey, coord.Fingerprint{}, someTry, time.Hour))(t)
	minted := must(claims.Mint(ctx, someKey, someTry, head(7)))(t)
	held := must(s.AcquireIdentity(ctx, "c1"))(t)
	given := must(s.AcquireIdentity(ctx, "c2"))(t)
	version := uint64(0)
	for what, end := range map[string]func(testing.TB){"killed": server.Kill, "stopped": server.Stop} {
		end(t)
		_, tenant := s.Tenant(ctx, "shop")
		_, topology := s.Topology(ctx)
		_, create := s.CreateTenant(ctx, "other", 3, 0)
		_, acquire := s.AcquireIdentity(ctx, "c3")
		_, lease := s.AcquireLease(ctx, "l", "c1", time.Minute)
		for call, err := range map[string]error{
			"Tenant": tenant, "CreateTenant": create, "AcquireIdentity": acquire, "AcquireLease": lease, "Ping": s.Ping(ctx),
			"PutHints": s.PutHints(ctx, "c1", hintGroup("n1", 0, 1, nil)), "Topology": topology,
			"SetTopology":    s.SetTopology(ctx, coord.TopologyStep{Next: coord.Topology{Version: version + 1}}),
			"SaveCheckpoint": s.SaveCheckpoint(ctx, "c", nil),
		} {
			if !errors.Is(err, coord.ErrMetadataUnavailable) {
				t.Errorf("%s while the server is %s: got %v, want ErrMetadataUnavailable", call, what, err)
			} else {
				wantNoSecret(t, err)
			}
		}
		if _, err := claims.Reserve(ctx, someKey, coord.Fingerprint{}, someTry, time.Minute); !errors.Is(err, coord.ErrIdempotencyUnavailable) {
			t.Errorf("Reserve while the server is %s: got %v, want ErrIdempotencyUnavailable", what, err)
		}
		if isLost(held) {
			t.Errorf("the server is %s, so nobody else can have the id, but it is lost", what)
		}
		if given.Release != nil {
			if err := given.Release(); err != nil {
				t.Errorf("release while the server is %s: %v", what, err)
			}
			given.Release = nil
		}
		server.Start(t)
		wantChange(t, changes, coord.Change{Lost: true})
		must(s.Tenant(ctx, "shop"))(t)
		if claim := must(claims.Reserve(ctx, someKey, coord.Fingerprint{}, coord.AttemptID{9}, time.Minute))(t); claim.State != minted.State || claim.Attempt != minted.Attempt {
			t.Errorf("after the server was %s the claim is %+v, want %+v", what, claim, minted)
		}
		other := opened(t, Options{URL: address})
		must(other.CreateTenant(ctx, what, 3, 0))(t)
		wantChange(t, changes, coord.Change{Tenant: what})
		version++
		if err := other.SetTopology(ctx, coord.TopologyStep{Next: coord.Topology{Version: version, Epoch: version}}); err != nil {
			t.Error(err)
		}
		wantChange(t, changes, coord.Change{Topology: true})
		// The id is still the first one's, with its incarnation; the other, that
		// was released meanwhile, is free.
		short, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		if _, err := other.AcquireIdentity(short, "c1"); !errors.Is(err, coord.ErrNodeIDTaken) {
			t.Errorf("after the server was %s another acquires the id that is held: %v", what, err)
		}
		cancel()
		free := must(other.AcquireIdentity(ctx, "c2"))(t)
		if err := free.Release(); err != nil {
			t.Error(err)
		}
		if isLost(held) {
			t.Errorf("after the server was %s the id is lost, though nobody else had it", what)
		}
	}
	if err := held.Release(); err != nil {
		t.Error(err)
	}
	if isLost(held) {
		t.Error("an id that was released is called lost")
	}
}

// endSession ends the server's side of a store's session.
func endSession(t *testing.T, s *Store) {
	t.Helper()
	var pid int64
	err := s.session.do(t.Context(), &request{run: func(context.Context, *pgx.Conn, func() bool) error {
		pid = int64(s.session.found.process)
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	must(s.db.pool.Exec(t.Context(), "SELECT pg_terminate_backend($1)", pid))(t)
}

// TestIdentityTakenMeanwhile: whoever comes back and finds that another has, or
// had, the id has lost it.
func TestIdentityTakenMeanwhile(t *testing.T) {
	server := postgrestest.Shared(t)
	for what, keeps := range map[string]bool{"another has it": true, "another had it": false} {
		t.Run(what, func(t *testing.T) {
			address := server.Database(t)
			name := databaseName(t, address)
			former, next := opened(t, Options{URL: address}), opened(t, Options{URL: address})
			must(former.ReplicationFactors(t.Context()))(t) // its pool has a connection
			held := must(former.AcquireIdentity(t.Context(), "c1"))(t)
			other := must(former.AcquireIdentity(t.Context(), "c2"))(t)
			changes := listen(t, former)
			admin := changed(t, address, func(u *url.URL) { u.Path = "/postgres" })
			server.Administer(t, admin, "ALTER DATABASE "+name+" ALLOW_CONNECTIONS false")
			endSession(t, former)
			taken := must(next.AcquireIdentity(t.Context(), "c1"))(t)
			if taken.Writer.Incarnation != 2 {
				t.Errorf("the next holder has incarnation %d, want 2", taken.Writer.Incarnation)
			}
			if !keeps {
				if err := taken.Release(); err != nil {
					t.Error(err)
				}
			}
			if isLost(held) {
				t.Error("lost before it could be known")
			}
			server.Administer(t, admin, "ALTER DATABASE "+name+" ALLOW_CONNECTIONS true")
			wantChange(t, changes, coord.Change{Lost: true})
			select {
			case <-held.Lost:
			case <-time.After(5 * time.Second):
				t.Error("the former holder is not told")
			}
			if isLost(other) {
				t.Error("an id that nobody else had is lost too")
			}
			if err := held.Release(); err != nil {
				t.Errorf("release of a lost id: %v", err)
			}
			if keeps {
				short, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
				defer cancel()
				if _, err := former.AcquireIdentity(short, "c1"); !errors.Is(err, coord.ErrNodeIDTaken) {
					t.Errorf("after the release of a lost id: got %v, want ErrNodeIDTaken", err)
				}
			}
		})
	}
}

func TestCloseEndsIdentities(t *testing.T) {
	address := postgrestest.Shared(t).Database(t)
	s, other := open(t, Options{URL: address}), opened(t, Options{URL: address})
	held := must(s.AcquireIdentity(t.Context(), "c1"))(t)
	closed(t, s)
	if !isLost(held) {
		t.Error("the store is closed and the id is not lost")
	}
	if err := held.Release(); err != nil {
		t.Errorf("release after close: %v", err)
	}
	must(other.AcquireIdentity(t.Context(), "c1"))(t)
}

// wire passes connections on to an address until it is cut.
type wire struct {
	listener net.Listener
	to       string
	mu       sync.Mutex
	near     []net.Conn
	group    sync.WaitGroup
	ended    chan struct{}
}

func newWire(t *testing.T, to string) *wire {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{listener: listener, to: to, ended: make(chan struct{})}
	w.group.Go(w.accept)
	t.Cleanup(func() {
		close(w.ended)
		_ = listener.Close()
		w.cut()
		w.group.Wait()
	})
	return w
}

func (w *wire) accept() {
	for {
		near, err := w.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", w.to)
		if err != nil {
			_ = near.Close()
			continue
		}
		w.mu.Lock()
		w.near = append(w.near, near)
		w.mu.Unlock()
		w.group.Go(func() {
			_, _ = io.Copy(near, far)
			_ = near.Close()
		})
		w.group.Go(func() {
			// The far side does not hear of the near one's end.
			_, _ = io.Copy(far, near)
			<-w.ended
			_ = far.Close()
		})
	}
}

// cut breaks what there is; new connections are passed on.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.near {
		_ = c.Close()
	}
	w.near = nil
}

// TestConnectionCut: the way to the server breaks, and the server does not
// notice that its client is gone, so that it keeps the session's locks.
func TestConnectionCut(t *testing.T) {
	server := postgrestest.Shared(t)
	address := server.Database(t)
	w := newWire(t, server.Address())
	s := opened(t, Options{URL: changed(t, address, func(u *url.URL) { u.Host = w.listener.Addr().String() })})
	changes := listen(t, s)
	must(s.CreateTenant(t.Context(), "shop", 3, 0))(t)
	wantChange(t, changes, coord.Change{Tenant: "shop"})
	held := must(s.AcquireIdentity(t.Context(), "c1"))(t)
	w.cut()
	must(s.Tenant(t.Context(), "shop"))(t)
	wantChange(t, changes, coord.Change{Lost: true})
	if isLost(held) {
		t.Error("the id is lost, though only its former holder's connection was in the way")
	}
	other := opened(t, Options{URL: address})
	short, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := other.AcquireIdentity(short, "c1"); !errors.Is(err, coord.ErrNodeIDTaken) {
		t.Errorf("another acquires the id: %v", err)
	}
	must(s.CreateTenant(t.Context(), "again", 3, 0))(t)
	wantChange(t, changes, coord.Change{Tenant: "again"})
}

// TestSlowWatcher: changes that a watcher has no room for are told as lost, and
// hold up nobody.
func TestSlowWatcher(t *testing.T) {
	s := opened(t, Options{URL: postgrestest.Shared(t).Database(t)})
	ctx, stop := context.WithCancel(t.Context())
	entered, leave := make(chan struct{}), make(chan struct{})
	var told []coord.Change
	var group sync.WaitGroup
	group.Go(func() {
		s.Watch(ctx, func(c coord.Change) {
			if told = append(told, c); len(told) == 1 {
				close(entered)
				<-leave
			}
			if c.Tenant == "last" {
				stop()
			}
		})
	})
	<-entered
	for range 2 {
		must(s.db.pool.Exec(t.Context(), `INSERT INTO tenants (id, replication_factor, created_at, updated_at, space, since)
			SELECT id, 3, 0, 0, id, 0 FROM (SELECT 'tenant-' || n || clock_timestamp() AS id FROM generate_series(1, $1) AS n) AS ids`, maxUntold))(t)
	}
	eventually(t, "no room for changes", func() bool {
		s.session.mu.Lock()
		defer s.session.mu.Unlock()
		for w := range s.session.watchers {
			return len(w.lost) == 1
		}
		return false
	})
	close(leave)
	eventually(t, "told of the last", func() bool {
		if ctx.Err() != nil {
			return true
		}
		_, err := s.CreateTenant(t.Context(), "last", 3, 0)
		if errors.Is(err, coord.ErrTenantExists) {
			err = s.DeleteTenant(t.Context(), "last")
		}
		return err != nil
	})
	group.Wait()
	lost := 0
	for _, c := range told {
		if c.Lost {
			lost++
		}
	}
	// What comes while the watcher catches up may find no room once more.
	if lost < 2 || lost > 3 || len(told) > maxUntold+10 {
		t.Errorf("told of %d changes, Lost %d times; want the beginning's and one for those without room", len(told), lost)
	}
}
