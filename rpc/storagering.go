package rpc

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ring"
	"github.com/pairdb/coordinator/rpc/storagepb"
)

// Heard is what the node has last said of its life and its clock. It says so
// with each answer, and at least each pingEvery.
func (c *StorageClient) Heard() (boot uint64, clock time.Duration) { return c.heard.last() }

// Adopt tells the node of a topology.
func (c *StorageClient) Adopt(ctx context.Context, epoch uint64, topology []byte) error {
	ctx, cancel := context.WithTimeout(ctx, maxUnaryTime)
	defer cancel()
	resp, err := c.stub.Adopt(ctx, &storagepb.AdoptRequest{Epoch: epoch, Topology: topology})
	if err != nil {
		return unaryError(ctx, "tell "+c.opts.name()+" of a topology", err)
	}
	return staleRing(c.opts.name(), resp.StaleEpoch)
}

// staleRing is how a node refused an epoch, nil where it did not.
func staleRing(name string, epoch uint64) error {
	if epoch == 0 {
		return nil
	}
	return fmt.Errorf("%s: %w", name, &coord.StaleRingError{Epoch: epoch})
}

// Sums adds up what the node holds in spans.
func (c *StorageClient) Sums(ctx context.Context, req coord.SumRequest) ([]coord.SpanSums, error) {
	ctx, cancel := context.WithTimeout(ctx, maxUnaryTime)
	defer cancel()
	if len(req.Spans) > coord.MaxSumSpans {
		return nil, unsent("sums of %s: %d spans, at most %d are accepted", c.opts.name(), len(req.Spans), coord.MaxSumSpans)
	}
	m := &storagepb.SumsRequest{Epoch: req.Epoch, Space: req.Space, Spans: make([]*storagepb.Span, len(req.Spans))}
	for i, span := range req.Spans {
		m.Spans[i] = spanMessage(span)
	}
	resp, err := c.stub.Sums(ctx, m)
	if err != nil {
		return nil, unaryError(ctx, "sums of "+c.opts.name(), err)
	}
	if err := staleRing(c.opts.name(), resp.StaleEpoch); err != nil {
		return nil, err
	}
	sums, err := readSums(resp, len(req.Spans))
	if err != nil {
		return nil, &callError{
			text:  fmt.Sprintf("sums of %s: %v", c.opts.name(), err),
			kinds: []error{coord.ErrReplicaUnavailable, coord.ErrCorrupt},
		}
	}
	return sums, nil
}

// Floors raises floors of the node, and returns all that it has.
func (c *StorageClient) Floors(ctx context.Context, epoch uint64, raise []coord.RangeFloor) ([]coord.RangeFloor, error) {
	ctx, cancel := context.WithTimeout(ctx, maxUnaryTime)
	defer cancel()
	resp, err := c.stub.Floors(ctx, &storagepb.FloorsRequest{Epoch: epoch, Raise: floorMessages(raise)})
	if err != nil {
		return nil, unaryError(ctx, "floors of "+c.opts.name(), err)
	}
	if err := staleRing(c.opts.name(), resp.StaleEpoch); err != nil {
		return nil, err
	}
	floors, err := readFloors(resp.Floors)
	if err != nil {
		return nil, &callError{
			text:  fmt.Sprintf("floors of %s: %v", c.opts.name(), err),
			kinds: []error{coord.ErrReplicaUnavailable, coord.ErrCorrupt},
		}
	}
	return floors, nil
}

func floorMessages(floors []coord.RangeFloor) []*storagepb.RangeFloor {
	messages := make([]*storagepb.RangeFloor, len(floors))
	for i, f := range floors {
		messages[i] = &storagepb.RangeFloor{Range: uint32(f.Range), Timestamp: f.Timestamp}
	}
	return messages
}

// readFloors reads floors of which each is of another range.
func readFloors(messages []*storagepb.RangeFloor) ([]coord.RangeFloor, error) {
	const ranges = 1 << coord.OwedRangeBits
	if len(messages) > ranges {
		return nil, fmt.Errorf("%w: floors of %d ranges, there are %d", coord.ErrCorrupt, len(messages), ranges)
	}
	floors := make([]coord.RangeFloor, len(messages))
	for i, m := range messages {
		if m.Range >= ranges || m.Timestamp <= 0 {
			return nil, fmt.Errorf("%w: floor %d of range %d, want one above 0 of a range below %d", coord.ErrCorrupt, m.Timestamp, m.Range, ranges)
		}
		floors[i] = coord.RangeFloor{Range: uint16(m.Range), Timestamp: m.Timestamp}
	}
	return floors, nil
}

// sumsMessage tells sums over the wire: each space is named once.
func sumsMessage(sums []coord.SpanSums) *storagepb.SumsResponse {
	resp := &storagepb.SumsResponse{Sums: make([]*storagepb.SpanSums, len(sums))}
	index := make(map[string]uint32)
	for i, spaces := range sums {
		m := &storagepb.SpanSums{
			Space: make([]uint32, len(spaces)), Keys: make([]int64, len(spaces)), Sum: make([]uint64, len(spaces)),
		}
		for j, s := range spaces {
			at, ok := index[s.Space]
			if !ok {
				at = uint32(len(resp.Spaces))
				index[s.Space] = at
				resp.Spaces = append(resp.Spaces, s.Space)
			}
			m.Space[j], m.Keys[j], m.Sum[j] = at, s.Keys, s.Sum
		}
		resp.Sums[i] = m
	}
	return resp
}

// readSums reads the sums of so many spans.
func readSums(resp *storagepb.SumsResponse, spans int) ([]coord.SpanSums, error) {
	if len(resp.Sums) != spans {
		return nil, fmt.Errorf("%w: sums of %d spans, want of %d", coord.ErrCorrupt, len(resp.Sums), spans)
	}
	names := make([]string, len(resp.Spaces))
	for i, space := range resp.Spaces {
		names[i] = strings.Clone(space) // must not keep the message in memory
	}
	sums := make([]coord.SpanSums, spans)
	for i, m := range resp.Sums {
		if len(m.Space) != len(m.Keys) || len(m.Space) != len(m.Sum) {
			return nil, fmt.Errorf("%w: span %d has %d spaces, %d counts and %d sums", coord.ErrCorrupt, i, len(m.Space), len(m.Keys), len(m.Sum))
		}
		sums[i] = make(coord.SpanSums, len(m.Space))
		for j, at := range m.Space {
			if uint64(at) >= uint64(len(names)) {
				return nil, fmt.Errorf("%w: span %d has space %d of %d", coord.ErrCorrupt, i, at, len(names))
			}
			sums[i][j] = coord.SpaceSum{Space: names[at], Keys: m.Keys[j], Sum: m.Sum[j]}
		}
	}
	return sums, nil
}

func spanMessage(s ring.Span) *storagepb.Span {
	return &storagepb.Span{First: uint64(s.First), Last: uint64(s.Last)}
}

// spanOf is the span of a message; none stands for all tokens.
func spanOf(m *storagepb.Span) ring.Span {
	if m == nil {
		return ring.Everything()
	}
	return ring.Span{First: ring.Token(m.First), Last: ring.Token(m.Last)}
}

// Adopt hands a topology to the replica.
func (s *storageService) Adopt(ctx context.Context, req *storagepb.AdoptRequest) (*storagepb.AdoptResponse, error) {
	if s.server.isStopping() {
		return nil, errStopping
	}
	ctx, cancel := context.WithTimeout(ctx, maxUnaryTime)
	defer cancel()
	if err := s.server.opts.Replica.Adopt(ctx, req.Epoch, req.Topology); err != nil {
		if epoch := epochOf(err); epoch != 0 {
			return &storagepb.AdoptResponse{StaleEpoch: epoch}, nil
		}
		return nil, unaryStatus(err)
	}
	return new(storagepb.AdoptResponse), nil
}

// Floors raises floors and tells all of them.
func (s *storageService) Floors(ctx context.Context, req *storagepb.FloorsRequest) (*storagepb.FloorsResponse, error) {
	if s.server.isStopping() {
		return nil, errStopping
	}
	raise, err := readFloors(req.Raise)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	ctx, cancel := context.WithTimeout(ctx, maxUnaryTime)
	defer cancel()
	floors, err := s.server.opts.Replica.Floors(ctx, req.Epoch, raise)
	if err != nil {
		if epoch := epochOf(err); epoch != 0 {
			return &storagepb.FloorsResponse{StaleEpoch: epoch}, nil
		}
		return nil, unaryStatus(err)
	}
	return &storagepb.FloorsResponse{Floors: floorMessages(floors)}, nil
}

// Sums adds up spans. It waits for its turn among the scans.
func (s *storageService) Sums(ctx context.Context, req *storagepb.SumsRequest) (*storagepb.SumsResponse, error) {
	if len(req.Spans) > coord.MaxSumSpans {
		return nil, status.Errorf(codes.InvalidArgument, "%d spans, at most %d are accepted", len(req.Spans), coord.MaxSumSpans)
	}
	ctx, cancel := context.WithTimeout(ctx, maxUnaryTime)
	defer cancel()
	end, err := s.server.beginScan(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	spans := make([]ring.Span, len(req.Spans))
	for i, m := range req.Spans {
		spans[i] = spanOf(m)
	}
	sums, err := s.server.opts.Replica.Sums(ctx, coord.SumRequest{Epoch: req.Epoch, Spans: spans, Space: req.Space})
	if err != nil {
		if epoch := epochOf(err); epoch != 0 {
			return &storagepb.SumsResponse{StaleEpoch: epoch}, nil
		}
		return nil, unaryStatus(err)
	}
	return sumsMessage(sums), nil
}

// beginScan waits for room for a scan, which end gives back.
func (s *StorageServer) beginScan(ctx context.Context) (end func(), err error) {
	select {
	case s.scans <- struct{}{}:
		return func() { <-s.scans }, nil
	case <-s.stopping:
		return nil, errStopping
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}
