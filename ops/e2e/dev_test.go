package e2e

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

func TestDevIsUpAtOnceAndLeavesNothing(t *testing.T) {
	dev := startDev(t)
	if dev.took > 2*time.Second {
		t.Errorf("up after %v, want 2s", dev.took)
	}
	if out, stderr, code := dev.command("put", "greeting", "hello"); code != 0 {
		t.Errorf("put: exit %d, %q %q", code, out, stderr)
	}
	if out, stderr, code := dev.command("get", "greeting"); code != 0 || out != "hello" {
		t.Errorf("get: exit %d, %q %q", code, out, stderr)
	}
	if _, stderr, code := dev.command("get", "nothing"); code != 3 || !strings.Contains(stderr, "key not found") {
		t.Errorf("get of an absent key: exit %d, %q", code, stderr)
	}
	if _, _, code := dev.command("delete", "greeting"); code != 0 {
		t.Errorf("delete: exit %d", code)
	}
	if _, _, code := dev.command("get", "greeting"); code != 3 {
		t.Errorf("get of a deleted key: exit %d", code)
	}
	if out, _, code := dev.command("status"); code != 0 || strings.Count(out, "storage-") != 3 {
		t.Errorf("status: exit %d, %q", code, out)
	}
	if code, body := httpGet(t, "http://"+dev.ops+"/health/ready"); code != 200 {
		t.Errorf("ready: %d %s", code, body)
	}
	if _, body := httpGet(t, "http://"+dev.ops+"/metrics"); !strings.Contains(body, `coordinator_requests_total{method="WriteKeyValue",code="OK"} 1`) {
		t.Errorf("metrics lack the write:\n%s", body)
	}
	if code := dev.terminate(); code != 0 {
		t.Errorf("exit %d after SIGTERM\n%s", code, dev.output())
	}
	if _, err := os.Stat(dev.dir); !os.IsNotExist(err) {
		t.Errorf("the temporary data directory is still there: %v", err)
	}
}

func TestAddressInUse(t *testing.T) {
	dev := startDev(t)
	for flag, address := range map[string]string{"-listen": dev.grpc, "-ops-listen": dev.ops} {
		args := []string{"-dev", "-listen", "127.0.0.1:0", "-ops-listen", "127.0.0.1:0", flag, address}
		_, stderr, code := runCommand(t, nil, args...)
		if code != 1 || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, address) || !strings.Contains(stderr, flag) {
			t.Errorf("%s in use: exit %d, %q", flag, code, stderr)
		}
	}
}

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
	}{
		{[]string{"-dev", "-nonsense"}, 2},
		{[]string{"-dev", "extra"}, 2},
		{[]string{"-log-level", "info"}, 2},
		{[]string{"nonsense"}, 2},
		{[]string{"put", "k"}, 2},
		{[]string{"storage", "-id", "x"}, 2},
		{[]string{"validate"}, 2},
		{[]string{"-h"}, 0},
		{[]string{"storage", "-h"}, 0},
		{[]string{"validate", "-h"}, 0},
		{[]string{"put", "-h"}, 0},
		{[]string{"version"}, 0},
		{[]string{"validate", "../../coordinator.hcl"}, 0},
		{[]string{"validate", "absent.hcl"}, 1},
	} {
		if stdout, stderr, code := runCommand(t, nil, c.args...); code != c.code || stdout+stderr == "" {
			t.Errorf("%v: exit %d, want %d; %q %q", c.args, code, c.code, stdout, stderr)
		}
	}
}

// A process that is killed, at any moment of a load, keeps what it acknowledged.
func TestDevKeepsItsDataWhenKilled(t *testing.T) {
	dir := t.TempDir()
	dev := startDev(t, "-data", dir)
	acknowledged := loadUntil(t, dev, func() { dev.kill() })
	dev = startDev(t, "-data", dir)
	verify(t, dev, acknowledged)
}

// SIGTERM lets requests under way end, refuses later ones, and loses nothing.
func TestDevDrains(t *testing.T) {
	dir := t.TempDir()
	dev := startDev(t, "-data", dir)
	acknowledged := loadUntil(t, dev, func() {
		if code := dev.terminate(); code != 0 {
			t.Errorf("exit %d\n%s", code, dev.output())
		}
	})
	dev = startDev(t, "-data", dir)
	verify(t, dev, acknowledged)
}

// loadUntil writes different keys from many clients, ends the process when a
// good number was acknowledged, and returns those.
func loadUntil(t *testing.T, p *process, end func()) map[string]string {
	t.Helper()
	client := p.dial()
	var mu sync.Mutex
	acknowledged := map[string]string{}
	enough := make(chan struct{})
	var workers sync.WaitGroup
	for w := range 16 {
		workers.Go(func() {
			for i := 0; ; i++ {
				key, value := fmt.Sprintf("w%d-%d", w, i), strings.Repeat(fmt.Sprint(i), 1+rand.IntN(50))
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				_, err := client.WriteKeyValue(ctx, &pb.WriteKeyValueRequest{TenantId: "default", Key: key, Value: []byte(value)})
				cancel()
				if err != nil {
					return // the process has ended
				}
				mu.Lock()
				acknowledged[key] = value
				if len(acknowledged) == 3000 {
					close(enough)
				}
				mu.Unlock()
			}
		})
	}
	select {
	case <-enough:
	case <-time.After(startTimeout):
		t.Errorf("3000 writes took more than %v", startTimeout)
	}
	end()
	workers.Wait()
	return acknowledged
}

func verify(t *testing.T, p *process, want map[string]string) {
	t.Helper()
	client := p.dial()
	for key, value := range want {
		resp, err := client.ReadKeyValue(t.Context(), &pb.ReadKeyValueRequest{TenantId: "default", Key: key})
		if err != nil || string(resp.GetValue()) != value {
			t.Fatalf("%s: %q, %v; it was acknowledged with %q", key, resp.GetValue(), err, value)
		}
	}
}

func TestOneDataDirectoryOneProcess(t *testing.T) {
	dir := t.TempDir()
	startDev(t, "-data", dir)
	_, stderr, code := runCommand(t, nil, "-dev", "-data", dir, "-listen", "127.0.0.1:0", "-ops-listen", "127.0.0.1:0")
	if code != 1 || !strings.Contains(stderr, "coordinator-1") {
		t.Errorf("a second process on the directory: exit %d, %q", code, stderr)
	}
}

// A second signal ends a drain that takes long.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	dev := startDev(t)
	dev.cmd.Process.Signal(syscall.SIGTERM)
	dev.cmd.Process.Signal(syscall.SIGINT)
	select {
	case <-dev.done:
	case <-time.After(5 * time.Second):
		t.Errorf("still running after two signals\n%s", dev.output())
	}
}

func TestBoundaries(t *testing.T) {
	dev := startDev(t)
	client := dev.dial()
	most := bytes.Repeat([]byte{0, 0xff, '\n', 'x'}, 10<<20/4)
	longest := strings.Repeat("k", 1024)
	for _, c := range []struct {
		name, key string
		value     []byte
		code      codes.Code
	}{
		{"empty value", "empty", nil, codes.OK},
		{"binary value", "binary", []byte{0, 1, 0xfe, 0xff}, codes.OK},
		{"10 MiB", "most", most, codes.OK},
		{"one byte more", "more", append(most[:len(most):len(most)], 0), codes.InvalidArgument},
		{"key of 1 KiB", longest, []byte("v"), codes.OK},
		{"key of one byte more", longest + "k", []byte("v"), codes.InvalidArgument},
		{"no key", "", []byte("v"), codes.InvalidArgument},
	} {
		_, err := client.WriteKeyValue(t.Context(), &pb.WriteKeyValueRequest{TenantId: "default", Key: c.key, Value: c.value})
		if status.Code(err) != c.code {
			t.Errorf("%s: write: %v, want %v", c.name, err, c.code)
			continue
		}
		if c.code != codes.OK {
			if reason := reasonOf(err); reason != "INVALID_REQUEST" {
				t.Errorf("%s: reason %q", c.name, reason)
			}
			continue
		}
		resp, err := client.ReadKeyValue(t.Context(), &pb.ReadKeyValueRequest{TenantId: "default", Key: c.key})
		if err != nil || !bytes.Equal(resp.GetValue(), c.value) {
			t.Errorf("%s: read %d bytes, %v", c.name, len(resp.GetValue()), err)
		}
	}
}

func reasonOf(err error) string {
	info, _ := infoOf(err)
	return info
}

func infoOf(err error) (reason, outcome string) {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason(), info.GetMetadata()["outcome"]
		}
	}
	return "", ""
}

// Ten sequential writes count one clock up; 100 concurrent ones make 100
// versions, of which every read finds the same.
func TestClocksThroughTheWire(t *testing.T) {
	client := startDev(t).dial()
	for i := range 10 {
		resp, err := client.WriteKeyValue(t.Context(), &pb.WriteKeyValueRequest{TenantId: "default", Key: "seq", Value: []byte{byte(i)}})
		if err != nil {
			t.Fatal(err)
		}
		entries := resp.GetVectorClock().GetEntries()
		if len(entries) != 1 || entries[0].GetCoordinatorNodeId() != "coordinator-1" || entries[0].GetLogicalTimestamp() != int64(i+1) {
			t.Errorf("write %d: clock %v", i+1, entries)
		}
	}
	counters := make([]int64, 100)
	var all sync.WaitGroup
	for i := range counters {
		all.Go(func() {
			resp, err := client.WriteKeyValue(t.Context(), &pb.WriteKeyValueRequest{TenantId: "default", Key: "hot", Value: fmt.Append(nil, i)})
			if err != nil {
				t.Error(err)
				return
			}
			counters[i] = resp.GetVectorClock().GetEntries()[0].GetLogicalTimestamp()
		})
	}
	all.Wait()
	different := map[int64]bool{}
	for _, c := range counters {
		different[c] = true
	}
	if len(different) != len(counters) {
		t.Errorf("100 concurrent writes made %d versions", len(different))
	}
	first := ""
	for _, level := range []string{"all", "quorum", "one", "one", "one"} {
		resp, err := client.ReadKeyValue(t.Context(), &pb.ReadKeyValueRequest{TenantId: "default", Key: "hot", Consistency: level})
		if err != nil {
			t.Fatal(err)
		}
		if first == "" {
			first = string(resp.GetValue())
		}
		if string(resp.GetValue()) != first {
			t.Errorf("read at %s: %q, before %q", level, resp.GetValue(), first)
		}
	}
}

func TestLoadAndDump(t *testing.T) {
	dev := startDev(t)
	var in bytes.Buffer
	for i := range 2000 {
		fmt.Fprintf(&in, `{"key":"k%d","value":"line\n%d"}`+"\n", i, i)
	}
	in.WriteString(`{"key":"raw","value_base64":"AP8="}` + "\n")
	file := filepath.Join(t.TempDir(), "in.jsonl")
	if err := os.WriteFile(file, in.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // loading again changes nothing
		if _, stderr, code := dev.command("load", file); code != 0 || !strings.Contains(stderr, "2001") {
			t.Fatalf("load: exit %d, %q", code, stderr)
		}
	}
	out, stderr, code := dev.command("dump")
	if code != 0 {
		t.Fatalf("dump: exit %d, %q", code, stderr)
	}
	want := map[string]bool{}
	for line := range strings.Lines(in.String()) {
		want[line] = true
	}
	for line := range strings.Lines(out) {
		if !want[line] {
			t.Errorf("dumped %q, which was not loaded", line)
		}
		delete(want, line)
	}
	if len(want) > 0 {
		t.Errorf("%d records were not dumped", len(want))
	}
}
