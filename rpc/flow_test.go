package rpc

import (
	"context"
	"testing"
	"testing/synctest"
)

// Answers that the reader sends itself are never sent beside others, and what
// becomes known meanwhile is sent after them, also at the end of the stream.
func TestReaderSendsWhatIsKnownAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f flow[int]
		f.open(100, 1<<20)
		var sent [][]int
		sending, proceed := make(chan struct{}), make(chan struct{})
		send := func(items []int) error {
			sent = append(sent, append([]int(nil), items...)) // the race detector sees two at once
			if len(sent) == 1 {
				close(sending)
				<-proceed
			}
			return nil
		}
		read, served := make(chan error, 1), make(chan error, 1)
		go func() { served <- f.serve(context.Background(), endings{read: read}, send) }()

		f.admit(3, 3)
		go func() {
			f.hold()
			f.done(1, 1, 1, nil)
			f.done(2, 1, 1, nil)
			err := f.let(send)
			read <- err
		}()
		<-sending
		f.done(3, 1, 1, nil) // by another goroutine, while the reader writes
		synctest.Wait()
		if len(sent) != 1 {
			t.Fatalf("sent %v while the reader is at it", sent)
		}
		close(proceed)
		if err := <-served; err != nil {
			t.Fatal(err)
		}
		if len(sent) != 2 || len(sent[0]) != 2 || len(sent[1]) != 1 || sent[1][0] != 3 {
			t.Errorf("sent %v, want the first two together, then the third", sent)
		}
		if f.underWay != 0 || f.bytes != 0 {
			t.Errorf("%d operations and %d bytes are still booked", f.underWay, f.bytes)
		}
	})
}

// A stream that ends while the reader writes ends after that.
func TestEndWaitsForTheReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f flow[int]
		f.open(100, 1<<20)
		sending, proceed := make(chan struct{}), make(chan struct{})
		stopping, served := make(chan struct{}), make(chan error, 1)
		sent := 0
		send := func([]int) error {
			if sent++; sent == 1 {
				close(sending)
				<-proceed
			}
			return nil
		}
		go func() {
			served <- f.serve(context.Background(), endings{stopping: stopping, stopped: errNodeStopping}, send)
		}()
		f.admit(2, 2)
		f.hold()
		f.done(1, 1, 1, nil)
		go f.let(send)
		<-sending
		close(stopping)
		synctest.Wait()
		f.done(2, 1, 1, nil)
		synctest.Wait()
		if sent != 1 {
			t.Error("serve sends beside the reader")
		}
		select {
		case err := <-served:
			t.Fatalf("ended with %v while the reader writes", err)
		default:
		}
		close(proceed)
		if err := <-served; err != errNodeStopping {
			t.Errorf("ended with %v, want %v", err, errNodeStopping)
		}
		if sent != 2 {
			t.Errorf("sent %d times, want what the reader had and what came after", sent)
		}
	})
}
