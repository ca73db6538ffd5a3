package coord

import (
	"context"
	"fmt"
	"sync"
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
	tenant, err := c.tenants.get(ctx, req.Tenant)
	if err != nil {
		return KeysPage{}, err
	}
	v := c.view.Load()
	scan := ScanRequest{Tenant: req.Tenant, Prefix: req.Prefix, After: req.After, Limit: min(max(req.Limit, 1), MaxScanPage)}
	pages := make([]ScanPage, len(v.members))
	errs := make([]error, len(v.members))
	var all sync.WaitGroup
	for i, p := range v.members {
		all.Go(func() { pages[i], errs[i] = p.replica.Scan(ctx, scan) })
	}
	all.Wait()

	failed := &QuorumError{Phase: "list keys", Level: Quorum, Need: len(v.members) - (tenant.ReplicationFactor - Majority(tenant.ReplicationFactor))}
	var answered []ScanPage
	for i, err := range errs {
		if err != nil {
			failed.Replicas = append(failed.Replicas, ReplicaError{v.members[i].node.ID, err})
			continue
		}
		answered = append(answered, pages[i])
	}
	if ctx.Err() != nil {
		return KeysPage{}, abandonError(ctx)
	}
	if failed.Have = len(answered); failed.Have < failed.Need {
		return KeysPage{}, failed
	}
	return mergePages(answered, scan.Limit), nil
}

// mergePages merges what nodes answered to the same scan, up to the least
// position that all of them have covered.
func mergePages(pages []ScanPage, limit int) KeysPage {
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
		if newest.Live() {
			merged.Keys = append(merged.Keys, position.Key)
		}
	}
}

// tenantIsEmpty fails with ErrMigrationConflict unless every node says that it
// holds no key of the tenant, deleted ones included.
func (c *Coordinator) tenantIsEmpty(ctx context.Context, tenant string) error {
	for _, p := range c.view.Load().members {
		for scan := (ScanRequest{Tenant: tenant, Limit: 1}); ; {
			page, err := p.replica.Scan(ctx, scan)
			if err != nil {
				return fmt.Errorf("%w: node %q cannot be asked whether it holds keys of tenant %q: %w", ErrMigrationConflict, p.node.ID, tenant, err)
			}
			if len(page.Items) > 0 {
				return fmt.Errorf("%w: tenant %q holds keys, and this release cannot move them", ErrMigrationConflict, tenant)
			}
			if page.Next == nil {
				break
			}
			scan.After = page.Next
		}
	}
	return nil
}
