// Package audit writes down what administrators do, a JSON object a line.
package audit

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// Entry is one operation that has ended, or was refused.
type Entry struct {
	Time      time.Time `json:"time"`
	Subject   string    `json:"subject"`   // of the token; empty where nobody is asked for one
	KeyID     string    `json:"key_id"`    // of the key that signed it
	Peer      string    `json:"peer"`      // the address that it came from
	Operation string    `json:"operation"` // the RPC
	Target    string    `json:"target"`    // the tenant, node or migration
	Outcome   string    `json:"outcome"`   // ok, or the reason of the error
	RequestID string    `json:"request_id"`
}

// Log is an audit log in a file. It is safe for concurrent use.
type Log struct {
	path string

	mu   sync.Mutex
	file *os.File
}

// Open opens a file to write to its end; it is made where it is not there yet,
// readable for its owner alone.
func Open(path string) (*Log, error) {
	l := &Log{path: path}
	if err := l.Reload(); err != nil {
		return nil, err
	}
	return l, nil
}

// Reload opens the file again, so that another program may move it away.
func (l *Log) Reload() error {
	file, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open audit log: %w", err)
	}
	l.mu.Lock()
	old := l.file
	l.file = file
	l.mu.Unlock()
	if old == nil {
		return nil
	}
	return old.Close()
}

// Paths is the file, whose directory entry is looked at for a change. It
// changes with every line, so it is watched for signals alone.
func (l *Log) Paths() []string { return nil }

// Write writes an entry, whole or not at all but for a crash of the machine.
func (l *Log) Write(e Entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return write(l.file, e)
}

// write makes one call of w.Write.
func write(w io.Writer, e Entry) error {
	line, err := json.Marshal(e)
	if err == nil {
		_, err = w.Write(append(line, '\n'))
	}
	if err != nil {
		return fmt.Errorf("write audit log: %w", err)
	}
	return nil
}

// Close closes the file.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.file.Close()
}
