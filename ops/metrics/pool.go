package metrics

import "time"

// Pool is how the connections to a store are used; postgres.PoolStats has the
// same fields.
type Pool struct {
	Acquired, Idle, Total, Max int
	Waits                      int64
	Waited                     time.Duration
	Cancelled                  int64
}

// Pool puts a pool of connections on the page; store is "metadata" or
// "idempotency". Read is called for each page, from any goroutine.
func (p *Page) Pool(store string, read func() Pool) {
	name := "coordinator_" + store + "_pool_"
	p.Gauge(name+"acquired", "Connections in use.", func() float64 { return float64(read().Acquired) })
	p.Gauge(name+"idle", "Connections that are open and unused.", func() float64 { return float64(read().Idle) })
	p.Gauge(name+"max", "Most connections that there may be.", func() float64 { return float64(read().Max) })
	p.Counter(name+"waits_total", "Calls that found no idle connection.", func() uint64 { return uint64(read().Waits) })
	p.Gauge(name+"waited_seconds", "Time that calls have waited for a connection, since the start.", func() float64 { return read().Waited.Seconds() })
	p.Counter(name+"cancelled_total", "Calls that ended while they waited for a connection.", func() uint64 { return uint64(read().Cancelled) })
}
