package coord

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/pairdb/coordinator/ring"
)

// PlanRequest is a change of members to be planned: a node to be added, or the
// id of one to be removed.
type PlanRequest struct {
	Add    *StorageNode
	Remove string
	How    Removal
}

// Plan is what a change of members would move. Its figures are estimates from
// what nodes hold now.
type Plan struct {
	Ranges int // whose replicas change
	Keys   int64
	Bytes  int64
	Moves  []PlanMove // by the nodes' ids
	Nodes  []PlanNode // by id, the added and the removed one too
}

// PlanMove is what a node gets from another.
type PlanMove struct {
	From, To string
	Ranges   int
	Keys     int64
	Bytes    int64
}

// PlanNode is what a node holds before and after. Shares are of all replicas of
// tenants with the greatest replication factor, 0 to 1.
type PlanNode struct {
	ID                      string
	KeysBefore, KeysAfter   int64
	ShareBefore, ShareAfter float64
}

// Plan tells what a change would move, and changes nothing.
func (c *Coordinator) Plan(ctx context.Context, req PlanRequest) (Plan, error) {
	v := c.view.Load()
	if v.change != nil {
		return Plan{}, fmt.Errorf("%w: migration %s is under way; plan again when it has ended", ErrMigrationConflict, v.change.ID)
	}
	next, err := v.topology.planned(req)
	if err != nil {
		return Plan{}, err
	}
	after, err := next.NextRing()
	if err != nil {
		return Plan{}, fmt.Errorf("plan: %w", err)
	}
	factors, err := c.metadata.ReplicationFactors(ctx)
	if err != nil {
		return Plan{}, err
	}
	p := planning{c: c, v: v, lost: next.Current().lostNode(), after: after, nodes: map[string]*PlanNode{}, moves: map[[2]string]*PlanMove{}}
	for _, r := range []*ring.Ring{v.ring, after} {
		for _, n := range r.Nodes() {
			p.nodes[n.ID] = &PlanNode{ID: n.ID}
		}
	}
	if len(factors) > 0 && after.Len() > 0 && v.ring.Len() > 0 {
		if err := p.run(ctx, factors[len(factors)-1]); err != nil {
			return Plan{}, err
		}
	}
	return p.plan(), nil
}

// planned is the topology of a change that was begun, without anything being checked
// that only matters when it is.
func (t *Topology) planned(req PlanRequest) (Topology, error) {
	now := time.Time{}
	m := Migration{ID: "planned", Kind: MigrationRemove, Node: req.Remove, Force: req.How.Force}
	if req.Add != nil {
		if err := checkNode(*req.Add); err != nil {
			return Topology{}, err
		}
		if t.Node(req.Add.ID) != nil {
			return Topology{}, fmt.Errorf("%w: %q is a member", ErrNodeInUse, req.Add.ID)
		}
		m = Migration{ID: "planned", Kind: MigrationAdd, Node: req.Add.ID, Joining: req.Add}
	} else if t.Node(req.Remove) == nil {
		return Topology{}, fmt.Errorf("%w: %q", ErrNodeNotFound, req.Remove)
	}
	queued, err := t.Queue(m)
	if err != nil {
		return Topology{}, err
	}
	return queued.Begin(m.ID, now)
}

type planning struct {
	c     *Coordinator
	v     *view
	lost  string // the node that nothing can be copied from, "" without
	after *ring.Ring
	made  Plan
	nodes map[string]*PlanNode
	moves map[[2]string]*PlanMove
	size  map[*peer]float64 // bytes a key
}

func (p *planning) run(ctx context.Context, most int) error {
	p.size = map[*peer]float64{}
	for _, peer := range p.v.members {
		if who, err := peer.describe(ctx); err == nil && who.Keys > 0 {
			p.size[peer] = float64(who.Bytes) / float64(who.Keys)
		}
	}
	ranges := ring.Ranges(p.v.ring, most, p.after, most)
	for len(ranges) > 0 {
		batch := ranges[:min(len(ranges), repairBatch)]
		ranges = ranges[len(batch):]
		stretches := make([]stretch, len(batch))
		for i := range batch {
			stretches[i] = stretch{batch[i].Span, pick(p.v.members, batch[i].Old)}
		}
		all := &comparison{r: &p.c.repairs, v: p.v}
		for i, answered := range all.sums(ctx, stretches, "") {
			if err := p.weigh(ctx, &batch[i], stretches[i].replicas, answered); err != nil {
				return err
			}
		}
	}
	return nil
}

// weigh adds up what a range holds and moves.
func (p *planning) weigh(ctx context.Context, r *ring.Range, replicas []*peer, answered map[*peer]SpanSums) error {
	old, next := p.v.ring.Nodes(), p.after.Nodes()
	for _, n := range r.Old {
		p.nodes[old[n].ID].ShareBefore += r.Share() / float64(len(r.Old))
	}
	for _, n := range r.New {
		p.nodes[next[n].ID].ShareAfter += r.Share() / float64(len(r.New))
	}
	moved := false
	for _, space := range spacesOf(answered) {
		tenant, err := p.c.tenantOf(ctx, p.v, space)
		if err != nil {
			return err
		}
		if tenant == nil {
			continue
		}
		rf := tenant.ReplicationFactor
		keys, _ := compareSums(answered, replicas, space)
		before := r.Old[:min(rf, len(r.Old))]
		var size float64
		for _, n := range before {
			p.nodes[old[n].ID].KeysBefore += keys
			size = max(size, p.size[p.v.members[n]])
		}
		for _, n := range r.New[:min(rf, len(r.New))] {
			id := next[n].ID
			p.nodes[id].KeysAfter += keys
			if slices.ContainsFunc(before, func(n uint32) bool { return old[n].ID == id }) {
				continue
			}
			moved = true
			m := p.move(p.source(old, before), id)
			m.Keys += keys
			m.Bytes += int64(size * float64(keys))
		}
	}
	// Ranges without keys change hands, too.
	for _, n := range r.New {
		id := next[n].ID
		if !slices.ContainsFunc(r.Old, func(n uint32) bool { return old[n].ID == id }) {
			p.move(p.source(old, r.Old), id).Ranges++
			moved = true
		}
	}
	if moved || !sameNodes(old, r.Old, next, r.New) {
		p.made.Ranges++
	}
	return nil
}

// source is the node of a range that its keys are copied from: the first that is not lost.
func (p *planning) source(nodes []ring.Node, at []uint32) string {
	for _, n := range at {
		if nodes[n].ID != p.lost {
			return nodes[n].ID
		}
	}
	return nodes[at[0]].ID
}

func sameNodes(a []ring.Node, at []uint32, b []ring.Node, bt []uint32) bool {
	return slices.EqualFunc(at, bt, func(x, y uint32) bool { return a[x].ID == b[y].ID })
}

func (p *planning) move(from, to string) *PlanMove {
	k := [2]string{from, to}
	if p.moves[k] == nil {
		p.moves[k] = &PlanMove{From: from, To: to}
	}
	return p.moves[k]
}

func (p *planning) plan() Plan {
	for _, m := range p.moves {
		p.made.Moves = append(p.made.Moves, *m)
		p.made.Keys += m.Keys
		p.made.Bytes += m.Bytes
	}
	slices.SortFunc(p.made.Moves, func(a, b PlanMove) int {
		return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To))
	})
	for _, n := range p.nodes {
		p.made.Nodes = append(p.made.Nodes, *n)
	}
	slices.SortFunc(p.made.Nodes, func(a, b PlanNode) int { return cmp.Compare(a.ID, b.ID) })
	return p.made
}
