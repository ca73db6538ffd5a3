package cli

import (
	"context"
	"flag"
	"fmt"
	"net"
	"strconv"
	"time"

	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// Join registers a storage node with a coordinator. Its fields are set by
// AddFlags or by hand.
type Join struct {
	Coordinator  string // HOST:PORT; empty: the node registers nowhere
	VirtualNodes int    // 0: the coordinator's default

	connection connection
}

// AddFlags adds the flags of a joining node to fs.
func (j *Join) AddFlags(fs *flag.FlagSet, getenv func(string) string) {
	c := &j.connection
	c.token = getenv("COORDINATOR_TOKEN")
	c.timeout = joinTimeout
	fs.StringVar(&j.Coordinator, "join", "", "register with the coordinator at `HOST:PORT`, and keep trying until it accepts")
	fs.IntVar(&j.VirtualNodes, "virtual-nodes", 0, "weight when joining, as a `number` of virtual nodes; 0 means 150")
	fs.StringVar(&c.tokenFile, "token-file", "", "`FILE` with the bearer token for -join; else $COORDINATOR_TOKEN")
	fs.StringVar(&c.ca, "ca", "", "PEM `FILE`: join over TLS and trust these authorities")
	fs.StringVar(&c.cert, "cert", "", "PEM `FILE`: own certificate for -join, with -key")
	fs.StringVar(&c.key, "key", "", "PEM `FILE`: key of -cert")
}

// Check finds flags that make no sense; advertise is where coordinators are to
// reach the node.
func (j *Join) Check(advertise string) error {
	if j.Coordinator == "" {
		return nil
	}
	j.connection.addr = j.Coordinator
	if err := j.connection.check(); err != nil {
		return fmt.Errorf("-join: %w", err)
	}
	host, port, err := net.SplitHostPort(advertise)
	if n, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil || n == 0 || host == "" {
		return fmt.Errorf("-advertise %q is not HOST:PORT", advertise)
	}
	return nil
}

const (
	joinTimeout  = 10 * time.Second
	joinPauseMin = 200 * time.Millisecond
	joinPauseMax = 5 * time.Second
)

// Run registers node id at advertise, which Check has accepted, and returns
// when the coordinator has accepted it or ctx has ended. Failed is told why an
// attempt failed, once for each reason in a row.
func (j *Join) Run(ctx context.Context, env Env, id, advertise string, failed func(error)) error {
	host, portText, err := net.SplitHostPort(advertise)
	if err != nil {
		return fmt.Errorf("join: %w", err)
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		return fmt.Errorf("join: %w", err)
	}
	in := &invocation{Env: env, connection: j.connection, name: "join"}
	pause, last := joinPauseMin, ""
	for {
		_, err := ask(ctx, in, pb.CoordinatorServiceClient.AddStorageNode, &pb.AddStorageNodeRequest{
			NodeId: id, Host: host, Port: int32(port), VirtualNodes: int32(j.VirtualNodes),
		})
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("join %s: %w", j.Coordinator, ctx.Err())
		}
		if err.Error() != last {
			last = err.Error()
			failed(fmt.Errorf("join %s: %w", j.Coordinator, err))
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
		pause = min(2*pause, joinPauseMax)
	}
}
