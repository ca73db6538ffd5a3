package rpc

import (
	"testing"

	"github.com/pairdb/coordinator/backends/badger"
	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/coord/conformance"
)

// served is a client that closes the node behind it too.
type served struct {
	*StorageClient
	node    *storageNode
	options badger.NodeOptions
}

func (s *served) stop(t *testing.T) {
	t.Helper()
	if s.node == nil {
		return
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	s.node.kill()
	if err := s.node.replica.Close(); err != nil {
		t.Error(err)
	}
	s.node = nil
}

func serveBadger(t *testing.T, options badger.NodeOptions, client StorageOptions) *served {
	t.Helper()
	replica, err := badger.OpenNode(options)
	if err != nil {
		t.Fatal(err)
	}
	node := startStorage(t, replica)
	client.NodeID = options.ID
	s := &served{StorageClient: node.connect(client), node: node, options: options}
	t.Cleanup(func() { s.stop(t) })
	return s
}

// TestStorageConformance runs the suite of coord.Replica against a storage
// node on disk behind a connection.
func TestStorageConformance(t *testing.T) {
	options := func(t *testing.T) badger.NodeOptions {
		return badger.NodeOptions{ID: "storage-1", Dir: t.TempDir(), Profile: badger.Small, MinFreeBytes: 1}
	}
	conformance.Replica(t, conformance.ReplicaSuite{
		Open: func(t *testing.T) coord.Replica { return serveBadger(t, options(t), StorageOptions{}) },
		OpenNarrow: func(t *testing.T) coord.Replica {
			return serveBadger(t, options(t), StorageOptions{MaxCalls: 8})
		},
		Reopen: func(t *testing.T, r coord.Replica) coord.Replica {
			s := r.(*served)
			s.stop(t)
			return serveBadger(t, s.options, StorageOptions{})
		},
	})
}
