package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/pairdb/coordinator/rpc/storagepb"
)

// dispatcher secures connections as its credentials do and then hands those
// that begin with the greeting to take, so that frames and gRPC share an
// address. gRPC asks it on a goroutine of the connection's own, and bounds the
// time that it may wait.
type dispatcher struct {
	credentials.TransportCredentials
	take func(net.Conn)
}

// ServerHandshake is what gRPC calls for each connection.
func (d *dispatcher) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := d.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return nil, nil, err
	}
	begin := make([]byte, len(greetingMagic))
	if _, err := io.ReadFull(conn, begin); err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	if string(begin) != greetingMagic {
		return &resumed{Conn: conn, begin: begin}, info, nil
	}
	d.take(conn)
	return nil, nil, credentials.ErrConnDispatched
}

// Clone copies the credentials.
func (d *dispatcher) Clone() credentials.TransportCredentials {
	return &dispatcher{d.TransportCredentials.Clone(), d.take}
}

// resumed is a connection whose first bytes were read already.
type resumed struct {
	net.Conn
	begin []byte
}

func (c *resumed) Read(p []byte) (int, error) {
	if len(c.begin) > 0 {
		n := copy(p, c.begin)
		c.begin = c.begin[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// dialFrames connects to a node, greets it and reads its hello. The connection is
// paced with those that share traffic. They speak the
// highest version of the protocol that both know.
func dialFrames(ctx context.Context, opts *StorageOptions, traffic *traffic) (f *frames, hello *storagepb.Hello, err error) {
	f, hello, err = greetNode(ctx, opts, traffic, opts.speaks)
	if !refusedGreeting(err) {
		return f, hello, err
	}
	if opts.speaks.lowest == greetingSimple && opts.speaks.highest > greetingSimple {
		f, hello, err = greetNode(ctx, opts, traffic, speech{greetingSimple, greetingSimple})
	}
	if refusedGreeting(err) {
		err = fmt.Errorf("%w: this coordinator speaks %v: %w", errProtocol, opts.speaks, err)
	}
	return f, hello, err
}

func greetNode(ctx context.Context, opts *StorageOptions, traffic *traffic, offer speech) (f *frames, hello *storagepb.Hello, err error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := opts.Dial(ctx, opts.Address)
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		if err != nil {
			_ = conn.Close()
			if cause := ctx.Err(); cause != nil {
				err = cause
			}
		}
		stop()
	}()
	secured, _, err := opts.TLS.ClientHandshake(ctx, opts.Address, paced(quick(conn), traffic))
	if err != nil {
		return nil, nil, err
	}
	if _, err := secured.Write(offer.greeting()); err != nil {
		return nil, nil, err
	}
	f = newFrames(secured)
	kind, payload, err := f.next()
	if err != nil {
		return nil, nil, err
	}
	hello = new(storagepb.Hello)
	switch {
	case kind == frameBye:
		return nil, nil, &byeError{text(payload)}
	case kind != frameHello || len(payload) > maxHello || hello.UnmarshalVTUnsafe(payload) != nil:
		return nil, nil, fmt.Errorf("%w instead of a hello", errCorruptFrame)
	case offer.highest == greetingSimple:
		f.protocol = greetingSimple
	case hello.Protocol < uint32(offer.lowest) || hello.Protocol > uint32(offer.highest):
		return nil, nil, fmt.Errorf("%w: the node chose version %d, and was offered %v", errProtocol, hello.Protocol, offer)
	default:
		f.protocol = byte(hello.Protocol)
	}
	return f, hello, nil
}

// answerGreeting reads what is left of a greeting and answers it with a hello.
func answerGreeting(conn net.Conn, speaks speech, hello func() (*storagepb.Hello, error)) (*frames, error) {
	if err := conn.SetDeadline(time.Now().Add(connectTimeout)); err != nil {
		return nil, err
	}
	f := newFrames(conn)
	version, err := speaks.agree(conn)
	if err != nil {
		return nil, f.refuse(err)
	}
	m, err := hello()
	if err != nil {
		return nil, f.refuse(err)
	}
	f.protocol = version
	if version > greetingSimple {
		m.Protocol = uint32(version)
	}
	if err := f.send(frameHello, m); err != nil {
		return nil, err
	}
	return f, conn.SetDeadline(time.Time{})
}

// refuse tells the other side why nothing more comes.
func (f *frames) refuse(cause error) error {
	_, why := codeOf(cause)
	return errors.Join(cause, f.sendText(frameBye, why))
}

// maxHello bounds a hello, in bytes.
const maxHello = 4 << 10

// text is what a frame says, fit for an error.
func text(payload []byte) string {
	return strings.ToValidUTF8(string(payload[:min(len(payload), maxErrorText)]), "")
}
