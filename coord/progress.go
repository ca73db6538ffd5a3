package coord

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// MigrationProgress is how far a migration's copy has come.
type MigrationProgress struct {
	Keys  int64 `json:"keys"`  // looked at
	Total int64 `json:"total"` // there are, as estimated when it began
	Bytes int64 `json:"bytes"` // of values that were read to be copied
	// Part is how much of the tokens that move is done, 0 to 1.
	Part float64 `json:"part"`
	// Floors tells that the new replicas know what the old ones have forgotten.
	Floors bool `json:"floors,omitempty"`
	// After is where the copy goes on: behind this position.
	After *Position `json:"after,omitempty"`
	// Waiting says what the migration waits for, where it does.
	Waiting string `json:"-"`
}

// MigrationState is a migration and how far it has come.
type MigrationState struct {
	Migration
	MigrationProgress
	// Ends is when it is expected to have ended; zero where nobody can say.
	Ends time.Time
}

func (m *Migration) checkpoint() string {
	if mutant == mutantSharedCheckpoint {
		return "migration"
	}
	return fmt.Sprintf("migration/%s/%d", m.ID, m.Joint)
}

// loadProgress reads a migration's checkpoint. It is that of this very change:
// what one change has copied says nothing of another.
func (c *Coordinator) loadProgress(ctx context.Context, m *Migration) (p MigrationProgress, err error) {
	saved, err := c.metadata.Checkpoint(ctx, m.checkpoint())
	if err != nil || saved == nil {
		return p, err
	}
	if err := json.Unmarshal(saved, &p); err != nil {
		return MigrationProgress{}, fmt.Errorf("read checkpoint of migration %s: %w: %w", m.ID, ErrCorrupt, err)
	}
	return p, nil
}

func (c *Coordinator) saveProgress(ctx context.Context, m *Migration, p *MigrationProgress) error {
	saved, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("save checkpoint of migration %s: %w", m.ID, err)
	}
	ctx, cancel := context.WithTimeout(ctx, migrationTimeout)
	defer cancel()
	return c.metadata.SaveCheckpoint(ctx, m.checkpoint(), saved)
}

// CancelMigration gives a migration up.
func (c *Coordinator) CancelMigration(ctx context.Context, id string) error {
	err := c.change(ctx, func(t *Topology) (step TopologyStep, err error) {
		step.Next, err = t.Cancel(id, c.options.Wall().UTC())
		return step, err
	})
	if err != nil {
		return err
	}
	c.announce(ctx, c.view.Load())
	c.migrations.look()
	return nil
}

// RunningMigration is the one under way, as far as this coordinator knows: how
// far it has come is known where it is worked at. Ok is false without one.
func (c *Coordinator) RunningMigration() (m MigrationState, ok bool) {
	v := c.view.Load()
	if v.change == nil {
		return MigrationState{}, false
	}
	m.Migration = *v.change
	if p := c.migrations.copied.Load(); p != nil && p.id == m.ID {
		m.MigrationProgress = p.MigrationProgress
	}
	m.Total = max(m.Total, m.Keys)
	return m, true
}

// Migration tells how far a migration has come; ErrMigrationNotFound.
func (c *Coordinator) Migration(ctx context.Context, id string) (MigrationState, error) {
	t, err := c.metadata.Topology(ctx)
	if err != nil {
		return MigrationState{}, err
	}
	m := t.Migration(id)
	if m == nil {
		return MigrationState{}, fmt.Errorf("%w: %q", ErrMigrationNotFound, id)
	}
	return c.stateOf(ctx, m)
}

// Migrations lists those that wait or are under way and the last that ended,
// oldest first.
func (c *Coordinator) Migrations(ctx context.Context) ([]MigrationState, error) {
	t, err := c.metadata.Topology(ctx)
	if err != nil {
		return nil, err
	}
	states := make([]MigrationState, len(t.Migrations))
	for i := range t.Migrations {
		if states[i], err = c.stateOf(ctx, &t.Migrations[i]); err != nil {
			return nil, err
		}
	}
	return states, nil
}

func (c *Coordinator) stateOf(ctx context.Context, m *Migration) (MigrationState, error) {
	p, err := c.loadProgress(ctx, m)
	if err != nil {
		return MigrationState{}, err
	}
	s := MigrationState{Migration: *m, MigrationProgress: p}
	s.Total = max(s.Total, s.Keys)
	s.Waiting = c.migrations.waiting(m.ID)
	switch m.Status {
	case MigrationCompleted:
		s.Part, s.Total = 1, s.Keys
		s.Ends = m.EndedAt
	case MigrationFailed, MigrationCancelled:
		s.Ends = m.EndedAt
	case MigrationInProgress:
		if elapsed := c.options.Wall().Sub(m.StartedAt); s.Part > 0 && elapsed > 0 {
			s.Ends = m.StartedAt.Add(time.Duration(float64(elapsed) / s.Part))
		}
	}
	return s, nil
}
