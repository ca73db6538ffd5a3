package redistest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// StartSentinel starts a Sentinel that ends with the test. It watches primary
// under name, decides alone, and takes a primary that has been silent for a
// second for down.
func StartSentinel(t testing.TB, name string, primary *Server) *Server {
	t.Helper()
	dir := t.TempDir()
	settings := []string{
		fmt.Sprintf("sentinel monitor %s 127.0.0.1 %d 1", name, primary.port),
		fmt.Sprintf("sentinel down-after-milliseconds %s 1000", name),
		fmt.Sprintf("sentinel failover-timeout %s 5000", name),
	}
	if primary.opts.Password != "" {
		settings = append(settings, fmt.Sprintf("sentinel auth-pass %s %s", name, primary.opts.Password))
	}
	return started(t, func() (*Server, error) {
		return launch(&Server{sentinel: true, opts: Options{Settings: settings, Dir: dir}})
	})
}

const slots = 16384

// StartCluster starts the primaries of a Redis Cluster, which share the hash
// slots evenly and in order, and end with the test.
func StartCluster(t testing.TB, nodes int) []*Server {
	t.Helper()
	servers := make([]*Server, nodes)
	for i := range servers {
		bus, err := freePort()
		if err != nil {
			t.Fatal(err)
		}
		servers[i] = Start(t, Options{Settings: []string{
			"cluster-enabled yes", "cluster-node-timeout 2000", fmt.Sprintf("cluster-port %d", bus),
		}})
		ctx := t.Context()
		if _, err := servers[i].Do(ctx, "CLUSTER", "ADDSLOTSRANGE", i*slots/nodes, (i+1)*slots/nodes-1); err != nil {
			t.Fatal(err)
		}
		// Nodes that start with the same epoch would first have to settle who is whom.
		if _, err := servers[i].Do(ctx, "CLUSTER", "SET-CONFIG-EPOCH", i+1); err != nil {
			t.Fatal(err)
		}
		if _, err := servers[i].Do(ctx, "CLUSTER", "MEET", "127.0.0.1", servers[0].port, clusterBus(servers[0])); err != nil {
			t.Fatal(err)
		}
	}
	if err := awaitCluster(t.Context(), servers); err != nil {
		t.Fatal(err)
	}
	return servers
}

// clusterBus is the port on which a cluster's nodes talk to this one.
func clusterBus(s *Server) string {
	for _, line := range s.opts.Settings {
		if port, ok := strings.CutPrefix(line, "cluster-port "); ok {
			return port
		}
	}
	return ""
}

// awaitCluster waits until every node knows all nodes and slots.
func awaitCluster(ctx context.Context, servers []*Server) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	want := fmt.Sprintf("cluster_known_nodes:%d\r\n", len(servers))
	for _, s := range servers {
		for {
			answer, err := s.Do(ctx, "CLUSTER", "INFO")
			info, _ := answer.(string)
			if err == nil && strings.Contains(info, "cluster_state:ok") && strings.Contains(info, want) {
				break
			}
			select {
			case <-ctx.Done():
				return errors.Join(fmt.Errorf("the cluster does not come up: %s", info), err)
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	return nil
}
