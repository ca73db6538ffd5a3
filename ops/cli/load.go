package cli

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"

	"github.com/pairdb/coordinator/rpc/client"
)

const (
	// maxLoadBytes bounds the values that load holds in memory.
	maxLoadBytes = 256 << 20
	// laneRecords is how many records wait for one of load's workers.
	laneRecords = 16
	// printedErrors is how many of load's errors are printed.
	printedErrors = 20
)

func loadCommand() command {
	return command{
		name: "load", args: "FILE", count: [2]int{1, 1}, summary: "Write the records of a file of JSON lines",
		details: `
FILE holds {"key":"...","value":"..."} or {"key":"...","value_base64":"..."}, one
a line; - is standard input. Where a key stands twice the later line wins. What
fails for want of a quorum or for overload is tried again; running load again
with the same file is safe as long as nobody else writes the same keys.`,
		flags: load,
	}
}

func load(fs *flag.FlagSet) action {
	concurrency := fs.Int("concurrency", 64, "requests under way at once")
	maxErrors := fs.Int64("max-errors", 1000, "stop after so many failed records; 0: never")
	return func(ctx context.Context, in *invocation) error {
		if *concurrency < 1 || *concurrency > 10_000 {
			return wrongUsage("-concurrency must be between 1 and 10000")
		}
		var input io.Reader
		if in.args[0] != "-" {
			f, err := os.Open(in.args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			input = f
		}
		conn, err := in.dial()
		if err != nil {
			return err
		}
		defer conn.Close()
		pipeline, err := in.pipeline(conn)
		if err != nil {
			return err
		}
		defer pipeline.Close()

		ctx, stop := context.WithCancel(ctx)
		defer stop()
		if input == nil {
			input = interruptible(ctx, in.Stdin)
		}
		l := &loader{
			in: in, client: pipeline, memory: semaphore.NewWeighted(maxLoadBytes),
			maxErrors: *maxErrors, stop: stop, seed: maphash.MakeSeed(),
		}
		l.start = time.Now()
		hide := in.show(&l.tally)
		err = l.run(ctx, &lines{r: bufio.NewReaderSize(input, 1<<16)}, *concurrency)
		hide()
		fmt.Fprintln(in.Stderr, &l.tally)
		return err
	}
}

// pipeline makes a client on connections that are its caller's to close. It
// tries nothing again: commands know better what is safe.
func (in *invocation) pipeline(conns ...*grpc.ClientConn) (*client.Client, error) {
	return client.New(conns, client.Options{
		Tenant: in.tenant, Level: client.Level(in.consistency), Timeout: in.timeout, MaxAttempts: 1,
	})
}

// loader writes records. Each key belongs to one worker, so that lines of one
// key are written in their order.
type loader struct {
	tally
	in        *invocation
	client    *client.Client
	memory    *semaphore.Weighted // bytes of lines that were read and not yet written
	maxErrors int64
	stop      context.CancelFunc
	seed      maphash.Seed
	printing  sync.Mutex
}

type loadRecord struct {
	line   int
	key    string
	value  []byte
	weight int64 // of memory
}

func (l *loader) run(ctx context.Context, input *lines, concurrency int) error {
	lanes := make([]chan loadRecord, concurrency)
	var workers sync.WaitGroup
	for i := range lanes {
		lanes[i] = make(chan loadRecord, laneRecords)
		workers.Go(func() {
			for r := range lanes[i] {
				l.write(ctx, r)
				l.memory.Release(r.weight)
			}
		})
	}
	err := l.read(ctx, input, lanes)
	for _, lane := range lanes {
		close(lane)
	}
	workers.Wait()
	switch failed := l.failed.Load(); {
	case l.maxErrors > 0 && failed >= l.maxErrors:
		return fmt.Errorf("stopped after %d failed records", failed)
	case err != nil:
		return err
	case failed > 0:
		return fmt.Errorf("%d records were not loaded", failed)
	}
	return nil
}

// read hands each record to its lane, until the end or until ctx ends.
func (l *loader) read(ctx context.Context, input *lines, lanes []chan loadRecord) error {
	for {
		line, err := input.next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, errLineTooLong):
			l.fail(input.number, err)
			continue
		case err != nil:
			return fmt.Errorf("read line %d: %w", input.number, err)
		case len(line) == 0:
			continue
		}
		key, value, err := decodeRecord(line)
		if err != nil {
			l.fail(input.number, err)
			continue
		}
		r := loadRecord{input.number, key, value, int64(len(key) + len(value))}
		if err := l.memory.Acquire(ctx, r.weight); err != nil {
			return err
		}
		select {
		case lanes[maphash.String(l.seed, key)%uint64(len(lanes))] <- r:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (l *loader) write(ctx context.Context, r loadRecord) {
	if ctx.Err() != nil {
		return
	}
	request := client.WriteRequest{Key: r.key, Value: r.value, IdempotencyKey: l.in.idempotencyKey}
	if err := l.in.retry(ctx, func(ctx context.Context) error {
		_, err := l.client.Write(ctx, request)
		return err
	}); err != nil {
		if ctx.Err() != nil {
			return // cut off, which is said once for all
		}
		l.fail(r.line, errors.New(l.in.explain(err)))
		return
	}
	l.records.Add(1)
	l.bytes.Add(r.weight)
}

// fail counts a record that was not loaded, and prints the first few.
func (l *loader) fail(line int, err error) {
	n := l.failed.Add(1)
	if n <= printedErrors {
		l.printing.Lock()
		fmt.Fprintf(l.in.Stderr, "line %d: %v\n", line, err)
		l.printing.Unlock()
	}
	if l.maxErrors > 0 && n >= l.maxErrors {
		l.stop()
	}
}
