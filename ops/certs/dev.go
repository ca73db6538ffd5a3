package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// CoordinatorName is the DNS name by which storage nodes know a coordinator's
// certificate.
const CoordinatorName = "coordinator"

// devValidity is how long certificates to try things with are valid.
const devValidity = 365 * 24 * time.Hour

// Dev are the files of a small authority and of certificates that it has
// signed, to try TLS with. Its key is forgotten, so that nobody can use it for
// more.
type Dev struct {
	CA                              string
	ServerCert, ServerKey           string // of a coordinator, towards clients
	CoordinatorCert, CoordinatorKey string // of a coordinator, towards storage nodes
	StorageCert, StorageKey         string // of a storage node; also to join with
	ClientCert, ClientKey           string // of an application or a person
}

// devFiles are the names in a directory.
func devFiles(dir string) Dev {
	at := func(name string) string { return filepath.Join(dir, name+".pem") }
	return Dev{
		CA:         at("ca"),
		ServerCert: at("server"), ServerKey: at("server-key"),
		CoordinatorCert: at("coordinator"), CoordinatorKey: at("coordinator-key"),
		StorageCert: at("storage"), StorageKey: at("storage-key"),
		ClientCert: at("client"), ClientKey: at("client-key"),
	}
}

// WriteDev makes an authority and certificates in dir, for this machine's
// loopback and for hosts, names or addresses. It writes over nothing.
func WriteDev(dir string, hosts []string) (Dev, error) {
	files := devFiles(dir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return files, fmt.Errorf("make certificates: %w", err)
	}
	ca, err := newAuthority()
	if err != nil {
		return files, fmt.Errorf("make certificates: %w", err)
	}
	local := append([]string{"localhost", "127.0.0.1", "::1"}, hosts...)
	server, client := x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth
	err = errors.Join(
		writeNew(files.CA, "CERTIFICATE", ca.cert.Raw, 0o644),
		ca.issue(files.ServerCert, files.ServerKey, "server", local, server),
		ca.issue(files.CoordinatorCert, files.CoordinatorKey, CoordinatorName, []string{CoordinatorName}, client),
		ca.issue(files.StorageCert, files.StorageKey, "storage", local, server, client),
		ca.issue(files.ClientCert, files.ClientKey, "client", []string{"client"}, client),
	)
	if err != nil {
		return files, fmt.Errorf("make certificates: %w", err)
	}
	return files, nil
}

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "PairDB dev authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(devValidity),
		KeyUsage: x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{cert, key}, err
}

// issue writes a certificate for hosts, and its key.
func (a *authority) issue(certFile, keyFile, name string, hosts []string, usage ...x509.ExtKeyUsage) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: name},
		NotBefore: a.cert.NotBefore, NotAfter: a.cert.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: usage,
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(writeNew(certFile, "CERTIFICATE", der, 0o644), writeNew(keyFile, "PRIVATE KEY", private, 0o600))
}

// serial is 127 random bits, as many as any reader takes.
func serial() *big.Int {
	var b [16]byte
	rand.Read(b[:])
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b[:])
}

// writeNew writes a PEM file that must not be there yet.
func writeNew(path, kind string, der []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	return errors.Join(pem.Encode(f, &pem.Block{Type: kind, Bytes: der}), f.Close())
}
