package metrics

// Migration is a topology change that is under way.
type Migration struct {
	ID, Type    string
	Moved, Keys int64 // keys moved, and all there are to move
}

// Migrations puts topology changes that are under way on the page. Read is
// called for each page, from any goroutine, and must be quick.
func (p *Page) Migrations(read func() []Migration) {
	each := func(name, help string, of func(Migration) float64) {
		p.add(family{name, "gauge", help, func(w *writer) {
			for _, m := range read() {
				w.sample(name, label("migration", m.ID)+","+label("type", m.Type), of(m))
			}
		}})
	}
	each("coordinator_migration_keys_moved", "Keys that a topology change under way has moved.", func(m Migration) float64 { return float64(m.Moved) })
	each("coordinator_migration_keys", "Keys that a topology change under way has to move, an estimate.", func(m Migration) float64 { return float64(m.Keys) })
	p.Gauge("coordinator_migrations_running", "Topology changes under way.", func() float64 { return float64(len(read())) })
}
