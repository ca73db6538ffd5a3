package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ring"
)

// ReplicaSuite says how to get replicas of one kind.
type ReplicaSuite struct {
	// Open returns an empty replica whose wall clock is the machine's, and
	// closes it when the test ends.
	Open func(t *testing.T) coord.Replica
	// OpenNarrow is like Open, but few calls may wait on the replica.
	OpenNarrow func(t *testing.T) coord.Replica
	// Reopen closes a replica of Open and returns one on the same data; the
	// test's end then closes that one.
	Reopen func(t *testing.T, r coord.Replica) coord.Replica
	// MaxClockOffset is the replica's; default coord.DefaultMaxClockOffset.
	MaxClockOffset time.Duration
}

// answerTimeout bounds the wait for a call that is expected to be answered.
const answerTimeout = 30 * time.Second

// Replica asserts what coord.Replica promises.
func Replica(t *testing.T, suite ReplicaSuite) {
	if suite.MaxClockOffset == 0 {
		suite.MaxClockOffset = coord.DefaultMaxClockOffset
	}
	for _, c := range []struct {
		name string
		run  func(*replicaCase)
	}{
		{"an absent key has the zero head and no value", absentKey},
		{"what was applied is read back, with and without its value", applyReadHead},
		{"the greater version stays, whichever comes first", keepGreater},
		{"equal timestamps are ordered by writer", orderByWriter},
		{"an equal version again changes nothing", equalRepeat},
		{"a tombstone replaces a value and is replaced by one", tombstone},
		{"an empty value differs from an absent key", emptyValue},
		{"small and large values replace each other", sizesInTurn},
		{"binary values and keys come back as they are", binaryContent},
		{"a value of 10 MiB under a key of 1 KiB", greatValue},
		{"a full clock comes back as it is", fullClock},
		{"the answer belongs to its receiver", answerIsOwned},
		{"what a call was given remains its caller's", givenIsKept},
		{"keys, tenants and prefixes of each other are apart", keysApart},
		{"of many concurrent applies to a key the greatest stays", concurrentApplies},
		{"heads and reads never fall while a key is written", readsNeverFall},
		{"a new write far ahead of the clock is refused", farAheadRefused},
		{"a repair far ahead of the clock is accepted", farAheadRepair},
		{"a new write just above what is held is accepted", justAboveAccepted},
		{"a version that cannot be stored is refused", malformedRefused},
		{"a scan returns a tenant's keys in order", scanOrder},
		{"a scan keeps to its tenant and prefix", scanTenantAndPrefix},
		{"a scan in pages returns what one page does", scanPages},
		{"a scan stops when its context ends", scanCancelled},
		{"a call whose deadline has passed is not answered", deadlinePassed},
		{"what does not fit in the queue is refused and has no effect", fullQueue},
		{"describe says who the node is", describe},
		{"after reopening everything is there", reopenKeeps},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.run(&replicaCase{t: t, suite: suite})
		})
	}
	for _, c := range topologyCases {
		t.Run(c.name, func(t *testing.T) {
			c.run(&replicaCase{t: t, suite: suite})
		})
	}
}

// replicaCase is one case of the suite.
type replicaCase struct {
	t     *testing.T
	suite ReplicaSuite
	r     coord.Replica
}

func (c *replicaCase) open() {
	c.t.Helper()
	c.r = c.suite.Open(c.t)
}

// answers collects finished calls.
type answers chan *coord.Call

func (a answers) Done(c *coord.Call) { a <- c }

func (c *replicaCase) do(call *coord.Call) *coord.Call {
	c.t.Helper()
	done := make(answers, 1)
	call.Caller = done
	if call.Deadline.IsZero() {
		call.Deadline = time.Now().Add(answerTimeout)
	}
	call.Token = ring.KeyToken(call.Tenant, call.Key)
	c.r.Do(call)
	select {
	case <-done:
	case <-time.After(2 * answerTimeout):
		c.t.Fatalf("%s of key %q: no answer", call.Kind, call.Key)
	}
	return call
}

func (c *replicaCase) apply(tenant, key string, v coord.Version) coord.Head {
	c.t.Helper()
	call := c.do(&coord.Call{Kind: coord.CallApply, Intent: coord.IntentWrite, Tenant: tenant, Key: key, Version: v})
	if call.Err != nil {
		c.t.Fatalf("apply %s to key %.40q: %v", &v.Head, key, call.Err)
	}
	if call.Held.Value != nil {
		c.t.Errorf("the answer to an apply holds a value")
	}
	return call.Held.Head
}

func (c *replicaCase) head(tenant, key string) coord.Head {
	c.t.Helper()
	call := c.do(&coord.Call{Kind: coord.CallHead, Tenant: tenant, Key: key})
	if call.Err != nil {
		c.t.Fatalf("head of key %.40q: %v", key, call.Err)
	}
	if call.Held.Value != nil {
		c.t.Errorf("the answer to a head holds a value")
	}
	return call.Held.Head
}

func (c *replicaCase) read(tenant, key string) coord.Version {
	c.t.Helper()
	call := c.do(&coord.Call{Kind: coord.CallRead, Tenant: tenant, Key: key})
	if call.Err != nil {
		c.t.Fatalf("read of key %.40q: %v", key, call.Err)
	}
	return call.Held
}

// holds asserts what the replica holds, by head and by read.
func (c *replicaCase) holds(tenant, key string, want coord.Version) {
	c.t.Helper()
	if got := c.head(tenant, key); !sameHead(got, want.Head) {
		c.t.Errorf("head of key %.40q: got %s, want %s", key, &got, &want.Head)
	}
	got := c.read(tenant, key)
	if !sameHead(got.Head, want.Head) {
		c.t.Errorf("read of key %.40q: got %s, want %s", key, &got.Head, &want.Head)
	}
	if !bytes.Equal(got.Value, want.Value) {
		c.t.Errorf("read of key %.40q: got %d bytes %.40q, want %d bytes %.40q",
			key, len(got.Value), got.Value, len(want.Value), want.Value)
	}
}

func sameHead(a, b coord.Head) bool {
	return a.Compare(&b) == 0 && a.Tombstone == b.Tombstone && a.Expires == b.Expires && slices.Equal(a.Clock, b.Clock)
}

// now is a timestamp that no two calls share within a test.
func now() int64 { return time.Now().UnixNano() }

func version(timestamp int64, writer string, value string) coord.Version {
	return coord.Version{Head: coord.Head{
		Timestamp: timestamp,
		Writer:    coord.Writer{ID: writer, Incarnation: 1},
		Clock:     coord.Clock(nil).With(writer, 1, timestamp),
	}, Value: []byte(value)}
}

func deletion(timestamp int64, writer string) coord.Version {
	v := version(timestamp, writer, "")
	v.Tombstone, v.Value = true, nil
	return v
}

func (c *replicaCase) wantHeld(got coord.Head, want coord.Version) {
	c.t.Helper()
	if !sameHead(got, want.Head) {
		c.t.Errorf("the apply was answered with %s, want %s", &got, &want.Head)
	}
}

func absentKey(c *replicaCase) {
	c.open()
	for range 2 { // the second answer may come from a cache
		c.holds("t", "absent", coord.Version{})
	}
}

func applyReadHead(c *replicaCase) {
	c.open()
	v := version(now(), "c1", "value")
	c.wantHeld(c.apply("t", "k", v), v)
	c.holds("t", "k", v)
}

func keepGreater(c *replicaCase) {
	c.open()
	at := now()
	lesser, greater := version(at, "c1", "lesser"), version(at+1, "c1", "greater")
	c.wantHeld(c.apply("t", "up", lesser), lesser)
	c.wantHeld(c.apply("t", "up", greater), greater)
	c.holds("t", "up", greater)
	c.wantHeld(c.apply("t", "down", greater), greater)
	c.wantHeld(c.apply("t", "down", lesser), greater)
	c.holds("t", "down", greater)
}

func orderByWriter(c *replicaCase) {
	c.open()
	at := now()
	a, b, older := version(at, "a", "a"), version(at, "b", "b"), version(at, "b", "older life")
	b.Writer.Incarnation = 2
	c.apply("t", "k", a)
	c.wantHeld(c.apply("t", "k", b), b)
	c.wantHeld(c.apply("t", "k", a), b)
	c.wantHeld(c.apply("t", "k", older), b)
	c.holds("t", "k", b)
}

func equalRepeat(c *replicaCase) {
	c.open()
	v := version(now(), "c1", "value")
	for range 3 {
		c.wantHeld(c.apply("t", "k", v), v)
	}
	c.holds("t", "k", v)
}

func tombstone(c *replicaCase) {
	c.open()
	at := now()
	value, gone, back := version(at, "c1", "value"), deletion(at+1, "c1"), version(at+2, "c1", "back")
	c.apply("t", "k", value)
	c.wantHeld(c.apply("t", "k", gone), gone)
	c.holds("t", "k", gone)
	c.wantHeld(c.apply("t", "k", value), gone)
	c.holds("t", "k", gone)
	c.wantHeld(c.apply("t", "k", back), back)
	c.holds("t", "k", back)
	c.apply("t", "never written", gone)
	c.holds("t", "never written", gone)
}

func emptyValue(c *replicaCase) {
	c.open()
	v := version(now(), "c1", "")
	c.apply("t", "k", v)
	c.holds("t", "k", v)
	if got := c.read("t", "k"); !got.Live(time.Now()) {
		c.t.Errorf("got %s, want a live version", &got.Head)
	}
	if got := c.read("t", "other"); got.Exists() {
		c.t.Errorf("got %s, want none", &got.Head)
	}
}

func sizesInTurn(c *replicaCase) {
	c.open()
	at := now()
	for i, size := range []int{10, 4 << 10, 4<<10 + 1, 100_000, 50, 20_000, 300_000, 0} {
		v := version(at+int64(i), "c1", "")
		v.Value = noise(size)
		c.apply("t", "k", v)
		c.holds("t", "k", v)
	}
	large := version(at+100, "c1", "")
	large.Value = noise(100_000)
	c.apply("t", "k", large)
	gone := deletion(at+101, "c1")
	c.apply("t", "k", gone)
	c.holds("t", "k", gone)
	c.wantHeld(c.apply("t", "k", large), gone)
	c.holds("t", "k", gone)
}

// noise is the same for the same size.
func noise(size int) []byte {
	b := make([]byte, size)
	source := rand.NewChaCha8([32]byte{byte(size), byte(size >> 8)})
	_, _ = source.Read(b)
	return b
}

func binaryContent(c *replicaCase) {
	c.open()
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	for i, key := range []string{"\x01", "\xff\xff", "a:b", "ключ", string(every[1:])} {
		v := version(now(), "c1", string(every))
		c.apply("t\xfe", key, v)
		c.holds("t\xfe", key, v)
		if i > 0 {
			c.holds("t\xfe", key[1:], coord.Version{})
		}
	}
}

func greatValue(c *replicaCase) {
	c.open()
	key := string(bytes.Repeat([]byte("k"), 1<<10))
	at := now()
	for i := range 3 {
		v := version(at+int64(i), "c1", "")
		v.Value = noise(10<<20 - i)
		c.apply("t", key, v)
		c.holds("t", key, v)
	}
}

func fullClock(c *replicaCase) {
	c.open()
	v := version(now(), "c00", "value")
	for i := range coord.MaxClockEntries {
		v.Clock = v.Clock.With(fmt.Sprintf("c%02d", i), int64(i)<<40+1, v.Timestamp-int64(i))
	}
	c.apply("t", "k", v)
	c.holds("t", "k", v)
}

// A caller may use the memory of a version that the replica does not own for
// another one, once the call has ended.
func givenIsKept(c *replicaCase) {
	c.open()
	for _, size := range []int{1, 100, 4 << 10, 300 << 10} {
		key := fmt.Sprint("k", size)
		v, want := version(now(), "c1", strings.Repeat("v", size)), version(0, "c1", strings.Repeat("v", size))
		want.Head = v.Head
		want.Clock = slices.Clone(v.Clock)
		c.apply("t", key, v)
		for i := range v.Value {
			v.Value[i] = 'x'
		}
		v.Clock[0] = coord.ClockEntry{ID: "other", Counter: 9, Updated: 9}
		c.holds("t", key, want)
	}
}

func answerIsOwned(c *replicaCase) {
	c.open()
	for i, size := range []int{100, 100_000} {
		key := fmt.Sprint("k", i)
		v := version(now(), "c1", "")
		v.Value = noise(size)
		c.apply("t", key, v)
		clear(c.read("t", key).Value)
		c.holds("t", key, v)
	}
}

func keysApart(c *replicaCase) {
	c.open()
	at := now()
	names := []struct{ tenant, key string }{
		{"t", "k"}, {"t", "kk"}, {"tt", "k"}, {"t", "tk"}, {"tk", "k"}, {"tt", "kk"}, {"k", "t"},
	}
	for i, n := range names {
		c.apply(n.tenant, n.key, version(at+int64(i), "c1", n.tenant+"/"+n.key))
	}
	for i, n := range names {
		c.holds(n.tenant, n.key, version(at+int64(i), "c1", n.tenant+"/"+n.key))
	}
}

func concurrentApplies(c *replicaCase) {
	c.open()
	const writers, writes = 16, 40
	at := now()
	done := make(answers, writers*writes)
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			for i := range writes {
				v := version(at+int64(i*writers+w), fmt.Sprint("c", w), fmt.Sprint(i, "/", w))
				c.r.Do(&coord.Call{
					Kind: coord.CallApply, Intent: coord.IntentWrite, Tenant: "t", Key: "k",
					Token: ring.KeyToken("t", "k"), Deadline: time.Now().Add(answerTimeout), Version: v, Caller: done,
				})
			}
		})
	}
	group.Wait()
	for range writers * writes {
		call := <-done
		if call.Err != nil {
			c.t.Errorf("apply: %v", call.Err)
		} else if call.Held.Head.Compare(&call.Version.Head) < 0 {
			c.t.Errorf("applied %s, answered with the lesser %s", &call.Version.Head, &call.Held.Head)
		}
	}
	const last = writers*writes - 1
	c.holds("t", "k", version(at+last, fmt.Sprint("c", writers-1), fmt.Sprint(writes-1, "/", writers-1)))
}

// readsNeverFall checks that once an answer of any kind showed a version, no
// later call shows a lesser one: caches and snapshots must agree.
func readsNeverFall(c *replicaCase) {
	c.open()
	const keys, writes, readers = 3, 300, 4
	at := now()
	stop := make(chan struct{})
	var group sync.WaitGroup
	for r := range readers {
		group.Go(func() {
			done := make(answers, 1)
			var seen [keys]coord.Head
			for i := r; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				k := i % keys
				kind := coord.CallHead
				if i%2 == 0 {
					kind = coord.CallRead
				}
				key := fmt.Sprint("k", k)
				c.r.Do(&coord.Call{
					Kind: kind, Tenant: "t", Key: key, Token: ring.KeyToken("t", key),
					Deadline: time.Now().Add(answerTimeout), Caller: done,
				})
				call := <-done
				if call.Err != nil {
					c.t.Errorf("%s: %v", kind, call.Err)
					return
				}
				if call.Held.Head.Compare(&seen[k]) < 0 {
					c.t.Errorf("%s shows %s after %s was seen", kind, &call.Held.Head, &seen[k])
					return
				}
				seen[k] = call.Held.Head
			}
		})
	}
	for i := range writes {
		key := fmt.Sprint("k", i%keys)
		v := version(at+int64(i), "c1", fmt.Sprint(i))
		c.wantHeld(c.apply("t", key, v), v)
		if got := c.head("t", key); !sameHead(got, v.Head) {
			c.t.Errorf("after an acknowledged write: got %s, want %s", &got, &v.Head)
		}
	}
	close(stop)
	group.Wait()
}

func (c *replicaCase) refused(call *coord.Call) {
	c.t.Helper()
	if !errors.Is(call.Err, coord.ErrReplicaRefused) {
		c.t.Errorf("got error %v, want one that wraps ErrReplicaRefused", call.Err)
	}
}

func farAheadRefused(c *replicaCase) {
	c.open()
	far := version(now()+int64(c.suite.MaxClockOffset+time.Hour), "c1", "far")
	c.refused(c.do(&coord.Call{Kind: coord.CallApply, Intent: coord.IntentWrite, Tenant: "t", Key: "k", Version: far}))
	c.holds("t", "k", coord.Version{})
	near := version(now()+int64(c.suite.MaxClockOffset/2), "c1", "near")
	c.wantHeld(c.apply("t", "k", near), near)
}

func (c *replicaCase) repair(key string, v coord.Version) {
	c.t.Helper()
	call := c.do(&coord.Call{Kind: coord.CallApply, Intent: coord.IntentRepair, Tenant: "t", Key: key, Version: v})
	if call.Err != nil {
		c.t.Fatalf("repair: %v", call.Err)
	}
	c.wantHeld(call.Held.Head, v)
}

func farAheadRepair(c *replicaCase) {
	c.open()
	far := version(now()+int64(c.suite.MaxClockOffset+time.Hour), "c1", "far")
	c.repair("k", far)
	c.holds("t", "k", far)
}

func justAboveAccepted(c *replicaCase) {
	c.open()
	far := now() + int64(c.suite.MaxClockOffset+time.Hour)
	c.repair("k", version(far, "c1", "far"))
	above := version(far+1, "c2", "just above")
	c.wantHeld(c.apply("t", "k", above), above)
	c.holds("t", "k", above)
	tooFar := version(far+int64(time.Minute), "c2", "far above")
	c.refused(c.do(&coord.Call{Kind: coord.CallApply, Intent: coord.IntentWrite, Tenant: "t", Key: "k", Version: tooFar}))
	c.holds("t", "k", above)
}

func malformedRefused(c *replicaCase) {
	c.open()
	held := version(now(), "c1", "held")
	c.apply("t", "k", held)
	for name, spoil := range map[string]func(*coord.Version){
		"no timestamp": func(v *coord.Version) { v.Timestamp = 0 },
		"no writer":    func(v *coord.Version) { v.Writer.ID = "" },
		"unsorted clock": func(v *coord.Version) {
			v.Clock = coord.Clock{{ID: "b", Counter: 1, Updated: 1}, {ID: "a", Counter: 1, Updated: 1}}
		},
	} {
		v := version(now(), "c1", name)
		spoil(&v)
		c.refused(c.do(&coord.Call{Kind: coord.CallApply, Intent: coord.IntentRepair, Tenant: "t", Key: "k", Version: v}))
		c.holds("t", "k", held)
	}
}

// fill applies n keys of a tenant, each third one as a tombstone, and returns
// their positions in order.
func (c *replicaCase) fill(tenant, prefix string, n int) []coord.Position {
	c.t.Helper()
	done := make(answers, n)
	at := now()
	positions := make([]coord.Position, n)
	for i := range n {
		key := fmt.Sprintf("%s%04d", prefix, i)
		v := version(at+int64(i), "c1", key)
		if i%3 == 0 {
			v = deletion(at+int64(i), "c1")
		}
		positions[i] = coord.Position{Token: ring.KeyToken(tenant, key), Tenant: tenant, Key: key}
		c.r.Do(&coord.Call{
			Kind: coord.CallApply, Intent: coord.IntentWrite, Tenant: tenant, Key: key,
			Token: positions[i].Token, Deadline: time.Now().Add(answerTimeout), Version: v, Caller: done,
		})
	}
	for range n {
		if call := <-done; call.Err != nil {
			c.t.Fatalf("apply: %v", call.Err)
		}
	}
	slices.SortFunc(positions, coord.Position.Compare)
	return positions
}

// scan returns all items of a scan in pages of limit.
func (c *replicaCase) scan(tenant, prefix string, limit int) []coord.Position {
	c.t.Helper()
	var positions []coord.Position
	req := coord.ScanRequest{Span: ring.Everything(), Tenant: tenant, Prefix: prefix, Limit: limit}
	for {
		page, err := c.r.Scan(context.Background(), req)
		if err != nil {
			c.t.Fatalf("scan: %v", err)
		}
		if len(page.Items) > limit {
			c.t.Fatalf("a page has %d items, at most %d were asked for", len(page.Items), limit)
		}
		for _, item := range page.Items {
			positions = append(positions, item.Position)
			if held := c.head(item.Position.Tenant, item.Position.Key); !sameHead(held, item.Head) {
				c.t.Errorf("scan: key %q has %s, its head is %s", item.Position.Key, &item.Head, &held)
			}
		}
		if page.Next == nil {
			return positions
		}
		if req.After != nil && page.Next.Compare(*req.After) <= 0 {
			c.t.Fatalf("the next page would start at %+v, not after %+v", *page.Next, *req.After)
		}
		req.After = page.Next
	}
}

func (c *replicaCase) wantPositions(got, want []coord.Position) {
	c.t.Helper()
	if !slices.Equal(got, want) {
		c.t.Errorf("scan returned %d keys, want these %d in order:\n got %.300v\nwant %.300v", len(got), len(want), got, want)
	}
}

func scanOrder(c *replicaCase) {
	c.open()
	c.wantPositions(c.scan("t", "", 10), nil)
	want := c.fill("t", "key", 200)
	c.wantPositions(c.scan("t", "", coord.MaxScanPage), want)
}

func scanTenantAndPrefix(c *replicaCase) {
	c.open()
	red, blue := c.fill("t", "red", 50), c.fill("t", "blue", 50)
	other := c.fill("tt", "red", 50)
	c.wantPositions(c.scan("t", "red", 1000), red)
	c.wantPositions(c.scan("t", "blue", 7), blue)
	c.wantPositions(c.scan("tt", "", 1000), other)
	c.wantPositions(c.scan("t", "redder", 1000), nil)
}

func scanPages(c *replicaCase) {
	c.open()
	want := c.fill("t", "key", 100)
	c.fill("other", "key", 100)
	for _, limit := range []int{1, 7, 100, 101} {
		c.wantPositions(c.scan("t", "", limit), want)
	}
}

func scanCancelled(c *replicaCase) {
	c.open()
	c.fill("t", "key", 1000)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if page, err := c.r.Scan(ctx, coord.ScanRequest{Span: ring.Everything(), Tenant: "t", Limit: 1000}); err == nil && len(page.Items) == 0 {
		c.t.Error("a cancelled scan returned an empty page and no error")
	}
}

func deadlinePassed(c *replicaCase) {
	c.open()
	past := time.Now().Add(-time.Second)
	for _, kind := range []coord.CallKind{coord.CallRead, coord.CallApply} {
		call := c.do(&coord.Call{
			Kind: kind, Intent: coord.IntentWrite, Tenant: "t", Key: "k", Version: version(now(), "c1", "late"), Deadline: past,
		})
		if call.Err == nil {
			c.t.Errorf("%s: answered after its deadline", kind)
		} else if !errors.Is(call.Err, coord.ErrReplicaRefused) && !errors.Is(call.Err, coord.ErrReplicaUnavailable) {
			c.t.Errorf("%s: got error %v, want ErrReplicaRefused or ErrReplicaUnavailable", kind, call.Err)
		}
		if errors.Is(call.Err, coord.ErrReplicaRefused) {
			c.holds("t", "k", coord.Version{})
		}
	}
}

func fullQueue(c *replicaCase) {
	if c.suite.OpenNarrow == nil {
		c.t.Fatal("the suite needs OpenNarrow")
	}
	c.r = c.suite.OpenNarrow(c.t)
	const calls = 5000
	done := make(answers, 2*calls)
	at := now()
	for i := range calls {
		key := fmt.Sprint("k", i)
		token := ring.KeyToken("t", key)
		deadline := time.Now().Add(answerTimeout)
		c.r.Do(&coord.Call{
			Kind: coord.CallApply, Intent: coord.IntentWrite, Tenant: "t", Key: key, Token: token,
			Deadline: deadline, Version: version(at, "c1", key), Caller: done,
		})
		c.r.Do(&coord.Call{Kind: coord.CallRead, Tenant: "t", Key: key, Token: token, Deadline: deadline, Caller: done})
	}
	refused := map[coord.CallKind][]string{}
	answered := map[coord.CallKind]int{}
	for range 2 * calls {
		switch call := <-done; {
		case call.Err == nil:
			answered[call.Kind]++
		case errors.Is(call.Err, coord.ErrReplicaRefused):
			refused[call.Kind] = append(refused[call.Kind], call.Key)
		default:
			c.t.Fatalf("%s: got error %v, want ErrReplicaRefused", call.Kind, call.Err)
		}
	}
	if answered[coord.CallApply] == 0 || answered[coord.CallRead] == 0 || len(refused[coord.CallApply]) == 0 {
		c.t.Fatalf("answered %v; refused %d applies and %d reads; want some of each",
			answered, len(refused[coord.CallApply]), len(refused[coord.CallRead]))
	}
	for _, key := range refused[coord.CallApply] {
		if held := c.head("t", key); held.Exists() {
			c.t.Fatalf("the apply to %s was refused and yet took effect: %s", key, &held)
		}
	}
}

func describe(c *replicaCase) {
	c.open()
	before, err := c.r.Describe(context.Background())
	if err != nil {
		c.t.Fatal(err)
	}
	if before.ID == "" || before.UUID == "" || before.DiskUsedFraction < 0 || before.DiskUsedFraction > 1 {
		c.t.Errorf("got %+v", before)
	}
	if err := c.r.Unavailable(); err != nil {
		c.t.Errorf("unavailable: %v", err)
	}
	c.fill("t", "key", 30)
	after, err := c.r.Describe(context.Background())
	if err != nil {
		c.t.Fatal(err)
	}
	if after.ID != before.ID || after.UUID != before.UUID || after.Keys < 15 || after.Keys > 60 {
		c.t.Errorf("with 30 keys: got %+v, before %+v", after, before)
	}
}

func reopenKeeps(c *replicaCase) {
	if c.suite.Reopen == nil {
		c.t.Fatal("the suite needs Reopen")
	}
	c.open()
	before, err := c.r.Describe(context.Background())
	if err != nil {
		c.t.Fatal(err)
	}
	want := c.fill("t", "key", 100)
	small, large, gone := version(now(), "c1", "small"), version(now(), "c1", ""), deletion(now(), "c1")
	large.Value = noise(1 << 20)
	c.apply("t", "small", small)
	c.apply("t", "large", large)
	c.apply("other", "gone", gone)
	for range 2 {
		c.r = c.suite.Reopen(c.t, c.r)
		c.holds("t", "small", small)
		c.holds("t", "large", large)
		c.holds("other", "gone", gone)
		c.wantPositions(c.scan("t", "key", 1000), want)
		c.wantHeld(c.apply("t", "small", version(small.Timestamp-1, "c1", "older")), small)
	}
	after, err := c.r.Describe(context.Background())
	if err != nil {
		c.t.Fatal(err)
	}
	if after.UUID != before.UUID || after.ID != before.ID {
		c.t.Errorf("after reopening: got %+v, want the identity of %+v", after, before)
	}
	if after.Keys < 50 || after.Keys > 200 {
		c.t.Errorf("after reopening with 103 keys: %d are estimated", after.Keys)
	}
}
