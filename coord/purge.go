package coord

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pairdb/coordinator/ring"
)

// purger removes the keys of deleted tenants from all nodes. No request reaches
// them any more: the tenant is unknown, and the next one of its id has another
// space.
type purger struct{ c *Coordinator }

const purgeLook = time.Second

// lead purges what is there to be purged until ctx ends.
func (p *purger) lead(ctx context.Context) {
	tick := time.NewTicker(purgeLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := p.pass(ctx); err != nil && ctx.Err() == nil {
			p.c.report("remove the keys of deleted tenants", err)
		}
	}
}

func (p *purger) pass(ctx context.Context) error {
	c := p.c
	for after := ""; ; {
		bounded, cancel := context.WithTimeout(ctx, migrationTimeout)
		spaces, err := c.metadata.DeletedSpaces(bounded, after, 100)
		cancel()
		if err != nil || len(spaces) == 0 {
			return err
		}
		for _, space := range spaces {
			if err := p.purge(ctx, space); err != nil {
				return fmt.Errorf("tenant %q: %w", tenantOfSpace(space), err)
			}
		}
		after = spaces[len(spaces)-1]
	}
}

// purged is the checkpoint of a purge.
type purged struct {
	Since time.Time `json:"since"`          // when it was first looked at
	Empty time.Time `json:"empty,omitzero"` // when all nodes were last found empty
}

// settled is for how long after its deletion requests that began with a tenant
// in a cache may still write, or be under way.
func (c *Coordinator) settled() time.Duration {
	return c.options.TenantTTL + c.options.WriteTimeout + MessageLifetime
}

// purge removes what nodes hold of a space. It is done with it once every node
// was found empty when nothing could be written there any more.
func (p *purger) purge(ctx context.Context, space string) error {
	c := p.c
	name := "purge/" + strings.ToValidUTF8(space, "")
	bounded, cancel := context.WithTimeout(ctx, migrationTimeout)
	defer cancel()
	saved, err := c.metadata.Checkpoint(bounded, name)
	if err != nil {
		return err
	}
	var state purged
	if saved != nil {
		if err := json.Unmarshal(saved, &state); err != nil {
			return fmt.Errorf("read checkpoint %q: %w: %w", name, ErrCorrupt, err)
		}
	}
	now := c.options.Wall().UTC()
	if state.Since.IsZero() {
		state.Since = now
	}
	final := now.Sub(state.Since) > c.settled()
	if !state.Empty.IsZero() && !final {
		return nil // it is looked at once more, later
	}
	v := c.view.Load()
	whole := true
	for _, id := range slices.Sorted(maps.Keys(v.peers)) {
		peer := v.peers[id]
		if peer.replica.Unavailable() != nil {
			whole = false
			continue
		}
		if err := p.purgeNode(ctx, v, peer, space); err != nil {
			return err
		}
	}
	bounded, cancel2 := context.WithTimeout(ctx, migrationTimeout)
	defer cancel2()
	if whole && final {
		if err := c.metadata.ForgetSpace(bounded, space); err != nil {
			return err
		}
		return c.metadata.SaveCheckpoint(bounded, name, nil)
	}
	if whole {
		state.Empty = now
	}
	if saved, err = json.Marshal(&state); err != nil {
		return err
	}
	return c.metadata.SaveCheckpoint(bounded, name, saved)
}

func (p *purger) purgeNode(ctx context.Context, v *view, peer *peer, space string) error {
	for after := (*Position)(nil); ; {
		bounded, cancel := context.WithTimeout(ctx, migrationTimeout)
		page, err := peer.replica.Scan(bounded, ScanRequest{
			Epoch: v.topology.Epoch, Span: ring.Everything(), Tenant: space, After: after, Limit: sweepPage,
		})
		cancel()
		if err != nil {
			return fmt.Errorf("scan storage node %s: %w", peer.node.ID, err)
		}
		if err := p.c.dropAll(ctx, v, peer, page.Items); err != nil {
			return err
		}
		if after = page.Next; after == nil {
			return nil
		}
	}
}
