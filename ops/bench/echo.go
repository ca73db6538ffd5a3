package main

import (
	"context"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// echoCommand makes this program the echo server instead of the comparison.
const echoCommand = "serve-echo"

// echo answers reads and writes at once, with answers of the coordinator's
// size: what a server costs that does nothing but speak gRPC.
type echo struct {
	pb.UnimplementedCoordinatorServiceServer
	value []byte
}

func (e *echo) WriteKeyValue(_ context.Context, req *pb.WriteKeyValueRequest) (*pb.WriteKeyValueResponse, error) {
	return &pb.WriteKeyValueResponse{
		Success: true, Key: req.Key, IdempotencyKey: "0123456789abcdef0123456789abcdef",
		VectorClock: echoClock, ReplicaCount: 2, Consistency: "quorum",
	}, nil
}

func (e *echo) ReadKeyValue(_ context.Context, req *pb.ReadKeyValueRequest) (*pb.ReadKeyValueResponse, error) {
	return &pb.ReadKeyValueResponse{
		Success: true, Key: req.Key, Value: e.value, VectorClock: echoClock, UpdatedAt: 1_700_000_000_000,
	}, nil
}

var echoClock = &pb.VectorClock{Entries: []*pb.VectorClockEntry{{CoordinatorNodeId: "bench", LogicalTimestamp: 1_000_000}}}

func newEcho(valueSize int) *grpc.Server { return newServer(&echo{value: make([]byte, valueSize)}) }

// newServer makes a bare gRPC server with the options of the coordinator's
// (rpc/server.go, which exports no server without the coordinator's own
// routing around each call).
func newServer(service pb.CoordinatorServiceServer) *grpc.Server {
	server := grpc.NewServer(
		grpc.ForceServerCodecV2(codec{}),
		grpc.MaxRecvMsgSize(11<<20),
		grpc.MaxSendMsgSize(11<<20),
		grpc.MaxHeaderListSize(16<<10),
		grpc.ConnectionTimeout(10*time.Second),
		grpc.StaticStreamWindowSize(1<<20),
		grpc.StaticConnWindowSize(2<<20),
		grpc.MaxConcurrentStreams(1024),
		grpc.NumStreamWorkers(64),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 8 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle: 15 * time.Minute, MaxConnectionAge: time.Hour, MaxConnectionAgeGrace: 10 * time.Second,
			Time: 30 * time.Second, Timeout: 10 * time.Second,
		}),
	)
	pb.RegisterCoordinatorServiceServer(server, service)
	return server
}

// serveUntilKilled prints the server's address on a line and serves.
func serveUntilKilled(server *grpc.Server) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	fmt.Printf("grpc %s\n", listener.Addr())
	return server.Serve(listener)
}
