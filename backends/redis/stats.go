package redis

import "sync/atomic"

// Stats are counts since Open, and what is so now.
type Stats struct {
	Steps          uint64 // that were asked for
	RoundTrips     uint64 // pipelines that carried them
	Retries        uint64 // steps that were sent again
	RetriesRefused uint64 // steps that failed because the retry budget was spent
	Overflows      uint64 // steps that failed because too many were waiting

	Queued          int    // steps that wait to be sent
	Connections     uint32 // open ones
	IdleConnections uint32
	PoolTimeouts    uint32 // waits for a free connection that took too long
}

type counters struct {
	steps, roundTrips, retries, refusals, overflows atomic.Uint64
}

// Stats may be called at any time.
func (s *Store) Stats() Stats {
	pool := s.client.PoolStats()
	stats := Stats{
		Steps:           s.count.steps.Load(),
		RoundTrips:      s.count.roundTrips.Load(),
		Retries:         s.count.retries.Load(),
		RetriesRefused:  s.count.refusals.Load(),
		Overflows:       s.count.overflows.Load(),
		Connections:     pool.TotalConns,
		IdleConnections: pool.IdleConns,
		PoolTimeouts:    pool.Timeouts,
	}
	for _, queue := range s.queues {
		stats.Queued += len(queue)
	}
	return stats
}
