package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// system is something that is measured: the server that clients call, and the
// storage nodes behind it, if they are processes of their own.
type system struct {
	name    string
	server  *process
	storage []*process
	unary   *unary
	tenant  string
}

// layout says which processes make a system and how they are set.
type layout struct {
	name           string
	nodes          int    // storage processes; 0: everything is in one process
	sync           bool   // of storage processes
	binary         string // empty: the program under test
	coordinatorEnv []string
	storageEnv     []string
}

// The systems of the comparison.
const (
	systemEcho = "echo"
	systemDev  = "dev"
	systemFast = "sync-off"
	systemSafe = "sync-on"
	// systemMemory is not compared with the echo.
	systemMemory = "memory"
)

const replicationFactor = 3

var layouts = map[string]layout{
	systemEcho: {name: systemEcho},
	systemDev:  {name: systemDev},
	systemFast: {name: systemFast, nodes: 3},
	systemSafe: {name: systemSafe, nodes: 3, sync: true},
}

// launcher starts systems. All of their files are in dir.
type launcher struct {
	dir    string
	self   string // this program
	binary string // the program under test
	load   *load
}

// launch starts a system, with every key written.
func (l *launcher) launch(ctx context.Context, want layout) (s *system, err error) {
	dir, err := os.MkdirTemp(l.dir, want.name+"-")
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", want.name, err)
	}
	if want.binary == "" {
		want.binary = l.binary
	}
	s = &system{name: want.name, tenant: "bench"}
	defer func() {
		if err != nil {
			s.close()
			s, err = nil, fmt.Errorf("start %s: %w", want.name, err)
		}
	}()
	switch {
	case want.name == systemEcho:
		s.server, err = start(ctx, dir, "echo", nil, addressLine, l.self, echoCommand, fmt.Sprint(len(l.load.value)))
	case want.name == systemMemory:
		s.server, err = start(ctx, dir, "coordinator", nil, addressLine, l.self, memoryCommand, fmt.Sprint(want.nodes))
	case want.nodes == 0:
		s.tenant = "default"
		s.server, err = start(ctx, dir, "coordinator", want.coordinatorEnv, bannerLine, want.binary,
			"-dev", "-data", filepath.Join(dir, "data"), "-listen", "127.0.0.1:0", "-ops-listen", "127.0.0.1:0")
	default:
		err = l.launchCluster(ctx, s, dir, want)
	}
	if err != nil {
		return s, err
	}
	if s.unary, err = dialUnary(s.server.grpc, l.load.connections); err != nil {
		return s, err
	}
	if want.name == systemEcho || want.name == systemMemory {
		return s, nil
	}
	if want.nodes > 0 {
		if err = s.gather(ctx, want.nodes); err != nil {
			return s, err
		}
	}
	return s, l.load.prepare(ctx, s.unary, s.tenant)
}

func (l *launcher) launchCluster(ctx context.Context, s *system, dir string, want layout) (err error) {
	file := filepath.Join(dir, "coordinator.hcl")
	text := fmt.Sprintf(`
node_id  = "bench"
data_dir = %q
server { listen = "127.0.0.1:0" }
metrics {
  listen = "127.0.0.1:0"
  pprof  = true
}
metadata "sqlite" {}
idempotency "badger" {}
`, filepath.Join(dir, "coordinator"))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	if s.server, err = start(ctx, dir, "coordinator", want.coordinatorEnv, servingLine, want.binary, "-config", file); err != nil {
		return err
	}
	for i := range want.nodes {
		id := fmt.Sprintf("storage-%d", i+1)
		node, err := start(ctx, dir, id, want.storageEnv, servingLine, want.binary, "storage", "-id", id, "-data", filepath.Join(dir, id),
			"-listen", "127.0.0.1:0", "-ops-listen", "127.0.0.1:0", "-join", s.server.grpc, fmt.Sprintf("-sync=%t", want.sync))
		if err != nil {
			return err
		}
		s.storage = append(s.storage, node)
	}
	return nil
}

// bannerLine reads the addresses that dev mode prints.
func bannerLine(p *process, line string) bool {
	switch word, rest, _ := strings.Cut(line, " "); word {
	case "grpc":
		p.grpc = rest
	case "ops":
		p.ops = strings.TrimPrefix(rest, "http://")
	}
	return p.grpc != "" && p.ops != ""
}

// addressLine reads the address that this program's own servers print.
func addressLine(p *process, line string) bool {
	word, rest, _ := strings.Cut(line, " ")
	if word == "grpc" {
		p.grpc = rest
	}
	return p.grpc != ""
}

// servingLine reads the addresses from the log line of a process that is up.
func servingLine(p *process, line string) bool {
	var entry struct {
		Message string `json:"@message"`
		GRPC    string `json:"grpc"`
		Ops     string `json:"ops"`
	}
	if json.Unmarshal([]byte(line), &entry) != nil || entry.Message != "serving" {
		return false
	}
	p.grpc, p.ops = entry.GRPC, entry.Ops
	return true
}

// gather waits until all storage nodes have joined, and makes the tenant.
func (s *system) gather(ctx context.Context, nodes int) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	client := pb.NewCoordinatorServiceClient(s.unary.conns[0])
	for {
		members, err := client.ListStorageNodes(ctx, &pb.ListStorageNodesRequest{})
		if err != nil {
			return fmt.Errorf("wait for storage nodes to join: %w", err)
		}
		if len(members.Nodes) == nodes {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for storage nodes to join: %d of %d have", len(members.Nodes), nodes)
		case <-time.After(20 * time.Millisecond):
		}
	}
	if _, err := client.CreateTenant(ctx, &pb.CreateTenantRequest{TenantId: s.tenant, ReplicationFactor: replicationFactor}); err != nil {
		return fmt.Errorf("create the tenant: %w", err)
	}
	return nil
}

// processes is all of the system's, the server first.
func (s *system) processes() []*process {
	return slices.Concat([]*process{s.server}, s.storage)
}

// close ends the system's processes. Their files stay until the launcher's
// directory is removed.
func (s *system) close() {
	if s.unary != nil {
		s.unary.close()
	}
	for _, p := range s.storage {
		p.kill()
	}
	if s.server != nil {
		s.server.kill()
	}
}

// dial opens a connection to a coordinator.
func dial(address string) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(),
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
		grpc.WithStaticStreamWindowSize(1<<20),
		grpc.WithStaticConnWindowSize(2<<20),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{})),
	)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	return conn, nil
}
