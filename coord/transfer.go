package coord

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pairdb/coordinator/ring"
)

// KeyVersion is a key and a version of it, as backups hold them.
type KeyVersion struct {
	Key     string
	Version Version
}

// ExportRequest asks for all that is held of a tenant: versions with their
// values, tombstones and what has expired included.
type ExportRequest struct {
	Tenant string
	// Space and After are where an export goes on, from an ExportPage of an
	// earlier one. The export fails with ErrTenantNotFound where the space is not
	// the tenant's any more.
	Space string
	After *Position
}

// ExportPage is a part of an export, in the order of tokens. After is where to
// go on behind it, nil at the end.
type ExportPage struct {
	Versions []KeyVersion
	Space    string
	After    *Position
}

// ImportResult counts what an import has met.
type ImportResult struct {
	Written int64 // versions that some replica lacked, and was sent
	Kept    int64 // those that replicas held already, or a greater one
}

const (
	// exportBytes is the size of values at which a page of an export ends.
	exportBytes = 1 << 20
	// exportPage is how many keys a page holds at most.
	exportPage = 1000
	// Windows are how many keys are read, or written, at a time. That of an export
	// grows while values are small and shrinks where they are large, since the
	// values of a window are in memory at once.
	firstExportWindow = 4
	exportWindow      = 32
	importWindow      = 64
)

// transfer is what a read is told of a version to restore, or tells of one that
// it found.
type transfer struct {
	restored *Version // nil in an export
	found    Version
	sent     bool // to some replica
}

func (t *transfer) done(best *Version, sent bool) { t.found, t.sent = *best, sent }

// restores tells whether the read is there to restore a version.
func (r *read) restores() bool { return r.transfer != nil && r.transfer.restored != nil }

// Export hands all that is held of a tenant to send, page by page, each version
// as a read at quorum found it at some time during the export. It ends when send
// fails, with that error; pages are the receiver's. It reads no faster than
// Options.CopyRate and no more than a page ahead, and bears the failures that
// Keys does.
func (c *Coordinator) Export(ctx context.Context, req ExportRequest, send func(ExportPage) error) error {
	x := &export{c: c, ExportRequest: req, pace: pace{rate: c.options.CopyRate}, limit: exportPage, window: firstExportWindow}
	for {
		page, err := x.page(ctx)
		if err == nil && page.After == nil {
			err = x.stillThere(ctx)
		}
		if err != nil {
			return err
		}
		if len(page.Versions) > 0 || page.After == nil {
			if err := send(page); err != nil {
				return err
			}
		}
		if x.After = page.After; x.After == nil {
			return nil
		}
	}
}

type export struct {
	c *Coordinator
	ExportRequest
	pace   pace
	limit  int // keys to be listed at a time
	window int // keys to be read at a time
}

// page reads the next page, with the ring as it is by then.
func (x *export) page(ctx context.Context) (ExportPage, error) {
	c := x.c
	if err := c.begin(); err != nil {
		return ExportPage{}, err
	}
	defer c.ended()
	for {
		v, tenant, err := c.awaitTenant(ctx, x.Tenant, time.Time{})
		if err != nil {
			return ExportPage{}, err
		}
		if err := x.sameSpace(tenant); err != nil {
			return ExportPage{}, err
		}
		answers, err := scanMembers(ctx, v, tenant, ScanRequest{
			Epoch: v.topology.Epoch, Span: ring.Everything(), Tenant: x.Space, After: x.After, Limit: x.limit,
		})
		stale := (*StaleRingError)(nil)
		if errors.As(err, &stale) {
			if err := c.learnRing(ctx, stale.Epoch); err != nil {
				return ExportPage{}, err
			}
			continue
		}
		if err != nil {
			return ExportPage{}, err
		}
		found, next := mergeScans(answers)
		return x.read(ctx, v, tenant, found, next)
	}
}

func (x *export) sameSpace(tenant *Tenant) error {
	if x.Space == "" {
		x.Space = tenant.Space
	}
	if x.Space != tenant.Space {
		return fmt.Errorf("%w: tenant %q was deleted meanwhile, and made again", ErrTenantNotFound, x.Tenant)
	}
	return nil
}

// stillThere fails where the tenant was deleted, and what it held with it, while
// this coordinator did not know.
func (x *export) stillThere(ctx context.Context) error {
	tenant, err := x.c.Tenant(ctx, x.Tenant)
	if err != nil {
		return err
	}
	return x.sameSpace(&tenant)
}

// read reads the values of keys that were found, as many as a page may hold.
func (x *export) read(ctx context.Context, v *view, tenant *Tenant, found []foundKey, next *Position) (ExportPage, error) {
	page := ExportPage{Space: x.Space, After: next}
	size := 0
	for at := 0; at < len(found); {
		window := found[at:min(at+x.window, len(found))]
		versions, err := x.versions(v, tenant, window)
		if err != nil {
			return ExportPage{}, err
		}
		bytes := 0
		for i := range versions {
			bytes += len(versions[i].Key) + len(versions[i].Version.Value)
		}
		page.Versions = append(page.Versions, versions...)
		size += bytes
		at += len(window)
		switch {
		case bytes > exportBytes:
			x.window = max(x.window/2, 1)
		case bytes < exportBytes/4:
			x.window = min(2*x.window, exportWindow)
		}
		if err := x.pace.spend(ctx, int64(bytes)); err != nil {
			return ExportPage{}, abandonError(ctx)
		}
		if size >= exportBytes && at < len(found) {
			// The rest is listed again; next time no more than is of use.
			last := window[len(window)-1].Position
			page.After = &last
			x.limit = min(max(2*at, exportWindow), exportPage)
			return page, nil
		}
	}
	x.limit = min(2*x.limit, exportPage)
	return page, nil
}

// versions reads keys at quorum. A deletion needs no reading: its head is all
// there is of it. A key that has gone meanwhile is left out.
func (x *export) versions(v *view, tenant *Tenant, window []foundKey) ([]KeyVersion, error) {
	all := make([]KeyVersion, len(window))
	var keys []errandKey
	var transfers []*transfer
	var at []int
	for i := range window {
		all[i].Key = window[i].Key
		if window[i].newest.Tombstone {
			all[i].Version.Head = window[i].newest
			continue
		}
		keys = append(keys, errandKey{tenant, window[i].Key})
		transfers = append(transfers, new(transfer))
		at = append(at, i)
	}
	if _, err := x.c.runTransfers(noErrand, v, keys, transfers); err != nil {
		return nil, err
	}
	for n, i := range at {
		all[i].Version = transfers[n].found
	}
	return slices.DeleteFunc(all, func(k KeyVersion) bool { return !k.Version.Exists() }), nil
}

// Import hands versions of a backup to all replicas of their keys, and returns
// once a quorum of them, at every epoch that is in force meanwhile, holds each
// version or a greater one: what is newer is never replaced, and to import again
// changes nothing. Versions keep their timestamps, writers and clocks, and are
// refused for none of them. Their slices must not be changed by anyone. Where it
// fails, some versions may have been taken in.
//
// A deleted key whose tombstone was forgotten since is there again: nothing is
// left that could tell.
func (c *Coordinator) Import(ctx context.Context, tenantID string, versions []KeyVersion) (result ImportResult, err error) {
	if err := c.begin(); err != nil {
		return result, err
	}
	defer c.ended()
	for len(versions) > 0 {
		v, tenant, err := c.awaitTenant(ctx, tenantID, time.Time{})
		if err != nil {
			return result, err
		}
		n := min(importWindow, len(versions))
		keys := make([]errandKey, n)
		transfers := make([]*transfer, n)
		for i := range n {
			keys[i] = errandKey{tenant, versions[i].Key}
			transfers[i] = &transfer{restored: &versions[i].Version}
		}
		if _, err := c.runTransfers(errandRestore, v, keys, transfers); err != nil {
			return result, err
		}
		for _, t := range transfers {
			if t.sent && t.found.Compare(&t.restored.Head) == 0 {
				result.Written++
			} else {
				result.Kept++
			}
		}
		if ctx.Err() != nil {
			return result, abandonError(ctx)
		}
		versions = versions[n:]
	}
	return result, nil
}
