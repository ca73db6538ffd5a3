package redis

import (
	"strings"
	"testing"
	"time"

	"github.com/pairdb/coordinator/backends/redistest"
)

func TestCheckNamesWhatPutsClaimsAtRisk(t *testing.T) {
	t.Parallel()
	primary := redistest.Start(t, redistest.Options{AppendOnly: true})
	s := open(t, on(primary))
	set := func(name, value string) {
		t.Helper()
		_, err := primary.Do(t.Context(), "CONFIG", "SET", name, value)
		must(t, err)
	}
	want := func(s *Store, words ...string) {
		t.Helper()
		risks, err := s.Check(t.Context())
		must(t, err)
		if len(risks) != len(words) {
			t.Errorf("got %q, want one on each of %q", risks, words)
			return
		}
		for i, word := range words {
			if !strings.Contains(risks[i], word) {
				t.Errorf("got %q, want one on %s", risks[i], word)
			}
		}
	}
	want(s)
	set("maxmemory-policy", "allkeys-lru")
	want(s, "maxmemory-policy allkeys-lru: once maxmemory is set")
	set("maxmemory", "100mb")
	want(s, "maxmemory-policy allkeys-lru: when its memory is full")
	set("appendfsync", "no")
	want(s, "appendfsync no", "maxmemory-policy")
	set("maxmemory-policy", "noeviction")
	set("appendonly", "no")
	want(s, "appendonly off")
	set("appendonly", "yes")
	set("appendfsync", "everysec")
	want(s)
	replica := redistest.Start(t, redistest.Options{AppendOnly: true, ReplicaOf: primary})
	want(s, "1 replicas and no min-replicas-to-write")
	want(open(t, on(replica)), "is a replica")
	opts := on(primary)
	opts.WaitReplicas = 1
	want(open(t, opts))
	opts.WaitReplicas = 2
	want(open(t, opts), "1 replicas, and 2 are waited for: keyed requests are refused")
	set("min-replicas-to-write", "1")
	want(s)
	must(t, primary.Kill())
	if _, err := s.Check(t.Context()); err == nil {
		t.Error("a check of a dead server succeeds")
	}
}

func TestCheckOfAClusterNamesTheNode(t *testing.T) {
	t.Parallel()
	servers := redistest.StartCluster(t, 1)
	s := open(t, Options{Addresses: []string{servers[0].Addr()}, Cluster: true})
	risks, err := s.Check(t.Context())
	must(t, err)
	if len(risks) != 1 || !strings.Contains(risks[0], servers[0].Addr()) || !strings.Contains(risks[0], "appendonly") {
		t.Errorf("got %q", risks)
	}
	single := open(t, on(servers[0]))
	if risks, err := single.Check(t.Context()); err != nil || len(risks) != 2 || !strings.Contains(risks[1], "node of a Redis Cluster") {
		t.Errorf("asked as a single server: %q, %v", risks, err)
	}
}

func TestWarnTellsWhatCheckFinds(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	opts := on(server)
	warned := make(chan string, 10)
	opts.Warn = func(message string) { warned <- message }
	s := open(t, opts)
	select {
	case message := <-warned:
		if !strings.Contains(message, "appendonly") {
			t.Errorf("warned of %q", message)
		}
	case <-time.After(5 * time.Second):
		t.Error("nothing was warned of")
	}
	must(t, s.Close())
	if len(warned) > 0 {
		t.Errorf("also warned of %q", <-warned)
	}
}
