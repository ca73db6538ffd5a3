package rpc

import (
	"sync"
	"time"

	"google.golang.org/grpc/peer"
)

// Admin is an RPC of an administrator that has ended or was refused.
type Admin struct {
	*Call
	Subject string // of the token; empty where nobody is asked for one
	KeyID   string // of the key that signed it
	Peer    string // the address that it came from
	Target  string // the tenant, node or migration; empty where it is about none
}

// Outcome is ok, or the reason of the error.
func (a *Admin) Outcome() string {
	if a.Reason == "" && a.Code == 0 {
		return "ok"
	}
	if a.Reason == "" {
		return a.Code.String()
	}
	return a.Reason
}

// forbiddenPerSecond bounds the refusals that are told of: whoever has a token
// could fill a disk with them.
const forbiddenPerSecond = 10

// importsPerSecond bounds the imports that are told of: a restore consists of many.
const importsPerSecond = 1

// audit tells of an RPC of administrators that has changed something or was to,
// and of one that was forbidden. Whoever has no good token is told of in the log
// of requests alone.
func (s *Server) audit(call Call, c *caller, request any) {
	if call.Reason == "UNAUTHENTICATED" {
		return
	}
	forbidden := call.Reason == "FORBIDDEN"
	switch {
	case forbidden:
		if !s.forbidden.allow(time.Now(), forbiddenPerSecond) {
			return
		}
	case readOnly(call.Method), call.Method == methodImport && !s.imported.allow(time.Now(), importsPerSecond):
		return
	}
	a := Admin{Call: &call, Target: target(request)}
	if c != nil {
		a.Subject, a.KeyID = c.principal.Subject, c.principal.KeyID
	}
	if p, ok := peer.FromContext(call.ctx); ok {
		a.Peer = p.Addr.String()
	}
	s.opts.Audit(&a)
}

// perSecond allows so many things a second. The zero one is ready for use.
type perSecond struct {
	mu     sync.Mutex
	second int64
	n      int
}

func (p *perSecond) allow(now time.Time, most int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if second := now.Unix(); second != p.second {
		p.second, p.n = second, 0
	}
	p.n++
	return p.n <= most
}

// target is what a request is about.
func target(request any) string {
	switch r := request.(type) {
	case interface{ GetNodeId() string }:
		return clip(r.GetNodeId(), MaxNodeIDBytes)
	case interface{ GetMigrationId() string }:
		return clip(r.GetMigrationId(), MaxMigrationIDBytes)
	case interface{ GetTenantId() string }:
		return clip(r.GetTenantId(), MaxTenantBytes)
	}
	return ""
}
