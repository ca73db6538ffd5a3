package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func makeDev(t *testing.T) Dev {
	t.Helper()
	d, err := WriteDev(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// echo serves what it is sent back, and returns its address.
func echo(t *testing.T, c *Credentials) string {
	t.Helper()
	lis := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	t.Cleanup(func() { lis.Close() })
	go func() {
		for {
			raw, err := lis.Accept()
			if err != nil {
				return
			}
			go func() {
				defer raw.Close()
				conn, _, err := c.ServerHandshake(raw)
				if err != nil {
					// Closing what was not read would be a reset, and that can
					// overtake the reason that the client is to read.
					io.Copy(io.Discard, raw)
					return
				}
				io.Copy(conn, conn)
			}()
		}
	}()
	return lis.Addr().String()
}

// connect connects and has a byte echoed: with TLS 1.3 a server's refusal of a
// client's certificate only shows when the client reads.
func connect(t *testing.T, c *Credentials, address string) (net.Conn, error) {
	t.Helper()
	raw := must(net.Dial("tcp", address))(t)
	t.Cleanup(func() { raw.Close() })
	raw.SetDeadline(time.Now().Add(10 * time.Second))
	conn, _, err := c.ClientHandshake(context.Background(), address, raw)
	if err != nil {
		return nil, err
	}
	return conn, ping(conn)
}

func ping(conn net.Conn) error {
	if _, err := conn.Write([]byte("x")); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, 1))
	return err
}

func TestWhoMayConnect(t *testing.T) {
	ours, others := makeDev(t), makeDev(t)
	storage := must(NewServer(Files{Cert: ours.StorageCert, Key: ours.StorageKey, CA: ours.CA, Names: []string{CoordinatorName}}))(t)
	anyone := must(NewServer(Files{Cert: ours.ServerCert, Key: ours.ServerKey}))(t)
	atStorage, atAnyone := echo(t, storage), echo(t, anyone)
	for name, c := range map[string]struct {
		address string
		client  Files
		fault   string // empty: may connect
	}{
		"coordinator to storage":          {atStorage, Files{CA: ours.CA, Cert: ours.CoordinatorCert, Key: ours.CoordinatorKey}, ""},
		"application to storage":          {atStorage, Files{CA: ours.CA, Cert: ours.ClientCert, Key: ours.ClientKey}, "bad certificate"},
		"storage node to storage":         {atStorage, Files{CA: ours.CA, Cert: ours.StorageCert, Key: ours.StorageKey}, "bad certificate"},
		"server's certificate to storage": {atStorage, Files{CA: ours.CA, Cert: ours.ServerCert, Key: ours.ServerKey}, "bad certificate"},
		"nobody to storage":               {atStorage, Files{CA: ours.CA}, "certificate required"},
		"another's coordinator":           {atStorage, Files{CA: ours.CA, Cert: others.CoordinatorCert, Key: others.CoordinatorKey}, "unknown certificate authority"},
		"anyone to a server without CA":   {atAnyone, Files{CA: ours.CA}, ""},
		"a server that is not trusted":    {atAnyone, Files{CA: others.CA}, "signed by unknown authority"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := connect(t, must(NewClient(c.client))(t), c.address)
			if c.fault == "" && err != nil || c.fault != "" && (err == nil || !strings.Contains(err.Error(), c.fault)) {
				t.Errorf("got %v, want %q", err, c.fault)
			}
		})
	}
}

func TestOldProtocolIsRefused(t *testing.T) {
	d := makeDev(t)
	address := echo(t, must(NewServer(Files{Cert: d.ServerCert, Key: d.ServerKey}))(t))
	for version, ok := range map[uint16]bool{tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		conn, err := tls.Dial("tcp", address, &tls.Config{
			InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: version, NextProtos: []string{"h2"},
		})
		if err == nil {
			conn.Close()
		}
		if (err == nil) != ok {
			t.Errorf("version %#x: %v, want it to succeed: %v", version, err, ok)
		}
	}
}

func copyFile(t *testing.T, to, from string) {
	t.Helper()
	text := must(os.ReadFile(from))(t)
	// As a careful operator does it: no reader sees half a file.
	if err := errors.Join(os.WriteFile(to+".new", text, 0o600), os.Rename(to+".new", to)); err != nil {
		t.Fatal(err)
	}
}

// A watched server takes a new certificate and a new authority, keeps the old
// ones while the files are at fault, and drops no connection.
func TestReload(t *testing.T) {
	before, after := makeDev(t), makeDev(t)
	dir := t.TempDir()
	files := Files{Cert: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key"), CA: filepath.Join(dir, "ca")}
	copyFile(t, files.Cert, before.ServerCert)
	copyFile(t, files.Key, before.ServerKey)
	copyFile(t, files.CA, before.CA)
	server := must(NewServer(files))(t)
	address := echo(t, server)
	oldClient := must(NewClient(Files{CA: before.CA, Cert: before.ClientCert, Key: before.ClientKey}))(t)
	newClient := must(NewClient(Files{CA: after.CA, Cert: after.ClientCert, Key: after.ClientKey}))(t)

	loaded, failed := make(chan string, 8), make(chan error, 8)
	w := &Watcher{
		Interval: 5 * time.Millisecond,
		Loaded:   func(what string) { loaded <- what }, Failed: func(_ string, err error) { failed <- err },
	}
	w.Add("server.tls", server)
	ctx, stop := context.WithCancel(context.Background())
	ran := make(chan struct{})
	now := make(chan os.Signal, 1)
	go func() { defer close(ran); w.Run(ctx, now) }()
	defer func() { stop(); <-ran }()

	open, err := connect(t, oldClient, address)
	if err != nil {
		t.Fatal(err)
	}
	copyFile(t, files.Cert, after.ServerCert) // and not yet its key
	select {
	case err := <-failed:
		if !strings.Contains(err.Error(), files.Cert) {
			t.Errorf("the fault %v does not name the file", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("a certificate without its key was not noticed")
	}
	if _, err := connect(t, oldClient, address); err != nil {
		t.Errorf("while the files are at fault: %v", err)
	}
	copyFile(t, files.Key, after.ServerKey)
	copyFile(t, files.CA, after.CA)
	deadline := time.After(10 * time.Second)
	for {
		if _, err := connect(t, newClient, address); err == nil {
			break
		}
		select {
		case <-loaded:
		case <-deadline:
			t.Fatal("the new files were not read")
		}
	}
	if _, err := connect(t, oldClient, address); err == nil {
		t.Error("the old authority is still trusted")
	}
	if err := ping(open); err != nil {
		t.Errorf("a connection that was open: %v", err)
	}
	for len(loaded) > 0 {
		<-loaded
	}
	now <- os.Interrupt
	select {
	case <-loaded:
	case <-time.After(10 * time.Second):
		t.Error("a signal did not make it read the files")
	}
}

// A file that is replaced by one of the same size and time is a change.
func TestReloadOfAFileThatLooksTheSame(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	when := time.Unix(1, 0)
	write := func(text string) {
		t.Helper()
		if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chtimes(path, when, when)); err != nil {
			t.Fatal(err)
		}
	}
	write("before")
	w := &Watcher{}
	w.Add("key", source{path})
	var loaded int
	w.Loaded = func(string) { loaded++ }
	w.reload(false)
	if loaded != 0 {
		t.Error("what had not changed was read again")
	}
	write("behind")
	w.reload(false)
	if loaded != 1 {
		t.Errorf("loaded %d times, want once", loaded)
	}
}

// source is a file that is never at fault.
type source struct{ path string }

func (s source) Paths() []string { return []string{s.path} }
func (s source) Reload() error   { return nil }

func TestFaults(t *testing.T) {
	d := makeDev(t)
	for name, c := range map[string]struct {
		files Files
		fault string
	}{
		"no certificate":     {Files{CA: d.CA}, "needs a certificate"},
		"another's key":      {Files{Cert: d.ServerCert, Key: d.ClientKey}, d.ClientKey},
		"absent file":        {Files{Cert: d.ServerCert + "x", Key: d.ServerKey}, d.ServerCert + "x"},
		"authority is a key": {Files{Cert: d.ServerCert, Key: d.ServerKey, CA: d.ServerKey}, "holds no PEM certificate"},
		"a directory":        {Files{Cert: d.ServerCert, Key: filepath.Dir(d.ServerKey)}, "no regular file"},
	} {
		if _, err := NewServer(c.files); err == nil || !strings.Contains(err.Error(), c.fault) {
			t.Errorf("%s: %v, want %q", name, err, c.fault)
		}
	}
	if _, err := WriteDev(filepath.Dir(d.CA), nil); !errors.Is(err, os.ErrExist) {
		t.Errorf("files were written over: %v", err)
	}
	if info := must(os.Stat(d.ServerKey))(t); info.Mode().Perm() != 0o600 {
		t.Errorf("a key's mode is %v", info.Mode())
	}
}

func TestDialTLS(t *testing.T) {
	d := makeDev(t)
	lis := must(tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{must(tls.LoadX509KeyPair(d.ServerCert, d.ServerKey))(t)},
	}))(t)
	defer lis.Close()
	go func() {
		for {
			conn, err := lis.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(conn, conn); conn.Close() }()
		}
	}()
	conn, err := must(NewClient(Files{CA: d.CA}))(t).DialTLS(context.Background(), "tcp", lis.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := ping(conn); err != nil {
		t.Error(err)
	}
	_, err = must(NewClient(Files{CA: makeDev(t).CA}))(t).DialTLS(context.Background(), "tcp", lis.Addr().String())
	if unknown := (x509.UnknownAuthorityError{}); !errors.As(err, &unknown) {
		t.Errorf("a server of another authority: %v", err)
	}
}
