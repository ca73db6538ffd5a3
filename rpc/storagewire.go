package rpc

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ring"
	"github.com/pairdb/coordinator/rpc/storagepb"
)

// Sizes of what travels between coordinators and storage nodes.
const (
	// largeValue is the size in bytes above which a value travels on the link
	// for large ones, so that it delays no small one.
	largeValue = 256 << 10
	// batchBytes and batchOperations bound a message, so that the first
	// operation in it does not wait long for the last. A message always holds
	// one operation, however large.
	batchBytes      = 256 << 10
	batchOperations = 1024
	// maxBatchOperations is what a receiver takes in one message.
	maxBatchOperations = 4 * batchOperations
	// operationOverhead is what an operation without value, tenant and key is
	// counted for, in bytes.
	operationOverhead = 256
	// aliasAbove is the size in bytes above which a received value keeps the
	// buffer that it came in, instead of being copied out of it.
	aliasAbove = 64 << 10
	// maxErrorText bounds the text of an error that is sent.
	maxErrorText = 512
)

// maxSpaceBytes bounds a tenant's space.
const maxSpaceBytes = MaxTenantBytes + coord.MaxSpaceBytes

// maxIDBytes bounds the ids of coordinators, in bytes.
const maxIDBytes = 256

// names turns received bytes that repeat themselves (coordinators' ids,
// tenants) into shared strings. One goroutine uses it.
type names struct {
	recent [4]string // those that came last; most messages hold no other ones
	oldest int       // of recent
	known  map[string]string
}

// maxNames bounds the strings that are remembered.
const maxNames = 4096

// keep returns a string equal to s that does not share its memory.
func (n *names) keep(s string) string {
	for i := range n.recent {
		if n.recent[i] == s {
			return n.recent[i]
		}
	}
	known, ok := n.known[s]
	if !ok {
		if n.known == nil || len(n.known) >= maxNames {
			n.known = make(map[string]string)
		}
		known = strings.Clone(s)
		n.known[known] = known
	}
	n.recent[n.oldest] = known
	n.oldest = (n.oldest + 1) % len(n.recent)
	return known
}

// keys copies received keys, many into one piece of memory. One goroutine uses it.
type keys struct{ piece strings.Builder }

// keysPiece is how many bytes lie together. A key that is in use keeps all of them.
const keysPiece = 1 << 10

// keep returns a string equal to s that does not share its memory.
func (k *keys) keep(s string) string {
	if len(s) > keysPiece/4 {
		return strings.Clone(s)
	}
	if k.piece.Len()+len(s) > k.piece.Cap() {
		k.piece = strings.Builder{}
		k.piece.Grow(keysPiece)
	}
	at := k.piece.Len()
	k.piece.WriteString(s)
	return k.piece.String()[at:]
}

// version reads a received version into v. What v then holds shares no memory
// with m, but for a value larger than aliasAbove: aliased tells of one.
func (n *names) version(v *coord.Version, m *storagepb.Version) (aliased bool, err error) {
	switch {
	case m.Timestamp <= 0:
		return false, fmt.Errorf("%w: version timestamp is %d, want a positive one", coord.ErrCorrupt, m.Timestamp)
	case m.WriterId == "" || len(m.WriterId) > maxIDBytes:
		return false, fmt.Errorf("%w: writer id is %d bytes, want 1 to %d", coord.ErrCorrupt, len(m.WriterId), maxIDBytes)
	case len(m.Clock) > coord.MaxClockEntries:
		return false, fmt.Errorf("%w: clock has %d entries, want at most %d", coord.ErrCorrupt, len(m.Clock), coord.MaxClockEntries)
	case m.Tombstone && len(m.Value) > 0:
		return false, fmt.Errorf("%w: tombstone has a value of %d bytes, want none", coord.ErrCorrupt, len(m.Value))
	case m.Expires != 0 && (m.Expires <= m.Timestamp || m.Tombstone):
		return false, fmt.Errorf("%w: version expires at %d, written at %d, tombstone %t", coord.ErrCorrupt, m.Expires, m.Timestamp, m.Tombstone)
	case len(m.Value) > MaxValueBytes:
		return false, fmt.Errorf("%w: value is %d bytes, want at most %d", coord.ErrCorrupt, len(m.Value), MaxValueBytes)
	}
	v.Timestamp = m.Timestamp
	v.Writer = coord.Writer{ID: n.keep(m.WriterId), Incarnation: m.WriterIncarnation}
	v.Tombstone, v.Expires = m.Tombstone, m.Expires
	v.Clock = nil
	if len(m.Clock) > 0 {
		v.Clock = make(coord.Clock, len(m.Clock))
		for i, e := range m.Clock {
			if e.Id == "" || len(e.Id) > maxIDBytes || i > 0 && m.Clock[i-1].Id >= e.Id || e.Counter < 0 || e.Updated > m.Timestamp {
				return false, fmt.Errorf("%w: clock entry %d is out of order or range", coord.ErrCorrupt, i)
			}
			v.Clock[i] = coord.ClockEntry{ID: n.keep(e.Id), Counter: e.Counter, Updated: e.Updated}
		}
	}
	switch {
	case len(m.Value) > aliasAbove:
		v.Value, aliased = m.Value[:len(m.Value):len(m.Value)], true
	case len(m.Value) > 0:
		v.Value = append(make([]byte, 0, len(m.Value)), m.Value...)
	default:
		v.Value = nil
	}
	return aliased, nil
}

// outbound is a version as it is sent, reused from message to message.
type outbound struct {
	version storagepb.Version
	entries []*storagepb.ClockEntry
}

// set fills the message; it is valid until the next set or clear.
func (o *outbound) set(h *coord.Head, value []byte) *storagepb.Version {
	for len(o.entries) < len(h.Clock) {
		o.entries = append(o.entries, new(storagepb.ClockEntry))
	}
	for i := range h.Clock {
		e := o.entries[i]
		e.Id, e.Counter, e.Updated = h.Clock[i].ID, h.Clock[i].Counter, h.Clock[i].Updated
	}
	o.version.Timestamp = h.Timestamp
	o.version.WriterId = h.Writer.ID
	o.version.WriterIncarnation = h.Writer.Incarnation
	o.version.Clock = o.entries[:len(h.Clock)]
	o.version.Tombstone, o.version.Expires = h.Tombstone, h.Expires
	o.version.Value = value
	return &o.version
}

// clear drops what would keep a value in memory.
func (o *outbound) clear() { o.version.Value = nil }

// callError is why a call on a replica failed: what to say, and which of
// coord's kinds of error it is.
type callError struct {
	text  string
	kinds []error
}

func (e *callError) Error() string   { return e.text }
func (e *callError) Unwrap() []error { return e.kinds }

// unsent is the error of a call that certainly never left.
func unsent(format string, args ...any) error {
	return &callError{
		text:  fmt.Sprintf(format, args...),
		kinds: []error{coord.ErrReplicaRefused, coord.ErrReplicaUnavailable},
	}
}

// unanswered is the error of a call that was sent.
func unanswered(format string, args ...any) error {
	return &callError{text: fmt.Sprintf(format, args...), kinds: []error{coord.ErrReplicaUnavailable}}
}

// codeOf is how err is told over the wire.
func codeOf(err error) (storagepb.Code, string) {
	if err == nil {
		return storagepb.Code_CODE_OK, ""
	}
	code := storagepb.Code_CODE_UNAVAILABLE
	var stale *coord.StaleRingError
	switch {
	case errors.Is(err, coord.ErrDiskFull):
		code = storagepb.Code_CODE_DISK_FULL
	case errors.As(err, &stale):
		code = storagepb.Code_CODE_STALE_RING
	case errors.Is(err, coord.ErrReplicaRefused):
		code = storagepb.Code_CODE_REFUSED
	case errors.Is(err, coord.ErrCorrupt):
		code = storagepb.Code_CODE_CORRUPT
	}
	text := err.Error()
	if len(text) > maxErrorText {
		text = text[:maxErrorText]
	}
	return code, strings.ToValidUTF8(text, "")
}

// epochOf is the epoch that a replica told in err, 0 where it told none.
func epochOf(err error) uint64 {
	var stale *coord.StaleRingError
	if errors.As(err, &stale) {
		return stale.Epoch
	}
	return 0
}

// errorOf is the error that a reply tells, nil for CODE_OK.
func errorOf(r *storagepb.Reply) error {
	var kinds []error
	switch r.Code {
	case storagepb.Code_CODE_OK:
		return nil
	case storagepb.Code_CODE_DISK_FULL:
		kinds = []error{coord.ErrDiskFull}
	case storagepb.Code_CODE_REFUSED:
		kinds = []error{coord.ErrReplicaRefused}
	case storagepb.Code_CODE_STALE_RING:
		kinds = []error{&coord.StaleRingError{Epoch: r.Epoch}}
	case storagepb.Code_CODE_CORRUPT:
		kinds = []error{coord.ErrReplicaUnavailable, coord.ErrCorrupt}
	default:
		kinds = []error{coord.ErrReplicaUnavailable}
	}
	text := kinds[0].Error()
	if r.Text != "" && utf8.ValidString(r.Text) {
		text = strings.Clone(r.Text)
	}
	return &callError{text: text, kinds: kinds}
}

func positionMessage(p *coord.Position) *storagepb.Position {
	if p == nil {
		return nil
	}
	return &storagepb.Position{Token: uint64(p.Token), Tenant: p.Tenant, Key: p.Key}
}

func position(m *storagepb.Position) *coord.Position {
	if m == nil {
		return nil
	}
	return &coord.Position{Token: ring.Token(m.Token), Tenant: m.Tenant, Key: m.Key}
}
