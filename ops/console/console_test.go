package console

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ops/health"
	"github.com/pairdb/coordinator/ops/metrics"
	"github.com/pairdb/coordinator/ring"
	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// aTrace is of a hedged read.
var aTrace = &pb.Trace{Version: "7@coordinator-1/1{coordinator-1:1}", LeftOut: 2, Steps: []*pb.TraceStep{
	{Kind: "skip", NodeId: "storage-4", Error: "refused"},
	{AtUs: 10, Kind: "send", NodeId: "storage-1", What: "read"}, {AtUs: 20, Kind: "send", NodeId: "storage-2", What: "read", Hedge: true},
	{AtUs: 300, Kind: "reply", NodeId: "storage-2", What: "read", Relation: "same", Version: "v"}, {AtUs: 310, Kind: "answer"},
}}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// engine is what a test has the console show.
type engine struct {
	status  coord.Status
	copies  []coord.Copy
	explain coord.Explanation
	err     error
	read    coord.ReadRequest // the last one
	readErr error
}

func (e *engine) Status(context.Context) coord.Status { return e.status }
func (e *engine) Counters() coord.Counters            { return coord.Counters{HintsReplayed: 3, HintsGivenUp: 4} }
func (e *engine) Explain(_ context.Context, tenant, key string, _ coord.Level) (coord.Explanation, error) {
	if tenant != "shop" || key != "cart" {
		return coord.Explanation{}, fmt.Errorf("%w: %q", coord.ErrTenantNotFound, tenant)
	}
	return e.explain, e.err
}
func (e *engine) Inspect(context.Context, string, string) ([]coord.Copy, error) {
	return e.copies, e.err
}

func (e *engine) Read(_ context.Context, r coord.ReadRequest) (coord.ReadResult, error) {
	e.read = r
	return coord.ReadResult{}, e.readErr
}

func threeNodes() *engine {
	e := &engine{status: coord.Status{NodeID: "coordinator-1", Epoch: 3, InFlight: 2, StartedAt: time.Unix(1000, 0)}}
	for i := range 3 {
		e.status.Nodes = append(e.status.Nodes, coord.NodeState{StorageNode: coord.StorageNode{
			ID: fmt.Sprintf("storage-%d", i+1), Host: "10.0.0.1", Port: 7000 + i, VirtualNodes: 150, Status: coord.NodeActive,
		}})
	}
	e.status.Nodes[1].Unavailable = errors.New("connection refused")
	e.status.Nodes[1].Debt = coord.Debt{Hints: 7, Bytes: 700, Oldest: time.Now().Add(-time.Minute), OwedRanges: 2}
	return e
}

func options() Options {
	h := health.New()
	h.Opened()
	h.RingLoaded()
	return Options{Version: "1.2.3", Metrics: metrics.New("", ""), Health: h, Requests: new(Requests), ShowKeys: true,
		TraceMessage: func(*coord.Trace) *pb.Trace { return aTrace }}
}

// serve serves a console until the test ends.
func serve(t *testing.T, o Options, e *engine) (base string, c *Console) {
	t.Helper()
	c = New(o)
	if e != nil {
		c.Attach(e)
	}
	server := httptest.NewServer(c)
	t.Cleanup(func() {
		c.Close()
		server.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	return server.URL, c
}

// follow opens a stream and returns what reads its next state.
func follow(t *testing.T, base, token string) func() state {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+"/console/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("events: %s", response.Status)
	}
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 1<<20)
	return func() state {
		t.Helper()
		for lines.Scan() {
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				var s state
				if err := json.Unmarshal([]byte(data), &s); err != nil {
					t.Fatal(err)
				}
				return s
			}
		}
		t.Fatalf("the stream ended: %v", lines.Err())
		return state{}
	}
}

func TestPageNeedsNothingFromElsewhere(t *testing.T) {
	base, _ := serve(t, options(), nil)
	for path, holds := range map[string]string{
		"/": "/console/app.js", "/console/app.js": "/console/draw.js", "/console/draw.js": "export", "/console/style.css": "prefers-color-scheme: dark",
	} {
		response, err := http.Get(base + path)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode != http.StatusOK || !strings.Contains(string(text), holds) {
			t.Errorf("%s: %s, %v", path, response.Status, err)
		}
		policy := response.Header.Get("Content-Security-Policy")
		if !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") {
			t.Errorf("%s has policy %q", path, policy)
		}
		for _, foreign := range []string{"https://", "innerHTML", "style=\"", "onclick"} {
			if strings.Contains(string(text), foreign) {
				t.Errorf("%s holds %s", path, foreign)
			}
		}
	}
}

func TestStreamTellsTheState(t *testing.T) {
	o, e := options(), threeNodes()
	o.Metrics.Request("ReadKeyValue", codes.OK, time.Millisecond)
	o.Metrics.TenantRequest("shop", false, codes.OK, time.Millisecond)
	o.Metrics.Events().ReplicaCall("storage-1", coord.CallRead, time.Millisecond, nil)
	o.Migrations = func() []metrics.Migration {
		return []metrics.Migration{{ID: "m1", Type: "node_addition", Moved: 3, Keys: 10}}
	}
	o.Requests.Add(Request{At: time.Unix(1, 0), Operation: "read", Tenant: "shop", Key: "cart", Code: "Unavailable", Took: time.Second, Err: errors.New("no quorum")})
	base, _ := serve(t, o, e)
	next := follow(t, base, "")
	s := next()
	if s.NodeID != "coordinator-1" || s.Version != "1.2.3" || !s.Ready || s.InFlight != 2 || !s.ShowsKeys || s.HintsReplayed != 3 || s.HintsGivenUp != 4 {
		t.Errorf("got %+v", s)
	}
	down := s.Nodes[1]
	if down.Up || down.Reason != "connection refused" || down.Hints != 7 || down.HintBytes != 700 || down.Owed != 2 || down.OldestSeconds < 59 || down.Address != "10.0.0.1:7001" {
		t.Errorf("the node that is down: %+v", down)
	}
	if up := s.Nodes[0]; !up.Up || total(up.Calls) != 1 || total(s.Reads) != 1 || total(s.Writes) != 0 {
		t.Errorf("the node that is up: %+v", up)
	}
	if len(s.Tenants) != 1 || s.Tenants[0] != (shownTenant{ID: "shop", Reads: 1}) {
		t.Errorf("tenants %+v", s.Tenants)
	}
	if len(s.Migrations) != 1 || s.Migrations[0] != (shownMigration{"m1", "node_addition", 3, 10}) {
		t.Errorf("migrations %+v", s.Migrations)
	}
	if len(s.Requests) != 1 || s.Requests[0].Key != "cart" || s.Requests[0].Error != "no quorum" || s.Requests[0].TookMillis != 1000 {
		t.Errorf("requests %+v", s.Requests)
	}
	if s.Ring == nil || len(s.Ring.Ends) != 450 {
		t.Fatalf("ring %+v", s.Ring)
	}
	// What has not changed is not sent again.
	if s = next(); s.Ring != nil || s.Requests != nil {
		t.Errorf("sent again: ring %v, requests %v", s.Ring, s.Requests)
	}
}

func total(buckets []uint64) (n uint64) {
	for _, b := range buckets {
		n += b
	}
	return n
}

func TestClosedConsoleEndsItsStreams(t *testing.T) {
	base, c := serve(t, options(), threeNodes())
	next := follow(t, base, "")
	next()
	response, err := http.Get(base + "/console/events")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	c.Close()
	if _, err := io.ReadAll(response.Body); err != nil {
		t.Errorf("the stream did not end in good order: %v", err)
	}
}

func TestStreamsAreBounded(t *testing.T) {
	base, _ := serve(t, options(), threeNodes())
	for range maxStreams {
		follow(t, base, "")()
	}
	response, err := http.Get(base + "/console/events")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("one stream too many: %s", response.Status)
	}
}

// ask asks about a key.
func ask(t *testing.T, base, contentType, body string) (int, string) {
	t.Helper()
	response, err := http.Post(base+"/console/key", contentType, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

func TestKeyIsShownOnEachReplica(t *testing.T) {
	e := threeNodes()
	writer := coord.Writer{ID: "coordinator-1", Incarnation: 2}
	clock := coord.Clock{{ID: "coordinator-1", Counter: 4}}
	e.explain = coord.Explanation{Token: 1 << 63, ReplicationFactor: 5, Replicas: []coord.ExplainedReplica{
		{Node: coord.StorageNode{ID: "storage-2"}, Place: 2}, {Node: coord.StorageNode{ID: "storage-1"}, Place: 1, Standing: coord.Down}}}
	e.copies = []coord.Copy{
		{Node: "a", Version: coord.Version{Head: coord.Head{Timestamp: 1795626910187539238, Writer: writer, Clock: clock}, Value: []byte("grüß dich")}, Greatest: true, Took: 1500 * time.Microsecond},
		{Node: "b", Version: coord.Version{Head: coord.Head{Timestamp: 5, Writer: writer, Clock: clock}, Value: []byte{0, 255}}, Relation: coord.Before},
		{Node: "c", Version: coord.Version{Head: coord.Head{Timestamp: 6, Writer: writer, Clock: clock, Tombstone: true}}, Relation: coord.Concurrent},
		{Node: "d"},
		{Node: "e", Err: errors.New("connection refused")},
	}
	base, _ := serve(t, options(), e)
	status, text := ask(t, base, "application/json", `{"tenant":"shop","key":"cart"}`)
	var got keyAnswer
	if err := json.Unmarshal([]byte(text), &got); err != nil || status != http.StatusOK {
		t.Fatalf("%d %s: %v", status, text, err)
	}
	if got.Place != 0.5 || got.Token != "8000000000000000" || got.Factor != 5 || got.Replicas[1] != (shownReplica{"storage-1", 1, "down"}) {
		t.Errorf("got %+v", got)
	}
	want := []shownCopy{
		{Node: "a", TookMillis: 1.5, Held: "value", Value: "grüß dich", Size: 11, Timestamp: 1795626910187539238,
			UpdatedAt: "2026-11-25T17:15:10.187539238Z", Writer: "coordinator-1/2", Clock: "{coordinator-1:4}", Relation: "greatest"},
		{Node: "b", Held: "value", Value: "00ff", Binary: true, Size: 2, Timestamp: 5, UpdatedAt: "1970-01-01T00:00:00.000000005Z",
			Writer: "coordinator-1/2", Clock: "{coordinator-1:4}", Relation: "outdated"},
		{Node: "c", Held: "deleted", Timestamp: 6, UpdatedAt: "1970-01-01T00:00:00.000000006Z",
			Writer: "coordinator-1/2", Clock: "{coordinator-1:4}", Relation: "concurrent"},
		{Node: "d", Held: "absent"},
		{Node: "e", Error: "connection refused"},
	}
	for i := range want {
		if got.Copies[i] != want[i] {
			t.Errorf("copy %d: %+v\nwant %+v", i, got.Copies[i], want[i])
		}
	}
}

func TestBadQuestionsAboutKeys(t *testing.T) {
	base, _ := serve(t, options(), threeNodes())
	for _, test := range []struct {
		contentType, body string
		status            int
		says              string
	}{
		{"application/json", `{"tenant":"nobody","key":"k"}`, 404, "nobody"},
		{"application/json", `{"tenant":"","key":"k"}`, 400, "want a tenant"},
		{"application/json", `{"tenant":"a:b","key":"k"}`, 400, "without a colon"},
		{"application/json", `{"tenant":"t"`, 400, "not JSON"},
		{"application/json", `{"tenant":"` + strings.Repeat("t", maxRequestBytes) + `"}`, 400, "at most"},
		{"text/plain", `{"tenant":"shop","key":"cart"}`, 415, "want application/json"},
	} {
		if status, text := ask(t, base, test.contentType, test.body); status != test.status || !strings.Contains(text, test.says) {
			t.Errorf("%.60s: %d %.200s, want %d with %q", test.body, status, text, test.status, test.says)
		}
	}
}

// Without authentication keys and values stay where they are, except with -dev.
func TestKeysAreHiddenFromStrangers(t *testing.T) {
	o, e := options(), threeNodes()
	o.ShowKeys = false
	o.Requests.Add(Request{Operation: "read", Tenant: "shop", Key: "secret-key", Code: "Unavailable", Err: errors.New("read secret-key: no quorum")})
	base, _ := serve(t, o, e)
	if status, text := ask(t, base, "application/json", `{"tenant":"shop","key":"cart"}`); status != http.StatusForbidden {
		t.Errorf("a key: %d %s", status, text)
	}
	s := follow(t, base, "")()
	if s.ShowsKeys || len(s.Requests) != 1 || s.Requests[0].Key != "" || s.Requests[0].Error != "" || s.Requests[0].Tenant != "shop" {
		t.Errorf("shows keys: %t, requests %+v", s.ShowsKeys, s.Requests)
	}
}

// A site whose name has been made to lead to this machine gets nothing where
// nobody is asked for a token.
func TestOtherSitesNamesGetNothing(t *testing.T) {
	o := options()
	o.Authorize, o.ShowKeys = nil, true
	c := New(o)
	t.Cleanup(c.Close)
	c.Attach(threeNodes())
	for host, want := range map[string]int{
		"127.0.0.1:9090": http.StatusOK, "localhost:9090": http.StatusOK, "LOCALHOST": http.StatusOK, "[::1]:9090": http.StatusOK,
		"10.1.2.3": http.StatusOK, "rebound.example:9090": http.StatusForbidden, "localhost.rebound.example": http.StatusForbidden, "": http.StatusForbidden,
	} {
		r := httptest.NewRequest(http.MethodPost, "/console/key", strings.NewReader(`{"tenant":"shop","key":"cart"}`))
		r.Host = host
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		c.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("at %q: %d %s, want %d", host, w.Code, w.Body, want)
		}
	}
}

func TestAuthorization(t *testing.T) {
	o := options()
	o.ShowKeys = false
	o.Authorize = func(r *http.Request) error {
		switch r.Header.Get("Authorization") {
		case "Bearer admin":
			return nil
		case "Bearer user":
			return fmt.Errorf("%w: the role admin is needed", ErrForbidden)
		}
		return errors.New("a token is needed")
	}
	base, _ := serve(t, o, threeNodes())
	for token, want := range map[string]int{"": 401, "user": 403} {
		for _, path := range []string{"GET /console/events", "POST /console/key", "POST /console/trace"} {
			method, path, _ := strings.Cut(path, " ")
			request, err := http.NewRequestWithContext(t.Context(), method, base+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Authorization", "Bearer "+token)
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			if response.StatusCode != want {
				t.Errorf("%s %s with token %q: %s", method, path, token, response.Status)
			}
		}
	}
	if s := follow(t, base, "admin")(); !s.ShowsKeys {
		t.Error("an administrator sees no keys")
	}
	// The page itself tells nothing, and asks for the token.
	response, err := http.Get(base + "/")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("the page: %s", response.Status)
	}
}

func TestBeforeThereIsAnEngine(t *testing.T) {
	base, c := serve(t, options(), nil)
	response, err := http.Get(base + "/console/events")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("events: %s", response.Status)
	}
	c.Attach(threeNodes())
	follow(t, base, "")()
}

func TestLatestRequestsAreKept(t *testing.T) {
	r := new(Requests)
	for i := range maxRequests + 10 {
		r.Add(Request{Operation: fmt.Sprint(i), Key: strings.Repeat("k", 1000), Err: errors.New(strings.Repeat("ü", 1000))})
	}
	seen, latest := r.since(0)
	if seen != maxRequests+10 || len(latest) != maxRequests || latest[0].Operation != fmt.Sprint(maxRequests+9) || latest[maxRequests-1].Operation != "10" {
		t.Errorf("seen %d, %d kept, from %s to %s", seen, len(latest), latest[0].Operation, latest[len(latest)-1].Operation)
	}
	if len(latest[0].Key) > maxKeyBytes+4 || len(latest[0].Error) > maxErrorBytes+4 {
		t.Errorf("kept %d bytes of a key and %d of an error", len(latest[0].Key), len(latest[0].Error))
	}
	if _, none := r.since(seen); none != nil {
		t.Errorf("new since the last: %v", none)
	}
	r.Add(Request{Operation: "new"})
	if _, one := r.since(seen); len(one) != 1 || one[0].Operation != "new" {
		t.Errorf("new since the last: %v", one)
	}
}

// The arcs are where keys live: the owner of the arc of a token is its first replica.
func TestRingPictureAgreesWithTheRing(t *testing.T) {
	status := threeNodes().status
	shown := draw(status)
	topology := coord.Topology{Epoch: 3, Nodes: []coord.StorageNode{status.Nodes[0].StorageNode, status.Nodes[1].StorageNode, status.Nodes[2].StorageNode}}
	r, err := topology.Ring()
	if err != nil {
		t.Fatal(err)
	}
	owner := func(place float64) string {
		for i, end := range shown.Ends {
			if place <= end {
				return shown.Nodes[shown.Owner[i]]
			}
		}
		return shown.Nodes[shown.Owner[0]]
	}
	count := map[string]int{}
	const keys = 3000
	for i := range keys {
		token := ring.KeyToken("t", fmt.Sprint(i))
		want := r.Nodes()[r.Replicas(nil, token, 1)[0]].ID
		if got := owner(fraction(token)); got != want {
			t.Fatalf("token %x is drawn on %s, and lives on %s", uint64(token), got, want)
		}
		count[want]++
	}
	sum := 0.0
	for i, share := range shown.Share {
		sum += share
		if got := float64(count[shown.Nodes[i]]) / keys; math.Abs(got-share) > 0.04 {
			t.Errorf("%s has a share of %.3f, and %.3f of the keys", shown.Nodes[i], share, got)
		}
	}
	if math.Abs(sum-1) > 1e-9 {
		t.Errorf("shares come to %v", sum)
	}
}

func TestLargeRingIsShownByItsShares(t *testing.T) {
	status := coord.Status{}
	for i := range 3 {
		status.Nodes = append(status.Nodes, coord.NodeState{StorageNode: coord.StorageNode{ID: fmt.Sprint(i), VirtualNodes: maxArcs, Status: coord.NodeActive}})
	}
	status.Nodes[2].Status = coord.NodeDraining // not on the ring
	if shown := draw(status); len(shown.Nodes) != 2 || len(shown.Ends) != 2 || math.Abs(shown.Ends[1]-1) > 1e-9 {
		t.Errorf("got %+v", shown)
	}
}

func TestValuesAreCutAtACharacter(t *testing.T) {
	long := strings.Repeat("ü", maxShownBytes)
	text, binary := showValue([]byte("x" + long))
	if binary || !strings.HasSuffix(text, "ü…") || len(text) > maxShownBytes+4 {
		t.Errorf("binary %t, %d bytes, end %q", binary, len(text), text[len(text)-8:])
	}
}

// A traced read is shown step by step, whatever came of it.
func TestTracedRead(t *testing.T) {
	for name, c := range map[string]struct {
		err   error
		found bool
		shown string
	}{
		"found":  {nil, true, ""},
		"absent": {coord.ErrKeyNotFound, false, ""},
		"failed": {errors.New("1 of 2 replicas answered"), false, "1 of 2 replicas answered"},
	} {
		t.Run(name, func(t *testing.T) {
			e := threeNodes()
			e.readErr = c.err
			base, _ := serve(t, options(), e)
			response, err := http.Post(base+"/console/trace", "application/json", strings.NewReader(`{"tenant":"shop","key":"cart","consistency":"all"}`))
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			var got traceAnswer
			if err := json.NewDecoder(response.Body).Decode(&got); err != nil || response.StatusCode != http.StatusOK {
				t.Fatalf("%s: %v", response.Status, err)
			}
			if r := e.read; r.Tenant != "shop" || r.Key != "cart" || r.Level != coord.All || r.Trace == nil || r.Deadline.IsZero() {
				t.Errorf("read %+v", r)
			}
			if got.Found != c.found || got.Error != c.shown || got.Version != aTrace.Version || got.LeftOut != 2 || got.EndMicros != 310 || len(got.Rows) != 4 {
				t.Errorf("got %+v", got)
			}
			if r := got.Rows; len(r) == 4 && (!r[0].Skipped || !r[1].Open || !r[2].Hedge || r[2].From != 20 || r[2].To != 300 || r[3].What != "answer") {
				t.Errorf("rows %+v", r)
			}
		})
	}
	base, _ := serve(t, options(), threeNodes())
	response, err := http.Post(base+"/console/trace", "application/json", strings.NewReader(`{"tenant":"shop","key":"cart","consistency":"most"}`))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusBadRequest {
		t.Errorf("an unknown level: %s", response.Status)
	}
}
