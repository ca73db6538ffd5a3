package rpc

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/rpc/coordinatorpb"
)

func keyVersion(key string, size int) coord.KeyVersion {
	head := coord.Head{Timestamp: 7, Writer: coord.Writer{ID: "c", Incarnation: 2}, Clock: clockOf("c", "d"), Expires: 9}
	return coord.KeyVersion{Key: key, Version: coord.Version{Head: head, Value: bytes.Repeat([]byte{'v'}, size)}}
}

// export reads a stream to its end, from a token on.
func export(t *testing.T, client coordinatorpb.CoordinatorServiceClient, token string) (keys []string, messages []*coordinatorpb.ExportVersionsResponse) {
	t.Helper()
	stream, err := client.ExportVersions(testContext(t), &coordinatorpb.ExportVersionsRequest{TenantId: "acme", ResumeToken: token})
	if err != nil {
		t.Fatal(err)
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return keys, messages
		}
		if err != nil {
			t.Fatal(err)
		}
		messages = append(messages, m)
		for _, v := range m.Versions {
			keys = append(keys, v.Key)
		}
	}
}

func TestExportVersions(t *testing.T) {
	var all []coord.KeyVersion
	for i := range 10 {
		all = append(all, keyVersion(fmt.Sprint(i), 300<<10))
	}
	all = append(all, keyVersion("large", MaxValueBytes))
	var from []coord.ExportRequest
	client := startClient(t, &script{export: func(r coord.ExportRequest, send func(coord.ExportPage) error) error {
		from = append(from, r)
		rest := all
		if r.After != nil {
			at := slices.IndexFunc(all, func(v coord.KeyVersion) bool { return v.Key == r.After.Key })
			rest = all[at+1:]
		}
		if err := send(coord.ExportPage{Versions: rest, Space: "acme\x013", After: &coord.Position{Token: 9, Tenant: "b"}}); err != nil {
			return err
		}
		return send(coord.ExportPage{Space: "acme\x013"})
	}})
	keys, messages := export(t, client, "")
	if len(keys) != len(all) || len(messages) < 5 {
		t.Fatalf("%d keys in %d messages", len(keys), len(messages))
	}
	for i, m := range messages {
		if size := m.SizeVT(); len(m.Versions) > 1 && size > 2*exportBytes {
			t.Errorf("message %d has %d bytes", i, size)
		}
		if last := i == len(messages)-1; (m.ResumeToken == "") != last {
			t.Errorf("message %d of %d has the token %q", i+1, len(messages), m.ResumeToken)
		}
	}
	v := messages[0].Versions[0]
	head, rest, err := coord.DecodeHead(v.Head, nil)
	if want := all[0].Version; err != nil || len(rest) != 0 || head.String() != want.Head.String() || head.Expires != 9 || !bytes.Equal(v.Value, want.Value) {
		t.Errorf("exported %v, %v, want %v", &head, err, &want.Head)
	}
	// From each message on, those that come after it.
	got := 0
	for _, m := range messages[:3] {
		got += len(m.Versions)
		if keys, _ := export(t, client, m.ResumeToken); len(keys) != len(all)-got {
			t.Errorf("behind %d versions there are %d more, want %d", got, len(keys), len(all)-got)
		}
		if last := from[len(from)-1]; last.Space != "acme\x013" || last.After.Tenant != last.Space {
			t.Errorf("the engine was asked for %+v", last)
		}
	}
}

func TestExportTellsWhatFails(t *testing.T) {
	client := startClient(t, &script{export: func(_ coord.ExportRequest, send func(coord.ExportPage) error) error {
		if err := send(coord.ExportPage{Versions: []coord.KeyVersion{keyVersion("k", 1)}, After: &coord.Position{Token: 1}, Space: "acme"}); err != nil {
			return err
		}
		return fmt.Errorf("%w: tenant %q", coord.ErrTenantNotFound, "acme")
	}})
	stream, err := client.ExportVersions(testContext(t), &coordinatorpb.ExportVersionsRequest{TenantId: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := stream.Recv(); err != nil || len(m.Versions) != 1 {
		t.Fatalf("%v, %v", m, err)
	}
	_, err = stream.Recv()
	failureOf(t, err).want(t, codes.NotFound, "TENANT_NOT_FOUND", "")
}

func TestExportsAreBounded(t *testing.T) {
	going := make(chan struct{})
	begun := make(chan struct{}, maxExports)
	client := startClient(t, &script{export: func(_ coord.ExportRequest, send func(coord.ExportPage) error) error {
		begun <- struct{}{}
		<-going
		return send(coord.ExportPage{})
	}})
	var streams []coordinatorpb.CoordinatorService_ExportVersionsClient
	open := func() coordinatorpb.CoordinatorService_ExportVersionsClient {
		stream, err := client.ExportVersions(testContext(t), &coordinatorpb.ExportVersionsRequest{TenantId: "acme"})
		if err != nil {
			t.Fatal(err)
		}
		return stream
	}
	for range maxExports {
		streams = append(streams, open())
		<-begun
	}
	_, err := open().Recv()
	failureOf(t, err).want(t, codes.ResourceExhausted, "OVERLOADED", "not_applied")
	close(going)
	for _, s := range streams {
		if m, err := s.Recv(); err != nil || m.ResumeToken != "" {
			t.Errorf("%v, %v", m, err)
		}
		if _, err := s.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("got %v, want the end", err)
		}
	}
	if _, err := open().Recv(); err != nil {
		t.Errorf("after they have ended: %v", err)
	}
}

func TestImportVersions(t *testing.T) {
	var got []coord.KeyVersion
	client := startClient(t, &script{imports: func(tenant string, versions []coord.KeyVersion) (coord.ImportResult, error) {
		if tenant == "full" {
			return coord.ImportResult{}, fmt.Errorf("%w: no", coord.ErrNoQuorum)
		}
		got = versions
		return coord.ImportResult{Written: 1, Kept: 1}, nil
	}})
	req := &coordinatorpb.ImportVersionsRequest{TenantId: "acme"}
	want := []coord.KeyVersion{keyVersion("a", 0), keyVersion("b", 70_000)}
	for i := range want {
		req.Versions = append(req.Versions, &coordinatorpb.StoredVersion{
			Key: want[i].Key, Head: coord.AppendHead(nil, &want[i].Version.Head), Value: want[i].Version.Value,
		})
	}
	resp, err := client.ImportVersions(testContext(t), req)
	if err != nil || !resp.Success || resp.Written != 1 || resp.Kept != 1 {
		t.Fatalf("%v, %v", resp, err)
	}
	for i := range want {
		if g, w := got[i], want[i]; g.Key != w.Key || g.Version.String() != w.Version.String() || g.Version.Expires != w.Version.Expires || !bytes.Equal(g.Version.Value, w.Version.Value) {
			t.Errorf("the engine got %v, want %v", &g.Version.Head, &w.Version.Head)
		}
	}
	req.TenantId = "full"
	_, err = client.ImportVersions(testContext(t), req)
	failureOf(t, err).want(t, codes.Unavailable, "QUORUM_NOT_REACHED", "")
	req.Versions[1].Head[0] = 9
	_, err = client.ImportVersions(testContext(t), req)
	failureOf(t, err).want(t, codes.InvalidArgument, "INVALID_REQUEST", "")
	if err == nil || !strings.Contains(err.Error(), "versions[1]") {
		t.Errorf("a bad version is told as %v", err)
	}
}
