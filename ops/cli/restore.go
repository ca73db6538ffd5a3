package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pairdb/coordinator/ops/backup"
	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

const (
	// importsAtOnce is how many imports a restore has under way, and importVersions
	// how many versions are in one.
	importsAtOnce  = 4
	importVersions = 256
)

func restoreCommand() command {
	return command{
		name: "restore", args: "FILE", count: [2]int{1, 1}, summary: "Bring back what a backup holds, unless there is newer",
		details: `
The whole file is checked before anything is sent. All tenants that are in it are
restored unless -tenant names one; those that do not exist are created with
their replication factor and limits. A version is brought to a quorum of its
replicas, unless they hold it or a greater one: what is newer is never replaced, and
to run a restore again does no harm. Needs the admin role where tokens are needed.`,
		flags: restore,
	}
}

func restore(flags *flag.FlagSet) action {
	create := flags.Bool("create", true, "create tenants that do not exist")
	check := flags.Bool("check", false, "check the file and tell what is in it, without a coordinator")
	return func(ctx context.Context, in *invocation) error {
		r := &restoring{in: in, path: in.args[0], only: chosenTenant(flags, in), create: *create, gone: map[string]bool{}}
		return r.run(ctx, *check)
	}
}

// restoring is a restore under way.
type restoring struct {
	tally
	in       *invocation
	path     string
	only     string // the only tenant; empty: all
	create   bool
	client   pb.CoordinatorServiceClient
	contents *backup.Contents
	end      *backup.End
	gone     map[string]bool // tenants that were deleted while they were backed up
	versions int64           // to be restored
	restored int             // tenants
	written  atomic.Int64
	kept     atomic.Int64
}

func (r *restoring) String() string {
	return fmt.Sprintf("of %d versions %s; %d were there already or newer", r.versions, &r.tally, r.kept.Load())
}

// restoreResult is the answer of a restore.
type restoreResult struct {
	File     string `json:"file"`
	Tenants  int    `json:"tenants"`
	Versions int64  `json:"versions"`
	Written  int64  `json:"written"`
	Kept     int64  `json:"kept"` // held already, or a greater one
	Bytes    int64  `json:"bytes"`
}

// checkResult is the answer of restore -check.
type checkResult struct {
	*backup.Contents
	Gone     []string `json:"gone,omitempty"` // of the tenants
	Versions int64    `json:"versions"`
	Bytes    int64    `json:"bytes"`
}

func (r *restoring) run(ctx context.Context, check bool) error {
	f, err := os.Open(r.path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := r.verify(ctx, f); err != nil {
		return fmt.Errorf("%s: %w", r.path, err)
	}
	if check {
		c := checkResult{r.contents, nil, r.end.Versions, r.end.Bytes}
		for _, id := range c.Tenants {
			if r.gone[id] {
				c.Gone = append(c.Gone, id)
			}
		}
		return r.in.answerObject(c, printf("%s is whole: %d versions of %d tenants, %s, backed up at %s by coordinator %s from %d storage nodes\n",
			r.path, c.Versions, len(c.Tenants), size(c.Bytes), moment(c.CreatedAt), c.Version, len(c.Nodes)))
	}
	if r.only != "" && !slices.Contains(r.contents.Tenants, r.only) {
		return fmt.Errorf("%s holds no tenant %q, but %q", r.path, r.only, r.contents.Tenants)
	}
	conn, err := r.in.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	r.client = pb.NewCoordinatorServiceClient(conn)
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	r.start = time.Now()
	hide := r.in.show(r)
	err = r.send(ctx, f)
	hide()
	if err != nil {
		return fmt.Errorf("%w (%d of %d versions were restored; run it again to go on)", err, r.records.Load(), r.versions)
	}
	result := restoreResult{r.path, r.restored, r.records.Load(), r.written.Load(), r.kept.Load(), r.bytes.Load()}
	return r.in.answerObject(result, printf("restored %d versions of %d tenants, %s; %d of them were there already or newer\n",
		result.Versions, result.Tenants, size(result.Bytes), result.Kept))
}

// checkLine is how far a check has come.
type checkLine struct{ done, all atomic.Int64 }

func (l *checkLine) String() string {
	return fmt.Sprintf("checked %s of %s", size(l.done.Load()), size(l.all.Load()))
}

// verify reads the whole file.
func (r *restoring) verify(ctx context.Context, f *os.File) error {
	var line checkLine
	if info, err := f.Stat(); err == nil {
		line.all.Store(info.Size())
	}
	defer r.in.show(&line)()
	err := blocks(ctx, f, func(b *backup.Block) error {
		line.done.Store(b.Offset)
		switch b.Kind {
		case backup.KindContents:
			r.contents = b.Contents
		case backup.KindTenantEnd:
			r.gone[b.TenantEnd.ID] = b.TenantEnd.Gone
			if r.chosen(b.TenantEnd.ID) {
				r.versions += b.TenantEnd.Versions
			}
		case backup.KindEnd:
			r.end = b.End
		}
		return nil
	})
	if damage := (*backup.DamageError)(nil); errors.As(err, &damage) && damage.Short && strings.HasSuffix(r.path, ".partial") {
		return fmt.Errorf("%w: the backup was interrupted; run it again to complete it", err)
	}
	return err
}

// chosen tells whether a tenant is to be restored.
func (r *restoring) chosen(id string) bool { return (r.only == "" || r.only == id) && !r.gone[id] }

func blocks(ctx context.Context, f io.Reader, each func(*backup.Block) error) error {
	reader, err := backup.NewReader(f)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		block, err := reader.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := each(block); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// send restores the tenants, one after the other.
func (r *restoring) send(ctx context.Context, f *os.File) error {
	var imports *errgroup.Group // of the tenant
	var of context.Context
	var tenant *pb.GetTenantResponse // nil: it is left out
	return blocks(ctx, f, func(b *backup.Block) error {
		switch b.Kind {
		case backup.KindTenant:
			tenant = nil
			if !r.chosen(b.Tenant.ID) {
				if r.gone[b.Tenant.ID] {
					fmt.Fprintf(r.in.Stderr, "tenant %q was deleted while it was backed up, and is left out\n", b.Tenant.ID)
				}
				return nil
			}
			var err error
			if tenant, err = r.tenant(ctx, b.Tenant); err != nil {
				return err
			}
			imports, of = errgroup.WithContext(ctx)
			imports.SetLimit(importsAtOnce)
		case backup.KindVersions:
			if tenant == nil {
				return nil
			}
			for part := range slices.Chunk(b.Versions.Versions, importVersions) {
				if of.Err() != nil {
					return imports.Wait()
				}
				imports.Go(func() error { return r.restore(of, tenant.GetTenantId(), part) })
			}
		case backup.KindTenantEnd:
			if tenant == nil {
				return nil
			}
			if err := imports.Wait(); err != nil {
				return fmt.Errorf("restore tenant %q: %w", tenant.GetTenantId(), err)
			}
			return r.stillThere(ctx, tenant)
		}
		return nil
	})
}

// tenant makes a tenant where it does not exist.
func (r *restoring) tenant(ctx context.Context, t *backup.Tenant) (made *pb.GetTenantResponse, err error) {
	id := t.ID
	get := func(ctx context.Context) (err error) {
		made, err = r.client.GetTenant(ctx, &pb.GetTenantRequest{TenantId: id})
		return err
	}
	err = r.in.retry(ctx, get)
	if status.Code(err) == codes.NotFound {
		if !r.create {
			return nil, fmt.Errorf("tenant %q of the backup does not exist here, and -create=false: %w", id, err)
		}
		err = r.in.retry(ctx, func(ctx context.Context) error {
			_, err := r.client.CreateTenant(ctx, &pb.CreateTenantRequest{TenantId: id, ReplicationFactor: t.ReplicationFactor})
			if status.Code(err) == codes.AlreadyExists { // by an attempt whose answer was lost
				return nil
			}
			return err
		})
		if reason, _ := details(status.Convert(err)); reason == "INVALID_REPLICATION_FACTOR" {
			return nil, fmt.Errorf("tenant %q has the replication factor %d in the backup, which this cluster cannot have; create it with another (tenant create %s -rf N) and restore again: %w",
				id, t.ReplicationFactor, id, err)
		}
		if err == nil {
			err = r.in.retry(ctx, get)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("restore tenant %q: %w", id, err)
	}
	if err := r.limits(ctx, t); err != nil {
		return nil, fmt.Errorf("restore the limits of tenant %q: %w", id, err)
	}
	r.restored++
	return made, nil
}

// limits gives a tenant that has no limits of its own those of the backup.
func (r *restoring) limits(ctx context.Context, t *backup.Tenant) error {
	l := t.Limits
	if l == (backup.Limits{}) {
		return nil
	}
	return r.in.retry(ctx, func(ctx context.Context) error {
		now, err := r.client.GetTenantLimits(ctx, &pb.GetTenantLimitsRequest{TenantId: t.ID})
		set := now.GetSet()
		if err != nil || set.GetOperationsPerSecond() != 0 || set.GetBytesPerSecond() != 0 || set.GetConcurrency() != 0 {
			return err
		}
		_, err = r.client.SetTenantLimits(ctx, &pb.SetTenantLimitsRequest{
			TenantId: t.ID, OperationsPerSecond: &l.OperationsPerSecond, BytesPerSecond: &l.BytesPerSecond, Concurrency: &l.Concurrency,
		})
		return err
	})
}

// stillThere fails where the tenant that was restored is another by now.
func (r *restoring) stillThere(ctx context.Context, t *pb.GetTenantResponse) error {
	var now *pb.GetTenantResponse
	err := r.in.retry(ctx, func(ctx context.Context) (err error) {
		now, err = r.client.GetTenant(ctx, &pb.GetTenantRequest{TenantId: t.GetTenantId()})
		return err
	})
	if err == nil && now.GetCreatedAt() != t.GetCreatedAt() || status.Code(err) == codes.NotFound {
		return fmt.Errorf("tenant %q was deleted while it was restored", t.GetTenantId())
	}
	return err
}

// restore sends versions until they were taken in.
func (r *restoring) restore(ctx context.Context, tenant string, versions []backup.Version) error {
	req := &pb.ImportVersionsRequest{TenantId: tenant, Versions: make([]*pb.StoredVersion, len(versions))}
	bytes := 0
	for i, v := range versions {
		req.Versions[i] = &pb.StoredVersion{Key: v.Key, Head: v.Head, Value: v.Value}
		bytes += len(v.Key) + len(v.Value)
	}
	for attempt := 1; ; attempt++ {
		var done *pb.ImportVersionsResponse
		err := r.in.once(ctx, func(ctx context.Context) (err error) {
			done, err = r.client.ImportVersions(ctx, req)
			return err
		})
		if err == nil {
			r.records.Add(int64(len(versions)))
			r.bytes.Add(int64(bytes))
			r.written.Add(done.GetWritten())
			r.kept.Add(done.GetKept())
			return nil
		}
		if attempt == attempts || !passes(err) || ctx.Err() != nil {
			return err
		}
		if r.in.backOff(ctx, attempt, err) != nil {
			return err
		}
	}
}
