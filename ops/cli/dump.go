package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/pairdb/coordinator/rpc/client"
	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

func dumpCommand() command {
	return command{
		name: "dump", summary: "Print all keys and values of a tenant as JSON lines",
		details: `
The lines are as load reads them, in the order of the coordinator's key list.
Each value is read at -consistency. A dump is not a snapshot: writes go on
meanwhile, and a key that is deleted meanwhile is left out. With -o the file
appears when it is complete.`,
		flags: dump,
	}
}

func dump(fs *flag.FlagSet) action {
	prefix := fs.String("prefix", "", "only keys that begin with `P`")
	output := fs.String("o", "", "`FILE` to write, instead of standard output")
	concurrency := fs.Int("concurrency", 64, "reads under way at once")
	return func(ctx context.Context, in *invocation) error {
		if *concurrency < 1 || *concurrency > 10_000 {
			return wrongUsage("-concurrency must be between 1 and 10000")
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
		d := &dumper{in: in, lister: pb.NewCoordinatorServiceClient(conn), reader: pipeline, prefix: *prefix}
		d.start = time.Now()
		hide := in.show(&d.tally)
		if *output == "" {
			err = d.run(ctx, in.Stdout, *concurrency)
		} else {
			err = replaceFile(*output, func(w io.Writer) error { return d.run(ctx, w, *concurrency) })
		}
		hide()
		if err == nil && (*output != "" || in.IsTerminal) {
			fmt.Fprintln(in.Stderr, &d.tally)
		}
		return err
	}
}

// replaceFile writes a file under another name beside it, and renames it once
// it is complete and on disk.
func replaceFile(path string, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if err := errors.Join(write(f), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// dumper reads values ahead, and prints them in the order of the keys.
type dumper struct {
	tally
	in     *invocation
	lister pb.CoordinatorServiceClient
	reader *client.Client
	prefix string
	reads  sync.WaitGroup
}

// slot is where the value of one key arrives.
type slot chan dumped

type dumped struct {
	key    string
	value  []byte
	absent bool
	err    error
}

func (d *dumper) run(ctx context.Context, w io.Writer, concurrency int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The channel's room is the reads under way: a key's read starts when it has its slot.
	slots := make(chan slot, concurrency)
	var listing error
	go func() {
		defer close(slots)
		listing = d.list(ctx, slots)
	}()
	out := bufio.NewWriterSize(w, 1<<16)
	err := d.print(slots, out)
	cancel()
	for range slots { // until the lister has ended, and starts no more reads
	}
	d.reads.Wait()
	if err == nil {
		err = listing
	}
	return errors.Join(err, out.Flush())
}

// list starts a read for each key.
func (d *dumper) list(ctx context.Context, slots chan<- slot) error {
	return d.in.scan(ctx, d.lister, d.prefix, func(key string) error {
		s := make(slot, 1)
		select {
		case slots <- s:
		case <-ctx.Done():
			return ctx.Err()
		}
		d.reads.Go(func() { s <- d.read(ctx, key) })
		return nil
	})
}

func (d *dumper) read(ctx context.Context, key string) dumped {
	out := dumped{key: key}
	out.err = d.in.retry(ctx, func(ctx context.Context) (err error) {
		out.value, err = d.reader.Get(ctx, key)
		return err
	})
	if errors.Is(out.err, client.ErrKeyNotFound) {
		out.absent, out.err = true, nil
	}
	return out
}

func (d *dumper) print(slots <-chan slot, w io.Writer) error {
	var line bytes.Buffer
	for s := range slots {
		r := <-s
		switch {
		case r.err != nil:
			return fmt.Errorf("read %q: %w", r.key, r.err)
		case r.absent:
			continue
		}
		line.Reset()
		if err := encodeRecord(&line, r.key, r.value); err != nil {
			return fmt.Errorf("print %q: %w", r.key, err)
		}
		if _, err := w.Write(line.Bytes()); err != nil {
			return fmt.Errorf("write the dump: %w", err)
		}
		d.records.Add(1)
		d.bytes.Add(int64(len(r.key) + len(r.value)))
	}
	return nil
}
