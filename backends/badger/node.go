package badger

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pairdb/coordinator/coord"
)

// NodeOptions say how a storage node is opened. Zero values take the defaults.
type NodeOptions struct {
	ID  string // of the node; must stay the same for a directory
	Dir string // made where it does not exist
	// Sync makes each commit wait for the disk. Without it an acknowledged
	// write survives the death of the process, but not of the machine.
	Sync    bool
	Profile Profile

	// MaxClockOffset is how far ahead of Wall a new write's timestamp may be;
	// default coord.DefaultMaxClockOffset.
	MaxClockOffset time.Duration
	// Wall is the node's wall clock; default time.Now. Deadlines do not use it.
	Wall func() time.Time
	// Clock is the node's own clock, which counts from its opening and never
	// falls; default: the machine's monotonic clock.
	Clock func() time.Duration

	// MaxQueuedCalls and MaxQueuedBytes bound the calls that wait, for reads
	// and for applies each; half of them bounds those whose large value is yet
	// to be written. Defaults depend on the profile.
	MaxQueuedCalls int
	MaxQueuedBytes int64

	// MinFreeBytes is the room on the file system under which applies are
	// refused with coord.ErrDiskFull. The default, by profile, is 128 MiB or
	// 1 GiB. It should not be less: Badger writes through memory maps, and a
	// process that writes to one on a full disk is killed.
	MinFreeBytes uint64
	// Space looks up the room under a directory; default: asks the file system.
	Space func(dir string) (DiskSpace, error)

	reclaimLook time.Duration // of tests; default reclaimLook

	// Warn is told what goes wrong in the background, a line each. It may be
	// called from any goroutine.
	Warn func(message string)
}

// Node is a storage node on a directory. It implements coord.Replica.
//
// Reads and applies wait in queues of their own, so a commit holds up no read.
// One goroutine takes all applies that wait and commits them together. Nothing
// of a call is used after it was finished.
type Node struct {
	opts      NodeOptions
	uuid      string
	store     *store
	disk      *diskGuard
	heads     *headCache
	interned  *internTable
	values    *valueFiles
	keys      atomic.Int64 // that have a record, tombstones too
	ring      ringState
	floors    floors
	tree      *tree
	reclaimer reclaimer
	boot      uint64 // number of the node's present life
	clock     func() time.Duration

	spills  *queue // applies of large values, before they come to applies
	spilled spilled
	applies *queue
	reads   *queue
	flights []*flight // of the committer and each reader
	scans   chan struct{}

	closed    atomic.Bool
	stop      chan struct{}
	running   sync.WaitGroup
	closeOnce sync.Once
	closeErr  error
}

var _ coord.Replica = (*Node)(nil)

// maxScans bounds the scans at one time; more wait.
const maxScans = 4

// OpenNode opens the storage node in opts.Dir, or makes one. It fails with
// ErrInUse where the directory is open already, and where the directory
// belongs to a node of another id.
func OpenNode(opts NodeOptions) (*Node, error) {
	defaults := opts.Profile.limits()
	if opts.MaxClockOffset == 0 {
		opts.MaxClockOffset = coord.DefaultMaxClockOffset
	}
	if opts.reclaimLook == 0 {
		opts.reclaimLook = reclaimLook
	}
	if opts.Wall == nil {
		opts.Wall = time.Now
	}
	if opts.MaxQueuedCalls == 0 {
		opts.MaxQueuedCalls = defaults.queuedCalls
	}
	if opts.MaxQueuedBytes == 0 {
		opts.MaxQueuedBytes = defaults.queuedBytes
	}
	if opts.MinFreeBytes == 0 {
		opts.MinFreeBytes = defaults.minFree
	}
	if opts.Space == nil {
		opts.Space = diskSpace
	}
	if !validID(opts.ID) {
		return nil, fmt.Errorf("open storage node: id %q has %d bytes, want 1 to %d", opts.ID, len(opts.ID), maxIDBytes)
	}
	if opts.Dir == "" || opts.MaxClockOffset < 0 || opts.MaxQueuedCalls < 0 || opts.MaxQueuedBytes < 0 {
		return nil, fmt.Errorf("open storage node %s: want a data directory, and bounds that are not negative", opts.ID)
	}
	st, who, err := openStore(opts.Dir, opts.Profile.options(opts.Dir, opts.Sync), opts.Warn, identity{Kind: kindNode, ID: opts.ID})
	if err != nil {
		return nil, fmt.Errorf("open storage node %s: %w", opts.ID, err)
	}
	values, err := openValueFiles(filepath.Join(opts.Dir, "values"), opts.Sync)
	if err != nil {
		_ = st.close()
		return nil, fmt.Errorf("open storage node %s: %w", opts.ID, err)
	}
	n := &Node{
		opts:     opts,
		uuid:     who.UUID,
		store:    st,
		disk:     &diskGuard{dir: opts.Dir, probe: opts.Space, minFree: opts.MinFreeBytes},
		heads:    newHeadCache(&st.versions.committed, defaults.headCache),
		interned: newInternTable(),
		tree:     newTree(defaults.treeBits, defaults.treeEntries),
		values:   values,
		spills:   newQueue(max(1, opts.MaxQueuedCalls/2), opts.MaxQueuedBytes/2),
		spilled:  spilled{refs: make(map[*coord.Call]valueRef)},
		applies:  newQueue(opts.MaxQueuedCalls, opts.MaxQueuedBytes),
		reads:    newQueue(opts.MaxQueuedCalls, opts.MaxQueuedBytes),
		scans:    make(chan struct{}, maxScans),
		stop:     make(chan struct{}),
	}
	if err := n.start(defaults.readers); err != nil {
		_ = st.close()
		return nil, fmt.Errorf("open storage node %s: %w", opts.ID, err)
	}
	return n, nil
}

func (n *Node) start(readers int) error {
	v, err := n.store.view()
	if err != nil {
		return err
	}
	err = errors.Join(n.loadState(v), n.begin(v))
	v.release()
	if err != nil {
		return err
	}
	if err := n.disk.look(); err != nil {
		return err
	}
	for range readers {
		r := newReader(n)
		n.flights = append(n.flights, &r.flight)
		n.running.Go(r.run)
	}
	for range spillers {
		n.running.Go((&spiller{node: n}).run)
	}
	c := newCommitter(n)
	n.flights = append(n.flights, &c.flight)
	n.running.Go(c.run)
	n.running.Go(n.tend)
	n.running.Go(n.countTree)
	n.running.Go(n.reclaimSpace)
	n.running.Go(func() { n.warn(n.values.clean(n.store, n.stop)) })
	return nil
}

// loadState reads what the node keeps in memory of its own state.
func (n *Node) loadState(v view) error {
	return errors.Join(n.loadCount(v), n.ring.load(v), n.floors.load(v))
}

// loadCount reads how many keys there are: the number is committed together
// with the records it counts.
func (n *Node) loadCount(v view) error {
	b, err := v.get([]byte(countKey))
	if err != nil {
		return fmt.Errorf("read key count: %w", err)
	}
	switch len(b) {
	case 0:
		n.keys.Store(0)
	case 8:
		n.keys.Store(int64(binary.BigEndian.Uint64(b)))
	default:
		return fmt.Errorf("read key count: %w: %d bytes", coord.ErrCorrupt, len(b))
	}
	return nil
}

var (
	errNodeClosed   = fmt.Errorf("%w: storage node is closed", coord.ErrReplicaUnavailable)
	errQueueFull    = fmt.Errorf("%w: too many calls are waiting", coord.ErrReplicaRefused)
	errCallLate     = fmt.Errorf("%w: deadline passed", coord.ErrReplicaRefused)
	errCallOverdue  = fmt.Errorf("%w: deadline passed during the call", coord.ErrReplicaUnavailable)
	errUnknownCall  = fmt.Errorf("%w: unknown kind of call", coord.ErrReplicaRefused)
	errStoreFaulted = fmt.Errorf("%w: storage is being reopened after a failed commit", coord.ErrReplicaRefused)
)

// Do implements coord.Replica. What is cached is answered before it returns.
func (n *Node) Do(call *coord.Call) {
	if n.closed.Load() {
		call.Finish(errNodeClosed)
		return
	}
	queue := n.reads
	switch call.Kind {
	case coord.CallApply:
		if err := n.refusal(); err != nil {
			call.Finish(err)
			return
		}
		queue = n.applies
		if isLarge(call) {
			queue = n.spills
		}
	case coord.CallDrop:
		queue = n.applies // a full disk gains room by it
	case coord.CallHead, coord.CallRead:
		if n.ring.behind(call.Epoch) {
			queue = n.applies // the committer adopts the epoch and passes the call on
			break
		}
		if n.answerCached(call) {
			return
		}
	default:
		call.Finish(errUnknownCall)
		return
	}
	n.enqueue(queue, call)
}

func (n *Node) enqueue(q *queue, call *coord.Call) {
	switch q.push(call) {
	case queueFull:
		call.Finish(errQueueFull)
	case queueClosed:
		call.Finish(errNodeClosed)
	}
}

// answerCached finishes a read that the cache can answer, and tells whether it did.
func (n *Node) answerCached(call *coord.Call) bool {
	h := n.heads.get(call.Token, call.Tenant, call.Key)
	if h == nil {
		return false
	}
	version := coord.Version{Head: h.head}
	if call.Kind == coord.CallRead {
		if !h.known && h.head.Exists() && !h.head.Tombstone {
			return false
		}
		version.Value = bytes.Clone(h.value)
	}
	n.finishRead(call, version, nil)
	return true
}

// refusal tells why no apply is accepted now.
func (n *Node) refusal() error {
	if n.disk.full.Load() {
		return fmt.Errorf("%w: %d MiB are free, %d MiB are kept free",
			coord.ErrDiskFull, n.disk.free.Load()>>20, n.disk.minFree>>20)
	}
	if fault := n.store.fault.Load(); fault != nil {
		if isFull(*fault) {
			return coord.ErrDiskFull
		}
		return errStoreFaulted
	}
	return nil
}

// Unavailable implements coord.Replica. A node with a full disk can be read.
func (n *Node) Unavailable() error {
	if n.closed.Load() {
		return errNodeClosed
	}
	if fault := n.store.fault.Load(); fault != nil {
		return fmt.Errorf("%w: %w", coord.ErrReplicaUnavailable, *fault)
	}
	return nil
}

// Describe implements coord.Replica. The number of keys is exact; that of bytes
// is what the database takes on the disk until the tree was counted.
func (n *Node) Describe(ctx context.Context) (coord.NodeDescription, error) {
	if err := ctx.Err(); err != nil {
		return coord.NodeDescription{}, fmt.Errorf("%w: describe node %s: %w", coord.ErrReplicaUnavailable, n.opts.ID, err)
	}
	if err := n.Unavailable(); err != nil {
		return coord.NodeDescription{}, err
	}
	_, topology := n.ring.known()
	return coord.NodeDescription{
		ID: n.opts.ID, UUID: n.uuid, Keys: n.keys.Load(), Bytes: n.bytes(), DiskUsedFraction: n.disk.usedFraction(),
		Epoch: n.ring.current.Load(), Topology: bytes.Clone(topology),
	}, nil
}

// Close implements coord.Replica. Calling it again, or Do after it, does no harm.
func (n *Node) Close() error {
	n.closeOnce.Do(func() {
		n.closed.Store(true)
		for _, q := range []*queue{n.spills, n.applies, n.reads} {
			for _, call := range q.close() {
				n.unspill(call)
				call.Finish(errNodeClosed)
			}
		}
		close(n.stop)
		n.running.Wait()
		if err := n.store.close(); err != nil {
			n.closeErr = fmt.Errorf("close storage node %s: %w", n.opts.ID, err)
		}
	})
	return n.closeErr
}

// A node looks for overdue calls, and for a store to be reopened, every
// sweepEvery; for the room on its disk every lookEvery.
const (
	sweepEvery = 50 * time.Millisecond
	lookEvery  = time.Second
)

// tend does what is due from time to time.
func (n *Node) tend() {
	sweep, look := time.NewTicker(sweepEvery), time.NewTicker(lookEvery)
	defer sweep.Stop()
	defer look.Stop()
	warned := false
	var healed time.Time
	for {
		select {
		case <-n.stop:
			return
		case now := <-sweep.C:
			n.expire(now)
			if fault := n.store.fault.Load(); fault != nil && now.Sub(healed) > lookEvery {
				n.heal(*fault)
				healed = now
			}
		case <-look.C:
			n.store.forget()
			if err := n.disk.look(); err != nil {
				n.warn(err)
			}
			if full := n.disk.full.Load(); full != warned {
				warned = full
				if full {
					n.warn(n.refusal())
				} else {
					n.warn(errors.New("the disk has room again"))
				}
			}
		}
	}
}

func (n *Node) warn(err error) {
	if n.opts.Warn != nil && err != nil {
		n.opts.Warn(err.Error())
	}
}

func (n *Node) heal(fault error) {
	n.warn(fault)
	n.tree.invalidate()
	err := n.store.reopen(func(v view) error {
		n.heads.purge()
		return n.loadState(v)
	})
	n.warn(err)
	if err == nil {
		n.warn(n.values.clean(n.store, n.stop))
	}
}

// expire finishes the calls whose deadline has passed: those that wait have
// had no effect, those under way may have.
func (n *Node) expire(now time.Time) {
	waiting := n.reads.expire(now, n.applies.expire(now, n.spills.expire(now, nil)))
	for _, call := range waiting {
		n.unspill(call)
		call.Finish(errCallLate)
	}
	var overdue []*coord.Call
	for _, f := range n.flights {
		overdue = f.expire(now, overdue)
	}
	for _, call := range overdue {
		call.Finish(errCallOverdue)
	}
}

// flight holds calls that are being worked on, so that they can be finished
// when a disk hangs. Each goes to whoever takes it first.
type flight struct {
	mu    sync.Mutex
	calls []*coord.Call // nil: taken
}

func (f *flight) set(calls []*coord.Call) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = calls
}

func (f *flight) take(i int) *coord.Call {
	f.mu.Lock()
	defer f.mu.Unlock()
	call := f.calls[i]
	f.calls[i] = nil
	return call
}

func (f *flight) expire(now time.Time, dst []*coord.Call) []*coord.Call {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, call := range f.calls {
		if call != nil && expired(call, now) {
			f.calls[i] = nil
			dst = append(dst, call)
		}
	}
	return dst
}
