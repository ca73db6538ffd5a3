package rpc

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/pairdb/coordinator/coord"
)

// selfSigned is a certificate for 127.0.0.1, and who trusts it.
func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}, pool
}

func TestStorageOverTLS(t *testing.T) {
	certificate, pool := selfSigned(t)
	server, err := NewStorageServer(StorageServerOptions{
		Replica: newMemoryReplica(),
		TLS: credentials.NewTLS(&tls.Config{
			Certificates: []tls.Certificate{certificate}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop(testContext(t))
	lis := listen(t)
	go server.Serve(lis)
	connect := func(config *tls.Config) *StorageClient {
		client, err := DialStorage(StorageOptions{Address: lis.Addr().String(), NodeID: "storage-1", TLS: credentials.NewTLS(config)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { client.Close() })
		return client
	}

	client := connect(&tls.Config{RootCAs: pool, Certificates: []tls.Certificate{certificate}})
	eventually(t, "connected", func() bool { return client.Unavailable() == nil && client.large.unavailable() == nil })
	done := make(ended, 1)
	for _, size := range []int{100, largeValue + 1} {
		client.Do(applyCall("k", version(int64(size), make([]byte, size)), done))
		if c := done.wait(t); c.Err != nil || c.Held.Timestamp != int64(size) {
			t.Errorf("apply of %d bytes: %v, held %v", size, c.Err, &c.Held.Head)
		}
	}
	client.Do(readCall("k", 10*time.Second, done))
	if c := done.wait(t); c.Err != nil || len(c.Held.Value) != largeValue+1 {
		t.Errorf("read: %v, %d bytes", c.Err, len(c.Held.Value))
	}
	if d, err := client.Describe(testContext(t)); err != nil || d.ID != "storage-1" {
		t.Errorf("describe: %v, %v", d, err)
	}
	if _, err := client.Scan(testContext(t), coord.ScanRequest{Tenant: "t", Limit: 1}); err != nil {
		t.Errorf("scan: %v", err)
	}

	for want, config := range map[string]*tls.Config{
		"certificate":          {Certificates: []tls.Certificate{certificate}},
		"certificate required": {RootCAs: pool},
	} {
		stranger := connect(config)
		eventually(t, want, func() bool {
			err := stranger.Unavailable()
			return err != nil && strings.Contains(err.Error(), want)
		})
	}
}
