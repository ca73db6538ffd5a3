package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/gofrs/flock"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pairdb/coordinator/ops/backup"
	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

func backupCommand() command {
	return command{
		name: "backup", summary: "Write all that tenants hold to a file, versions with their timestamps and clocks",
		details: `
All tenants are in it unless -tenant names one; deleted keys and when values
expire, too, and how tenants are made. Each key is as a quorum held it at some time
meanwhile: a backup is not a snapshot. Until it is whole the file is named
FILE.partial; a backup that was interrupted goes on when the command is run
again. Needs the admin role where tokens are needed. restore reads it.`,
		flags: backUp,
	}
}

func backUp(flags *flag.FlagSet) action {
	out := flags.String("out", "", "`FILE` to write, which must not exist")
	return func(ctx context.Context, in *invocation) error {
		if *out == "" {
			return wrongUsage("backup needs -out FILE")
		}
		b := &backingUp{in: in, only: chosenTenant(flags, in)}
		return b.run(ctx, *out)
	}
}

// chosenTenant is the tenant that -tenant names, empty where it was not given.
func chosenTenant(flags *flag.FlagSet, in *invocation) (id string) {
	flags.Visit(func(f *flag.Flag) {
		if f.Name == "tenant" {
			id = in.tenant
		}
	})
	return id
}

// backingUp is a backup under way.
type backingUp struct {
	tally
	in       *invocation
	only     string // the only tenant; empty: all
	client   pb.CoordinatorServiceClient
	file     *backup.Writer
	contents *backup.Contents
	at       atomic.Int64 // the tenant, from 1
}

func (b *backingUp) String() string {
	return fmt.Sprintf("tenant %d of %d: %s", b.at.Load(), len(b.contents.Tenants), &b.tally)
}

func (b *backingUp) run(ctx context.Context, path string) (err error) {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = fmt.Errorf("%s exists already; name another file, or remove it", path)
		}
		return err
	}
	conn, err := b.in.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	b.client = pb.NewCoordinatorServiceClient(conn)

	partial := path + ".partial"
	f, err := os.OpenFile(partial, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	lock := flock.New(partial)
	if locked, err := lock.TryLock(); err != nil {
		return fmt.Errorf("lock %s: %w", partial, err)
	} else if !locked {
		return fmt.Errorf("%s is being written by another backup", partial)
	}
	defer lock.Close()
	var progress *backup.Progress
	if b.file, progress, err = backup.Resume(f); err != nil {
		return fmt.Errorf("%s: %w; remove it to begin anew", partial, err)
	}
	if err := b.begin(ctx, partial, progress); err != nil {
		return err
	}
	if had, _ := b.file.Written(); had > 0 {
		fmt.Fprintf(b.in.Stderr, "going on with %s, which holds %d versions\n", partial, had)
	}
	b.start = time.Now()
	hide := b.in.show(b)
	err = b.tenants(ctx, progress)
	hide()
	if err != nil {
		return fmt.Errorf("%w (run it again to go on)", err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", partial, err)
	}
	if err := errors.Join(os.Rename(partial, path), syncDirectory(filepath.Dir(path))); err != nil {
		return err
	}
	versions, bytes := b.file.Written()
	return b.in.answerObject(backedUp{path, len(b.contents.Tenants), versions, bytes},
		printf("backed up %d versions of %d tenants, %s, to %s\n", versions, len(b.contents.Tenants), size(bytes), path))
}

// backedUp is the answer of a backup.
type backedUp struct {
	File     string `json:"file"`
	Tenants  int    `json:"tenants"`
	Versions int64  `json:"versions"`
	Bytes    int64  `json:"bytes"`
}

// syncDirectory makes a rename last.
func syncDirectory(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// begin learns what is to be backed up: from the file, where an earlier run has
// begun it.
func (b *backingUp) begin(ctx context.Context, path string, progress *backup.Progress) error {
	if c := progress.Contents; c != nil {
		b.contents = c
		if c.Only != b.only {
			return fmt.Errorf("%s is a backup of %s, not of %s; name another file, or remove it", path, scope(c.Only), scope(b.only))
		}
		return nil
	}
	c := &backup.Contents{CreatedAt: time.Now().Unix(), Only: b.only}
	b.contents = c
	if b.only != "" {
		if _, err := b.tenant(ctx, b.only); err != nil {
			return err
		}
		c.Tenants = []string{b.only}
	} else {
		for token := ""; ; {
			page, err := b.in.tenantPage(ctx, b.client, token)
			if err != nil {
				return err
			}
			for _, t := range page.GetTenants() {
				c.Tenants = append(c.Tenants, t.GetTenantId())
			}
			if token = page.GetNextPageToken(); token == "" {
				break
			}
		}
	}
	if err := b.in.retry(ctx, func(ctx context.Context) error {
		known, err := b.client.GetStatus(ctx, &pb.GetStatusRequest{})
		if err != nil {
			return err
		}
		c.Version = known.GetVersion()
		c.Nodes = nil
		for _, n := range known.GetNodes() {
			c.Nodes = append(c.Nodes, backup.Node{
				ID: n.GetNode().GetNodeId(), Host: n.GetNode().GetHost(), Port: n.GetNode().GetPort(),
				VirtualNodes: n.GetNode().GetVirtualNodes(), Status: n.GetNode().GetStatus(),
			})
		}
		return nil
	}); err != nil {
		return err
	}
	return b.file.Contents(c)
}

func scope(only string) string {
	if only == "" {
		return "all tenants"
	}
	return fmt.Sprintf("tenant %q", only)
}

// tenant asks how a tenant is made.
func (b *backingUp) tenant(ctx context.Context, id string) (t *backup.Tenant, err error) {
	err = b.in.retry(ctx, func(ctx context.Context) error {
		known, err := b.client.GetTenant(ctx, &pb.GetTenantRequest{TenantId: id})
		if err != nil {
			return err
		}
		limits, err := b.client.GetTenantLimits(ctx, &pb.GetTenantLimitsRequest{TenantId: id})
		if err != nil {
			return err
		}
		t = &backup.Tenant{ID: id, ReplicationFactor: known.GetReplicationFactor(), CreatedAt: known.GetCreatedAt(), Limits: backup.Limits{
			OperationsPerSecond: limits.GetSet().GetOperationsPerSecond(), BytesPerSecond: limits.GetSet().GetBytesPerSecond(),
			Concurrency: limits.GetSet().GetConcurrency(),
		}}
		return nil
	})
	return t, err
}

// tenants writes what the file lacks.
func (b *backingUp) tenants(ctx context.Context, progress *backup.Progress) error {
	if progress.Whole {
		return nil
	}
	for i, id := range b.contents.Tenants[progress.Done:] {
		b.at.Store(int64(progress.Done + i + 1))
		begun := progress.Begun && i == 0
		token, read := "", false
		if begun {
			token, read = progress.Token, progress.Read
		}
		gone, err := b.tenantAt(ctx, id, begun, token, read)
		if err != nil {
			return fmt.Errorf("back up tenant %q: %w", id, err)
		}
		if gone && b.only != "" {
			return fmt.Errorf("tenant %q was deleted while it was backed up", id)
		}
		if gone {
			fmt.Fprintf(b.in.Stderr, "tenant %q was deleted meanwhile; it will not be restored\n", id)
		}
		if err := b.file.TenantEnd(gone); err != nil {
			return err
		}
	}
	return b.file.End()
}

// tenantAt writes a tenant, or what is left of it from a token on.
func (b *backingUp) tenantAt(ctx context.Context, id string, begun bool, token string, read bool) (gone bool, err error) {
	if !begun {
		t, err := b.tenant(ctx, id)
		if gone = status.Code(err) == codes.NotFound; gone {
			t = &backup.Tenant{ID: id}
		} else if err != nil {
			return false, err
		}
		if err := b.file.Tenant(t); err != nil || gone {
			return gone, err
		}
	}
	for failures := 0; !read; {
		came, err := b.export(ctx, id, &token)
		switch {
		case err == nil:
			return false, nil
		case status.Code(err) == codes.NotFound:
			return true, nil
		case !passes(err) || ctx.Err() != nil:
			return false, err
		}
		if came {
			failures = 0
		}
		if failures++; failures == attempts {
			return false, err
		}
		if err := b.in.backOff(ctx, failures, err); err != nil {
			return false, err
		}
	}
	return false, nil
}

// passes tells whether a failure is worth another attempt, of what may be done
// twice.
func passes(err error) bool {
	return slices.Contains([]codes.Code{codes.Unavailable, codes.ResourceExhausted, codes.DeadlineExceeded}, status.Code(err))
}

// errCutOff is a stream that has ended without its last message.
var errCutOff = status.Error(codes.Unavailable, "the coordinator ended the export before its end")

// export reads one stream to its end; token says where to go on.
func (b *backingUp) export(ctx context.Context, id string, token *string) (came bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := b.client.ExportVersions(ctx, &pb.ExportVersionsRequest{TenantId: id, ResumeToken: *token})
	if err != nil {
		return false, err
	}
	for {
		m, err := stream.Recv()
		if err == io.EOF {
			return came, errCutOff
		}
		if err != nil {
			return came, err
		}
		came = true
		block := &backup.Versions{Token: m.GetResumeToken(), Versions: make([]backup.Version, len(m.GetVersions()))}
		bytes := 0
		for i, v := range m.GetVersions() {
			block.Versions[i] = backup.Version{Key: v.GetKey(), Head: v.GetHead(), Value: v.GetValue()}
			bytes += len(v.GetKey()) + len(v.GetValue())
		}
		if err := b.file.Versions(block); err != nil {
			return came, err
		}
		b.records.Add(int64(len(block.Versions)))
		b.bytes.Add(int64(bytes))
		if *token = m.GetResumeToken(); *token == "" {
			return came, nil
		}
	}
}
