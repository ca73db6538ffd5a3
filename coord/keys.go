package coord

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/pairdb/coordinator/ring"
)

// Keys lists a page of a tenant's keys, each once, in the order of their
// tokens; deleted keys are left out. It asks every node, and bears as many
// failures as leave each key's majority a member that answers. A key that is
// being written or deleted meanwhile may or may not be listed.
func (c *Coordinator) Keys(ctx context.Context, req KeysRequest) (KeysPage, error) {
	if err := c.begin(); err != nil {
		return KeysPage{}, err
	}
	defer c.ended()
	for {
		v, tenant, err := c.awaitTenant(ctx, req.Tenant, time.Time{})
		if err != nil {
			return KeysPage{}, err
		}
		page, err := c.keys(ctx, v, tenant, req)
		stale := (*StaleRingError)(nil)
		if !errors.As(err, &stale) {
			return page, err
		}
		if err := c.learnRing(ctx, stale.Epoch); err != nil {
			return KeysPage{}, err
		}
	}
}

func (c *Coordinator) keys(ctx context.Context, v *view, tenant *Tenant, req KeysRequest) (KeysPage, error) {
	scan := ScanRequest{
		Epoch: v.topology.Epoch, Span: ring.Everything(), Tenant: tenant.Space, Prefix: req.Prefix, After: tenant.inside(req.After),
		Limit: min(max(req.Limit, 1), MaxScanPage),
	}
	answered, err := scanMembers(ctx, v, tenant, scan)
	if err != nil {
		return KeysPage{}, err
	}
	pages := make([]ScanPage, len(answered))
	for i := range answered {
		pages[i] = answered[i].page
	}
	page := mergePages(pages, scan.Limit, c.options.Wall())
	page.Next = tenant.outside(page.Next)
	return page, nil
}

// scanMembers asks the members for a page of a tenant's keys. They hold all
// there is: those of before a change that is under way, since every acknowledged
// write is on a quorum of theirs too. So many answer that each key's majority has
// one of them, or it fails.
func scanMembers(ctx context.Context, v *view, tenant *Tenant, scan ScanRequest) ([]scanAnswer, error) {
	members := v.members
	if v.change != nil && v.change.lostNode() != "" {
		members = slices.DeleteFunc(slices.Clone(members), func(p *peer) bool { return p.node.ID == v.change.lostNode() })
	}
	pages := make([]ScanPage, len(members))
	errs := make([]error, len(members))
	var all sync.WaitGroup
	for i, p := range members {
		if errs[i] = p.replica.Unavailable(); errs[i] == nil {
			all.Go(func() { pages[i], errs[i] = p.replica.Scan(ctx, scan) })
		}
	}
	all.Wait()

	missing := tenant.ReplicationFactor - Majority(tenant.ReplicationFactor)
	failed := &QuorumError{Phase: "list keys", Level: Quorum, Need: len(v.members) - missing}
	var answered []scanAnswer
	for i, err := range errs {
		if stale := (*StaleRingError)(nil); errors.As(err, &stale) {
			return nil, err
		}
		if err != nil {
			failed.Replicas = append(failed.Replicas, ReplicaError{members[i].node.ID, err})
			continue
		}
		answered = append(answered, scanAnswer{members[i], pages[i]})
	}
	if ctx.Err() != nil {
		return nil, abandonError(ctx)
	}
	if failed.Have = len(answered); failed.Have < failed.Need {
		return nil, failed
	}
	return answered, nil
}

// behindTenant, behind a tenant's id or space, makes what comes after it and
// before all others: no id holds it, and spaces hold a greater one.
const behindTenant = "\x00"

// inside is a position among a tenant's keys as replicas know it: by its space.
func (t *Tenant) inside(p *Position) *Position {
	switch {
	case p == nil || p.Tenant < t.ID:
		return p
	case p.Tenant == t.ID:
		return &Position{Token: p.Token, Tenant: t.Space, Key: p.Key}
	}
	return &Position{Token: p.Token, Tenant: t.Space + behindTenant}
}

// outside is a replica's position as the tenant may know it. One at a key that
// is not the tenant's, perhaps of one of the same id that was deleted, says only
// on which side of the tenant's keys it lies.
func (t *Tenant) outside(p *Position) *Position {
	switch {
	case p == nil:
		return nil
	case p.Tenant == t.Space:
		return &Position{Token: p.Token, Tenant: t.ID, Key: p.Key}
	case p.Tenant < t.Space:
		return &Position{Token: p.Token}
	}
	return &Position{Token: p.Token, Tenant: t.ID + behindTenant}
}

// mergePages merges what nodes answered to the same scan, up to the least
// position that all of them have covered.
func mergePages(pages []ScanPage, limit int, now time.Time) KeysPage {
	var horizon *Position
	for _, p := range pages {
		if p.Next != nil && (horizon == nil || p.Next.Compare(*horizon) < 0) {
			horizon = p.Next
		}
	}
	at := make([]int, len(pages))
	var merged KeysPage
	for {
		var least *ScanItem
		for i, p := range pages {
			if at[i] == len(p.Items) {
				continue
			}
			if item := &p.Items[at[i]]; least == nil || item.Position.Compare(least.Position) < 0 {
				least = item
			}
		}
		if least == nil || horizon != nil && least.Position.Compare(*horizon) > 0 {
			merged.Next = horizon
			return merged
		}
		if len(merged.Keys) == limit {
			// The page is full before the horizon: go on from its last key,
			// or, where that was a deleted one, from there.
			return merged
		}
		position, newest := least.Position, least.Head
		for i, p := range pages {
			if at[i] < len(p.Items) && p.Items[at[i]].Position == position {
				if head := p.Items[at[i]].Head; head.Compare(&newest) > 0 {
					newest = head
				}
				at[i]++
			}
		}
		merged.Next = &position
		if newest.Live(now) {
			merged.Keys = append(merged.Keys, position.Key)
		}
	}
}
