package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/rpc"
	"github.com/pairdb/coordinator/rpc/client"
)

// coordinator serves e for an example, in place of a running coordinator.
func coordinator(e *engine) (address string, stop func()) {
	server, err := rpc.NewServer(rpc.Options{Engine: e})
	if err != nil {
		panic(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(lis) })
	return lis.Addr().String(), func() {
		_ = server.Stop(context.Background())
		serving.Wait()
	}
}

func Example() {
	address, stop := coordinator(newEngine())
	defer stop()

	c, err := client.Dial(address, client.Options{Tenant: "shop"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()

	if err := c.Put(ctx, "cart/17", []byte("2 apples")); err != nil {
		fmt.Println(err)
		return
	}
	value, err := c.Get(ctx, "cart/17")
	fmt.Printf("%s %v\n", value, err)

	err = c.Delete(ctx, "cart/17")
	fmt.Println(err)
	_, err = c.Get(ctx, "cart/17")
	fmt.Println(errors.Is(err, client.ErrKeyNotFound))
	// Output:
	// 2 apples <nil>
	// <nil>
	// true
}

// One client serves many goroutines; what they ask for at the same time travels
// together.
func ExampleClient_Put_concurrent() {
	address, stop := coordinator(newEngine())
	defer stop()
	c, err := client.Dial(address, client.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var puts sync.WaitGroup
	for i := range 1000 {
		puts.Go(func() {
			if err := c.Put(ctx, fmt.Sprint("key-", i), []byte("value")); err != nil {
				fmt.Println(err)
			}
		})
	}
	puts.Wait()
	value, err := c.Get(ctx, "key-999")
	fmt.Printf("%s %v\n", value, err)
	// Output: value <nil>
}

// With IdempotentWrites a write whose answer is lost is sent again, and takes
// effect once.
func ExampleOptions_idempotentWrites() {
	e := newEngine()
	answers := 0
	e.after = func(string) error {
		if answers++; answers == 1 {
			return &coord.WriteError{Outcome: coord.InDoubt, Err: coord.ErrNoQuorum}
		}
		return nil
	}
	address, stop := coordinator(e)
	defer stop()
	c, err := client.Dial(address, client.Options{IdempotentWrites: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	written, err := c.Write(ctx, client.WriteRequest{Key: "balance", Value: []byte("100"), Level: client.Quorum})
	fmt.Println(written.Duplicate, written.Replicas, err)
	// Output: true 2 <nil>
}

// An error tells its kind, and of a write whether it may have taken effect.
func ExampleError() {
	e := newEngine()
	e.before = func(bool, bool, string) error {
		return &coord.WriteError{Outcome: coord.InDoubt, Err: fmt.Errorf("write: %w", coord.ErrNoQuorum)}
	}
	address, stop := coordinator(e)
	defer stop()
	c, err := client.Dial(address, client.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err = c.Put(ctx, "balance", []byte("100"))
	var failed *client.Error
	switch {
	case err == nil:
		fmt.Println("stored")
	case errors.As(err, &failed) && failed.Outcome == client.NotApplied:
		fmt.Println("not stored:", err)
	case errors.Is(err, client.ErrQuorumNotReached):
		fmt.Println("perhaps stored:", err)
	}
	// Output: perhaps stored: write: quorum not reached (QUORUM_NOT_REACHED), in_doubt
}
