package redistest

import (
	"fmt"
	"strings"
	"testing"
)

func TestReplicaFollows(t *testing.T) {
	primary := Start(t, Options{Password: "p"})
	replica := Start(t, Options{Password: "p", ReplicaOf: primary})
	mustDo(t, primary, "SET", "k", "v")
	if got := mustDo(t, primary, "INFO", "replication"); !strings.Contains(fmt.Sprint(got), "connected_slaves:1") {
		t.Fatalf("the primary knows no replica: %v", got)
	}
	if _, err := replica.Do(t.Context(), "SET", "k", "w"); err == nil || !strings.Contains(err.Error(), "READONLY") {
		t.Fatalf("a write to the replica: %v, want READONLY", err)
	}
}

func TestSentinelNamesThePrimary(t *testing.T) {
	primary := Start(t, Options{Password: "p"})
	sentinel := StartSentinel(t, "claims", primary)
	got := fmt.Sprint(mustDo(t, sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "claims"))
	if want := fmt.Sprintf("[127.0.0.1 %d]", primary.port); got != want {
		t.Fatalf("the Sentinel names %s, want %s", got, want)
	}
}

func TestClusterServesAllSlots(t *testing.T) {
	servers := StartCluster(t, 2)
	if _, err := servers[1].Do(t.Context(), "SET", "{a}", "v"); err != nil { // slot 15495
		t.Fatal(err)
	}
	if _, err := servers[0].Do(t.Context(), "SET", "{a}", "v"); err == nil || !strings.Contains(err.Error(), "MOVED") {
		t.Fatalf("the other node answers %v, want MOVED", err)
	}
}

func TestServerWithTLS(t *testing.T) {
	s := Start(t, Options{TLS: true})
	if got := mustDo(t, s, "PING"); got != "PONG" {
		t.Fatalf("PING: %v", got)
	}
	if s.ClientTLS() == nil {
		t.Fatal("a server with TLS gives no client configuration")
	}
}
