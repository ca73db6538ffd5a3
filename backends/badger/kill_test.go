package badger

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pairdb/coordinator/coord"
)

// victimDir is the environment variable that makes the test binary a victim.
const victimDir = "PAIRDB_TEST_VICTIM_DIR"

// reaperDir makes it one that drops what it deleted.
const reaperDir = "PAIRDB_TEST_REAPER_DIR"

// victimFiles is how many writes come before those that need no file. Writing
// one takes a snapshot, after which commits write over none.
const victimFiles = 1000

func victimValue(i int) []byte {
	size := 100
	switch {
	case i%10 == 3 && i < victimFiles:
		size = 100 << 10 // in a file
	case i%10 == 7:
		size = 6 << 10 // under its own key
	}
	return bytes.Repeat([]byte{byte(i), byte(i >> 8)}, size/2)
}

// runVictim writes and mints, says so a line each, and goes on until it is killed.
func runVictim(dir string) error {
	n, err := OpenNode(NodeOptions{ID: "victim", Dir: filepath.Join(dir, "node"), MinFreeBytes: 1})
	if err != nil {
		return err
	}
	c, err := OpenClaims(ClaimsOptions{Dir: filepath.Join(dir, "claims"), MinFreeBytes: 1})
	if err != nil {
		return err
	}
	ctx := context.Background()
	for i := 0; ; i++ {
		call := apply(n, "t", fmt.Sprint("k", i), testVersion(int64(i+1), victimValue(i)))
		if call.Err != nil {
			return call.Err
		}
		if call := apply(n, "t", "hot", testVersion(int64(i+1), nil)); call.Err != nil {
			return call.Err
		}
		key, attempt := coord.ClaimKey{Tenant: "t", Key: "k", IdempotencyKey: fmt.Sprint(i)}, coord.AttemptID{1}
		if _, err := c.Reserve(ctx, key, coord.Fingerprint{2}, attempt, time.Minute); err != nil {
			return err
		}
		if _, err := c.Mint(ctx, key, attempt, testVersion(int64(i+1), nil).Head); err != nil {
			return err
		}
		fmt.Println("acknowledged", i)
	}
}

// TestKill kills a process that writes without sync, and finds in its
// directory everything that was acknowledged.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), victimDir+"="+dir)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	acknowledged := 0
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if acknowledged++; acknowledged == 2000 {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = cmd.Wait() // killed, as it should be
	if acknowledged < 2000 {
		t.Fatalf("the process died after %d writes: %s", acknowledged, stderr.String())
	}

	n := openTestNode(t, NodeOptions{ID: "victim", Dir: filepath.Join(dir, "node")})
	for i := range acknowledged {
		got := read(n, "t", fmt.Sprint("k", i))
		if got.Err != nil || got.Held.Timestamp != int64(i+1) || !bytes.Equal(got.Held.Value, victimValue(i)) {
			t.Fatalf("key %d of %d: got %s with %d bytes, error %v", i, acknowledged, &got.Held.Head, len(got.Held.Value), got.Err)
		}
	}
	if got := read(n, "t", "hot"); got.Err != nil || got.Held.Timestamp < int64(acknowledged) {
		t.Errorf("after %d writes of a key it is %s, error %v", acknowledged, &got.Held.Head, got.Err)
	}
	if d := n.keys.Load() - 1; d < int64(acknowledged) || d > int64(acknowledged)+1 {
		t.Errorf("%d keys are counted, %d were acknowledged", d, acknowledged)
	}
	c := openTestClaims(t, ClaimsOptions{Dir: filepath.Join(dir, "claims")})
	for i := range acknowledged {
		key := coord.ClaimKey{Tenant: "t", Key: "k", IdempotencyKey: fmt.Sprint(i)}
		claim, err := c.Reserve(t.Context(), key, coord.Fingerprint{9}, coord.AttemptID{9}, time.Minute)
		if err != nil || claim.State != coord.ClaimMinted || claim.Minted.Timestamp != int64(i+1) {
			t.Fatalf("claim %d of %d: got %+v, error %v", i, acknowledged, claim, err)
		}
	}
}
