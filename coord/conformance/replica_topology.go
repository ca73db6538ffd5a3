package conformance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ring"
)

// topologyCases are about epochs, dropped versions, the age of messages, spans
// and sums.
var topologyCases = []struct {
	name string
	run  func(*replicaCase)
}{
	{"an epoch is adopted with a call of any kind, and lower ones are refused", epochOfCalls},
	{"an epoch and its topology are kept", epochKept},
	{"calls without an epoch are not checked", epochUnknown},
	{"what is read at an epoch holds all that lower ones did", epochFence},
	{"a drop forgets just the version that it names", dropExactly},
	{"a drop of any size of value lets another one take its place", dropSizes},
	{"a dropped tombstone leaves a floor", dropFloor},
	{"a dropped value that has not expired leaves no floor", dropLive},
	{"a dropped value that has expired leaves a floor", dropExpired},
	{"a write just above a floor is accepted, however far ahead", aboveFloor},
	{"floors outlast a reopening", floorKept},
	{"floors are listed, and raised but not lowered", floorsRaised},
	{"raised floors outlast a reopening", raisedKept},
	{"floors that no range can have are refused", floorsMalformed},
	{"an expiry comes back as it is", expiryKept},
	{"an expiry that no version can have is refused", expiryMalformed},
	{"a message for another life of the node is refused", otherLife},
	{"the node's clock goes on and its lives are counted", clockGoesOn},
	{"a scan keeps to its span, of one space or all", scanSpan},
	{"a scan for the dead leaves out what lives and what died lately", scanDead},
	{"sums are those of what is held", sumsOfHeld},
	{"equal nodes have equal sums, whatever the way there", sumsEqual},
	{"sums after a reopening are those before", sumsReopened},
	{"scans, sums and floors at a lower epoch are refused, at a higher one adopt it", epochOfScans},
	{"describe knows the size", describeBytes},
}

func (c *replicaCase) wantStale(err error, epoch uint64) {
	c.t.Helper()
	var stale *coord.StaleRingError
	if !errors.As(err, &stale) || stale.Epoch != epoch {
		c.t.Errorf("got error %v, want that the replica knows epoch %d", err, epoch)
	}
	if !errors.Is(err, coord.ErrReplicaRefused) {
		c.t.Errorf("got error %v, want one that wraps ErrReplicaRefused", err)
	}
}

func (c *replicaCase) adopt(epoch uint64, topology []byte) {
	c.t.Helper()
	if err := c.r.Adopt(context.Background(), epoch, topology); err != nil {
		c.t.Fatalf("adopt epoch %d: %v", epoch, err)
	}
}

func (c *replicaCase) describe() coord.NodeDescription {
	c.t.Helper()
	d, err := c.r.Describe(context.Background())
	if err != nil {
		c.t.Fatal(err)
	}
	return d
}

// callsAt are calls of every kind at an epoch. None of them finds its key.
func callsAt(epoch uint64) []*coord.Call {
	key := fmt.Sprint("at", epoch)
	return []*coord.Call{
		{Kind: coord.CallHead, Tenant: "t", Key: key, Epoch: epoch},
		{Kind: coord.CallRead, Tenant: "t", Key: key, Epoch: epoch},
		{Kind: coord.CallDrop, Tenant: "t", Key: key, Epoch: epoch, Version: version(now(), "c1", "")},
		{Kind: coord.CallApply, Intent: coord.IntentWrite, Tenant: "t", Key: key + "w", Epoch: epoch, Version: version(now(), "c1", "v")},
		{Kind: coord.CallApply, Intent: coord.IntentRepair, Tenant: "t", Key: key + "r", Epoch: epoch, Version: version(now(), "c1", "v")},
	}
}

func epochOfCalls(c *replicaCase) {
	c.open()
	kinds := len(callsAt(1))
	for i := range kinds {
		at := uint64(10 + 2*i)
		c.head("t", "cached") // so that a head is answered from wherever it is fastest
		if call := c.do(callsAt(at)[i]); call.Err != nil {
			c.t.Fatalf("%s at a new epoch: %v", call.Kind, call.Err)
		}
		if d := c.describe(); d.Epoch != at {
			c.t.Fatalf("after a call at epoch %d the replica knows %d", at, d.Epoch)
		}
		for _, call := range callsAt(at) {
			if c.do(call); call.Err != nil {
				c.t.Errorf("%s at the known epoch: %v", call.Kind, call.Err)
			}
		}
		for _, call := range callsAt(at - 1) {
			c.do(call)
			c.wantStale(call.Err, at)
			c.holds("t", call.Key, coord.Version{})
		}
		lower := c.do(&coord.Call{Kind: coord.CallHead, Tenant: "t", Key: "cached", Epoch: at - 1})
		c.wantStale(lower.Err, at)
	}
}

func epochKept(c *replicaCase) {
	if c.suite.Reopen == nil {
		c.t.Fatal("the suite needs Reopen")
	}
	c.open()
	want := func(epoch uint64, topology string) {
		c.t.Helper()
		if d := c.describe(); d.Epoch != epoch || string(d.Topology) != topology {
			c.t.Errorf("got epoch %d and topology %q, want %d and %q", d.Epoch, d.Topology, epoch, topology)
		}
	}
	want(0, "")
	c.adopt(3, []byte("three"))
	want(3, "three")
	c.adopt(3, nil)
	c.adopt(3, []byte("three"))
	want(3, "three")
	c.r = c.suite.Reopen(c.t, c.r)
	want(3, "three")
	if call := c.do(&coord.Call{Kind: coord.CallHead, Tenant: "t", Key: "k", Epoch: 5}); call.Err != nil {
		c.t.Fatal(call.Err)
	}
	want(5, "three")
	c.wantStale(c.r.Adopt(context.Background(), 4, []byte("four")), 5)
	want(5, "three")
	c.r = c.suite.Reopen(c.t, c.r)
	want(5, "three")
	for _, call := range callsAt(4) {
		c.wantStale(c.do(call).Err, 5)
	}
	c.adopt(5, []byte("five"))
	want(5, "five")
	c.r = c.suite.Reopen(c.t, c.r)
	want(5, "five")
}

func epochUnknown(c *replicaCase) {
	c.open()
	c.adopt(7, nil)
	for _, call := range callsAt(0) {
		if c.do(call); call.Err != nil {
			c.t.Errorf("%s without an epoch: %v", call.Kind, call.Err)
		}
	}
	if d := c.describe(); d.Epoch != 7 {
		c.t.Errorf("the replica knows epoch %d, want 7", d.Epoch)
	}
}

// epochFence writes at rising epochs while it reads at the next one. No write
// of a lower epoch may show only after a read at a higher one was answered.
func epochFence(c *replicaCase) {
	c.open()
	const rounds, writers = 40, 8
	at := now()
	for round := uint64(1); round <= rounds; round++ {
		key := fmt.Sprint("k", round)
		done := make(answers, writers)
		for w := range writers {
			c.r.Do(&coord.Call{
				Kind: coord.CallApply, Intent: coord.IntentWrite, Tenant: "t", Key: key, Token: ring.KeyToken("t", key),
				Epoch: round, Deadline: time.Now().Add(answerTimeout), Version: version(at+int64(w), "c1", "v"), Caller: done,
			})
		}
		kind := coord.CallHead
		if round%2 == 0 {
			kind = coord.CallRead
		}
		fence := c.do(&coord.Call{Kind: kind, Tenant: "t", Key: key, Epoch: round + 1})
		if fence.Err != nil {
			c.t.Fatalf("%s at epoch %d: %v", kind, round+1, fence.Err)
		}
		applied := coord.Head{}
		for range writers {
			switch call := <-done; {
			case call.Err == nil && call.Version.Head.Compare(&applied) > 0:
				applied = call.Version.Head
			case call.Err != nil:
				c.wantStale(call.Err, round+1)
			}
		}
		if after := c.head("t", key); !sameHead(after, fence.Held.Head) {
			c.t.Fatalf("round %d: %s at the next epoch showed %s, and now it is %s", round, kind, &fence.Held.Head, &after)
		}
		if !sameHead(applied, fence.Held.Head) {
			c.t.Fatalf("round %d: %s was acknowledged, and %s shown", round, &applied, &fence.Held.Head)
		}
	}
}

func (c *replicaCase) drop(tenant, key string, h coord.Head) *coord.Call {
	c.t.Helper()
	call := c.do(&coord.Call{Kind: coord.CallDrop, Tenant: tenant, Key: key, Version: coord.Version{Head: h}})
	if call.Err != nil {
		c.t.Fatalf("drop %s of key %.40q: %v", &h, key, call.Err)
	}
	return call
}

// floorOf asserts the floor that heads and reads tell.
func (c *replicaCase) floorOf(tenant, key string, want int64) {
	c.t.Helper()
	for _, kind := range []coord.CallKind{coord.CallHead, coord.CallRead} {
		call := c.do(&coord.Call{Kind: kind, Tenant: tenant, Key: key})
		if call.Err != nil || call.Floor != want {
			c.t.Errorf("%s of key %q: floor %d and error %v, want %d", kind, key, call.Floor, call.Err, want)
		}
	}
}

func dropExactly(c *replicaCase) {
	c.open()
	v := version(now(), "c1", "value")
	c.apply("t", "k", v)
	keys := c.describe().Keys
	for name, other := range map[string]coord.Version{
		"older": version(v.Timestamp-1, "c1", ""), "newer": version(v.Timestamp+1, "c1", ""), "of another writer": version(v.Timestamp, "c2", ""),
	} {
		if call := c.drop("t", "k", other.Head); !sameHead(call.Held.Head, v.Head) {
			c.t.Errorf("drop of a version that is %s: answered with %s, want %s", name, &call.Held.Head, &v.Head)
		}
		c.holds("t", "k", v)
	}
	if call := c.drop("t", "k", v.Head); call.Held.Exists() {
		c.t.Errorf("after the drop the answer is %s, want absent", &call.Held.Head)
	}
	c.holds("t", "k", coord.Version{})
	c.wantPositions(c.scan("t", "", 10), nil)
	if got := c.describe().Keys; got != keys-1 {
		c.t.Errorf("%d keys are counted after the drop, %d before", got, keys)
	}
	c.drop("t", "k", v.Head)
	c.drop("t", "never written", v.Head)
	if got := c.describe().Keys; got != keys-1 {
		c.t.Errorf("%d keys are counted after drops of nothing, want %d", got, keys-1)
	}
}

func dropSizes(c *replicaCase) {
	c.open()
	at := now()
	for i, size := range []int{0, 10, 5 << 10, 100_000, 1 << 20, 10} {
		v := version(at+2*int64(i), "c1", "")
		v.Value = noise(size)
		c.apply("t", "k", v)
		c.holds("t", "k", v)
		c.drop("t", "k", v.Head)
		c.holds("t", "k", coord.Version{})
		c.apply("t", "k", v) // a value is not a tombstone: it may come back
		c.holds("t", "k", v)
	}
}

func dropFloor(c *replicaCase) {
	c.open()
	at := now()
	c.floorOf("t", "k", 0)
	first, second := deletion(at, "c1"), deletion(at-100, "c1")
	c.apply("t", "k", first)
	c.floorOf("t", "k", 0)
	c.drop("t", "k", first.Head)
	c.floorOf("t", "k", at)
	c.holds("t", "k", coord.Version{})
	c.apply("t", "k", second)
	c.drop("t", "k", second.Head)
	c.floorOf("t", "k", at) // the highest stays
	again := version(at+1, "c1", "again")
	c.apply("t", "k", again)
	c.holds("t", "k", again)
	c.floorOf("t", "k", at)
	// Some key lies in another range, and knows nothing of it.
	for i := 0; ; i++ {
		key := fmt.Sprint("other", i)
		if coord.OwedRange(ring.KeyToken("t", key)) != coord.OwedRange(ring.KeyToken("t", "k")) {
			c.floorOf("t", key, 0)
			return
		}
	}
}

func dropLive(c *replicaCase) {
	c.open()
	v := version(now(), "c1", "value")
	c.apply("t", "k", v)
	c.drop("t", "k", v.Head)
	ends := version(now(), "c1", "value")
	ends.Expires = now() + int64(time.Hour)
	c.apply("t", "k", ends)
	c.drop("t", "k", ends.Head)
	c.holds("t", "k", coord.Version{})
	c.floorOf("t", "k", 0)
}

func dropExpired(c *replicaCase) {
	c.open()
	v := version(now()-int64(time.Minute), "c1", "value")
	v.Expires = v.Timestamp + int64(time.Second)
	c.apply("t", "k", v)
	c.holds("t", "k", v) // what has expired is for the engine to say
	c.drop("t", "k", v.Head)
	c.holds("t", "k", coord.Version{})
	c.floorOf("t", "k", v.Timestamp)
}

// aboveFloor is about a tombstone from a broken clock that was dropped: the next
// version has to be above it, and so must be accepted.
func aboveFloor(c *replicaCase) {
	c.open()
	gone := deletion(now()+int64(c.suite.MaxClockOffset+time.Hour), "c1")
	c.repair("k", gone)
	c.drop("t", "k", gone.Head)
	tooFar := version(gone.Timestamp+int64(time.Minute), "c2", "far above")
	c.refused(c.do(&coord.Call{Kind: coord.CallApply, Intent: coord.IntentWrite, Tenant: "t", Key: "k", Version: tooFar}))
	c.holds("t", "k", coord.Version{})
	above := version(gone.Timestamp+1, "c2", "just above")
	c.wantHeld(c.apply("t", "k", above), above)
	c.holds("t", "k", above)
}

func floorKept(c *replicaCase) {
	if c.suite.Reopen == nil {
		c.t.Fatal("the suite needs Reopen")
	}
	c.open()
	gone := deletion(now(), "c1")
	c.apply("t", "k", gone)
	c.drop("t", "k", gone.Head)
	keys := c.describe().Keys
	c.r = c.suite.Reopen(c.t, c.r)
	c.floorOf("t", "k", gone.Timestamp)
	c.holds("t", "k", coord.Version{})
	if got := c.describe().Keys; got != keys {
		c.t.Errorf("%d keys are counted after reopening, %d before", got, keys)
	}
}

// floors asserts all floors, after raise.
func (c *replicaCase) floors(raise []coord.RangeFloor, want ...coord.RangeFloor) {
	c.t.Helper()
	got, err := c.r.Floors(context.Background(), 0, raise)
	if err != nil {
		c.t.Fatalf("raise floors %v: %v", raise, err)
	}
	slices.SortFunc(want, func(f, g coord.RangeFloor) int { return int(f.Range) - int(g.Range) })
	if !slices.Equal(got, want) {
		c.t.Errorf("after raising %v the floors are %v, want %v", raise, got, want)
	}
}

func floorRange(key string) uint16 { return coord.OwedRange(ring.KeyToken("t", key)) }

func floorsRaised(c *replicaCase) {
	c.open()
	c.floors(nil)
	gone := deletion(now(), "c1")
	c.apply("t", "k", gone)
	c.drop("t", "k", gone.Head)
	own := coord.RangeFloor{Range: floorRange("k"), Timestamp: gone.Timestamp}
	c.floors(nil, own)
	other := coord.RangeFloor{Range: own.Range ^ 1, Timestamp: 7}
	c.floors([]coord.RangeFloor{{Range: own.Range, Timestamp: own.Timestamp - 1}, other}, own, other)
	c.floorOf("t", "k", own.Timestamp)
	own.Timestamp, other.Timestamp = own.Timestamp+5, 8
	c.floors([]coord.RangeFloor{own, other}, own, other)
	c.floorOf("t", "k", own.Timestamp)
	// All there can be.
	all := make([]coord.RangeFloor, 1<<coord.OwedRangeBits)
	for i := range all {
		all[i] = coord.RangeFloor{Range: uint16(i), Timestamp: own.Timestamp + int64(i)}
	}
	c.floors(all, all...)
	c.floors(nil, all...)
	c.floorOf("t", "k", own.Timestamp+int64(own.Range))
}

func raisedKept(c *replicaCase) {
	if c.suite.Reopen == nil {
		c.t.Fatal("the suite needs Reopen")
	}
	c.open()
	raise := []coord.RangeFloor{{Range: floorRange("k"), Timestamp: now()}}
	c.floors(raise, raise...)
	c.r = c.suite.Reopen(c.t, c.r)
	c.floors(nil, raise...)
	c.floorOf("t", "k", raise[0].Timestamp)
}

func floorsMalformed(c *replicaCase) {
	c.open()
	for _, f := range []coord.RangeFloor{{Range: 1 << coord.OwedRangeBits, Timestamp: 1}, {Range: 1}, {Range: 1, Timestamp: -1}} {
		if _, err := c.r.Floors(context.Background(), 0, []coord.RangeFloor{{Range: 3, Timestamp: 3}, f}); err == nil {
			c.t.Errorf("floor %d of range %d was accepted", f.Timestamp, f.Range)
		}
	}
	c.floors(nil)
}

func expiryKept(c *replicaCase) {
	c.open()
	at := now()
	for i, size := range []int{0, 10, 5 << 10, 100_000} {
		key := fmt.Sprint("k", i)
		v := version(at, "c1", "")
		v.Expires, v.Value = at+int64(time.Hour)+int64(i), noise(size)
		c.wantHeld(c.apply("t", key, v), v)
		c.holds("t", key, v)
		forever := version(at+1, "c1", "")
		c.apply("t", key, forever)
		c.holds("t", key, forever)
	}
}

func expiryMalformed(c *replicaCase) {
	c.open()
	for name, spoil := range map[string]func(*coord.Version){
		"negative":              func(v *coord.Version) { v.Expires = -1 },
		"before it was written": func(v *coord.Version) { v.Expires = v.Timestamp },
		"of a tombstone":        func(v *coord.Version) { v.Expires, v.Tombstone, v.Value = v.Timestamp+1, true, nil },
	} {
		v := version(now(), "c1", name)
		spoil(&v)
		c.refused(c.do(&coord.Call{Kind: coord.CallApply, Intent: coord.IntentRepair, Tenant: "t", Key: "k", Version: v}))
		c.holds("t", "k", coord.Version{})
	}
}

// heard waits until the node was heard.
func (c *replicaCase) heard() (boot uint64, clock time.Duration) {
	c.t.Helper()
	for deadline := time.Now().Add(answerTimeout); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if boot, clock = c.r.Heard(); boot != 0 {
			return boot, clock
		}
	}
	c.t.Fatal("the node was not heard")
	return 0, 0
}

func otherLife(c *replicaCase) {
	if c.suite.Reopen == nil {
		c.t.Fatal("the suite needs Reopen")
	}
	c.open()
	v := version(now(), "c1", "value")
	c.apply("t", "held", v)
	boot, clock := c.heard()
	mutations := func() []*coord.Call {
		return []*coord.Call{
			{Kind: coord.CallApply, Intent: coord.IntentRepair, Tenant: "t", Key: "k", Version: v, Boot: boot, Heard: clock},
			{Kind: coord.CallApply, Intent: coord.IntentWrite, Tenant: "t", Key: "k", Version: v, Boot: boot, Heard: clock},
			{Kind: coord.CallDrop, Tenant: "t", Key: "held", Version: v, Boot: boot, Heard: clock},
		}
	}
	c.r = c.suite.Reopen(c.t, c.r)
	for _, call := range mutations() {
		c.refused(c.do(call))
	}
	c.holds("t", "k", coord.Version{})
	c.holds("t", "held", v)
	if again, _ := c.heard(); again == boot {
		c.t.Fatalf("after reopening the node is in life %d as before", again)
	}
	boot, clock = c.heard()
	for _, call := range mutations() {
		if c.do(call); call.Err != nil {
			c.t.Errorf("%s of this life: %v", call.Kind, call.Err)
		}
	}
	c.holds("t", "k", v)
	c.holds("t", "held", coord.Version{})
}

func clockGoesOn(c *replicaCase) {
	c.open()
	boot, first := c.heard()
	for deadline := time.Now().Add(answerTimeout); ; {
		c.head("t", "k")
		again, clock := c.heard()
		if again != boot || clock < first {
			c.t.Fatalf("heard life %d and clock %v after %d and %v", again, clock, boot, first)
		}
		if clock > first {
			break
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("the clock stands at %v", clock)
		}
	}
}

func scanSpan(c *replicaCase) {
	c.open()
	all := append(c.fill("t", "key", 60), c.fill("u", "key", 60)...)
	slices.SortFunc(all, coord.Position.Compare)
	c.wantPositions(c.scan("", "", 7), all)
	c.wantPositions(c.scan("", "key000", 7), slices.DeleteFunc(slices.Clone(all), func(p coord.Position) bool { return p.Key >= "key001" }))
	for _, cut := range []struct{ from, to int }{{0, 0}, {0, 119}, {30, 31}, {40, 90}, {119, 119}} {
		span := ring.Span{First: all[cut.from].Token, Last: all[cut.to].Token}
		for _, tenant := range []string{"", "u"} {
			var want, got []coord.Position
			for _, p := range all {
				if span.Contains(p.Token) && (tenant == "" || p.Tenant == tenant) {
					want = append(want, p)
				}
			}
			for req := (coord.ScanRequest{Span: span, Tenant: tenant, Limit: 9}); ; {
				page, err := c.r.Scan(context.Background(), req)
				if err != nil {
					c.t.Fatal(err)
				}
				for _, item := range page.Items {
					got = append(got, item.Position)
				}
				if req.After = page.Next; req.After == nil {
					break
				}
			}
			c.wantPositions(got, want)
		}
		// A position before the span does not widen it.
		page, err := c.r.Scan(context.Background(), coord.ScanRequest{Span: span, After: &coord.Position{}, Limit: 1})
		if err != nil || len(page.Items) != 1 || page.Items[0].Position != all[cut.from] {
			c.t.Errorf("after a position before the span: got %+v and error %v, want %+v first", page.Items, err, all[cut.from])
		}
	}
}

func (c *replicaCase) dead(age time.Duration) []string {
	c.t.Helper()
	page, err := c.r.Scan(context.Background(), coord.ScanRequest{Span: ring.Everything(), DeadFor: age, Limit: 100})
	if err != nil {
		c.t.Fatal(err)
	}
	var keys []string
	for _, item := range page.Items {
		keys = append(keys, item.Position.Key)
	}
	slices.Sort(keys)
	return keys
}

func scanDead(c *replicaCase) {
	c.open()
	at := now()
	c.apply("t", "alive", version(at, "c1", "value"))
	c.apply("t", "gone", deletion(at, "c1"))
	later, over := version(at, "c1", "later"), version(at-int64(time.Hour), "c1", "over")
	later.Expires, over.Expires = at+int64(time.Hour), at-int64(time.Minute)
	c.apply("t", "later", later)
	c.apply("t", "over", over)
	if got := c.dead(time.Hour); len(got) != 0 {
		c.t.Errorf("dead for an hour: %q, want none", got)
	}
	want := []string{"gone", "over"}
	for deadline := time.Now().Add(answerTimeout); ; time.Sleep(time.Millisecond) {
		got := c.dead(50 * time.Millisecond)
		if slices.Equal(got, want) {
			break
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("dead for 50 ms: %q, want %q", got, want)
		}
	}
	// A clock that the node has held nothing for so long on says so, whatever
	// the version's timestamp is.
	if got := c.dead(10 * time.Minute); len(got) != 0 {
		c.t.Errorf("dead for 10 minutes: %q, want none", got)
	}
}

// wantSums asserts the sums of spans against what a scan lists.
func (c *replicaCase) wantSums(spans []ring.Span, space string) {
	c.t.Helper()
	got, err := c.r.Sums(context.Background(), coord.SumRequest{Spans: spans, Space: space})
	if err != nil {
		c.t.Fatal(err)
	}
	if len(got) != len(spans) {
		c.t.Fatalf("got sums of %d spans, want of %d", len(got), len(spans))
	}
	page, err := c.r.Scan(context.Background(), coord.ScanRequest{Span: ring.Everything(), Limit: coord.MaxScanPage})
	if err != nil || page.Next != nil {
		c.t.Fatalf("scan: error %v, next %v", err, page.Next)
	}
	for i, span := range spans {
		want := map[string]coord.SpaceSum{}
		for _, item := range page.Items {
			if p := item.Position; span.Contains(p.Token) && (space == "" || p.Tenant == space) {
				s := want[p.Tenant]
				want[p.Tenant] = coord.SpaceSum{Space: p.Tenant, Keys: s.Keys + 1, Sum: s.Sum ^ coord.VersionSum(p.Key, &item.Head)}
			}
		}
		for _, s := range got[i] {
			if want[s.Space] != s {
				c.t.Errorf("span %x, space %q: got %+v, want %+v", span, s.Space, s, want[s.Space])
			}
		}
		if len(got[i]) != len(want) {
			c.t.Errorf("span %x: got sums of %d spaces, want of %d", span, len(got[i]), len(want))
		}
	}
}

var sumSpans = []ring.Span{
	ring.Everything(), {First: 0, Last: 0}, {First: 0, Last: 1 << 63}, {First: 1<<63 + 1, Last: ^ring.Token(0)},
	{First: 1<<60 + 12345, Last: 7<<60 + 98765}, {First: 1 << 61, Last: 1<<61 + 1000}, {First: 3 << 61, Last: 3<<61 + 1<<50},
}

func sumsOfHeld(c *replicaCase) {
	c.open()
	c.wantSums(sumSpans, "")
	positions := append(c.fill("t", "key", 300), c.fill("u\x011", "key", 100)...)
	spans := append([]ring.Span{{First: positions[7].Token, Last: positions[7].Token}}, sumSpans...)
	c.wantSums(spans, "")
	c.wantSums(spans, "t")
	c.wantSums(spans, "nobody")
	for i, p := range positions[:40] {
		held := c.head(p.Tenant, p.Key)
		if i%2 == 0 {
			c.drop(p.Tenant, p.Key, held)
		} else {
			c.apply(p.Tenant, p.Key, version(held.Timestamp+1000, "c2", "changed"))
		}
	}
	c.wantSums(spans, "")
	if _, err := c.r.Sums(context.Background(), coord.SumRequest{Spans: make([]ring.Span, coord.MaxSumSpans+1)}); err == nil {
		c.t.Errorf("more than %d spans were accepted", coord.MaxSumSpans)
	}
}

func sumsEqual(c *replicaCase) {
	sums := func(forwards bool) coord.SpanSums {
		c.open()
		for i := range 50 {
			if !forwards {
				i = 49 - i
			}
			key, at := fmt.Sprint("k", i), int64(1_700_000_000_000_000_000+i)
			if forwards {
				c.apply("t", key, version(at-5, "c1", "replaced"))
			}
			c.apply("t", key, version(at, "c1", "value"))
		}
		got, err := c.r.Sums(context.Background(), coord.SumRequest{Spans: []ring.Span{ring.Everything()}})
		if err != nil {
			c.t.Fatal(err)
		}
		return got[0]
	}
	one, other := sums(true), sums(false)
	if !slices.Equal(one, other) || len(one) != 1 || one[0].Keys != 50 {
		c.t.Errorf("got %+v and %+v, want the same of 50 keys", one, other)
	}
	c.apply("t", "k7", version(1_700_000_000_000_001_000, "c1", "value"))
	got, err := c.r.Sums(context.Background(), coord.SumRequest{Spans: []ring.Span{ring.Everything()}})
	if err != nil || slices.Equal(got[0], one) {
		c.t.Errorf("after another write: %+v and error %v, want another sum", got, err)
	}
}

func sumsReopened(c *replicaCase) {
	if c.suite.Reopen == nil {
		c.t.Fatal("the suite needs Reopen")
	}
	c.open()
	c.fill("t", "key", 200)
	c.wantSums(sumSpans, "")
	c.r = c.suite.Reopen(c.t, c.r)
	c.wantSums(sumSpans, "")
	c.fill("t", "more", 200)
	c.wantSums(sumSpans, "")
}

func epochOfScans(c *replicaCase) {
	c.open()
	c.fill("t", "key", 10)
	scan := func(epoch uint64) error {
		_, err := c.r.Scan(context.Background(), coord.ScanRequest{Epoch: epoch, Span: ring.Everything(), Limit: 100})
		return err
	}
	sum := func(epoch uint64) error {
		_, err := c.r.Sums(context.Background(), coord.SumRequest{Epoch: epoch, Spans: []ring.Span{ring.Everything()}})
		return err
	}
	floors := func(epoch uint64) error {
		_, err := c.r.Floors(context.Background(), epoch, nil)
		return err
	}
	raise := func(epoch uint64) error {
		_, err := c.r.Floors(context.Background(), epoch, []coord.RangeFloor{{Range: 1, Timestamp: int64(epoch) + 1}})
		return err
	}
	at := uint64(1)
	for name, ask := range map[string]func(uint64) error{"scan": scan, "sums": sum, "floors": floors, "raised floors": raise} {
		at += 2
		if err := ask(at); err != nil {
			c.t.Fatalf("%s at a higher epoch: %v", name, err)
		}
		if d := c.describe(); d.Epoch != at {
			c.t.Errorf("after %s at epoch %d the replica knows %d", name, at, d.Epoch)
		}
		for _, call := range callsAt(at - 1) {
			c.wantStale(c.do(call).Err, at)
		}
		c.wantStale(ask(at-1), at)
		for _, epoch := range []uint64{0, at} {
			if err := ask(epoch); err != nil {
				c.t.Errorf("%s at epoch %d of %d: %v", name, epoch, at, err)
			}
		}
	}
}

func describeBytes(c *replicaCase) {
	c.open()
	v := version(now(), "c1", "")
	v.Value = noise(1 << 20)
	c.apply("t", "large", v)
	for deadline := time.Now().Add(answerTimeout); ; time.Sleep(10 * time.Millisecond) {
		got := c.describe().Bytes
		if got >= 1<<20 && got < 2<<20 {
			break
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("with a value of 1 MiB: %d bytes are estimated", got)
		}
	}
	c.drop("t", "large", v.Head)
	if got := c.describe().Bytes; got >= 1<<20 {
		c.t.Errorf("after the drop: %d bytes are estimated", got)
	}
}
