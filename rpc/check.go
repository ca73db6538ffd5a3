package rpc

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ring"
	"github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// Limits of what a request may hold.
const (
	MaxTenantBytes         = 256
	MaxKeyBytes            = 1 << 10
	MaxValueBytes          = 10 << 20
	MaxIdempotencyKeyBytes = 256
	MaxNodeIDBytes         = 256
	MaxHostBytes           = 253
	MaxMigrationIDBytes    = 256
	MinReplicationFactor   = 1
	MaxReplicationFactor   = 10
	DefaultPageSize        = 100
	MaxPageSize            = 1000
	MaxPipelineMessage     = 4096     // operations in a PipelineRequest
	MaxBatchItems          = 1000     // items in a BatchWriteRequest, keys in a BatchReadRequest
	MaxBatchBytes          = 10 << 20 // of values, in a BatchWriteRequest or a BatchReadResponse
)

// DefaultReplicationFactor is that of a tenant created without one.
const DefaultReplicationFactor = 3

// Each check returns nil or an error that is coord.ErrInvalidRequest (or
// coord.ErrInvalidReplicationFactor) and says which field it is about, what was
// found, and what was expected. None repeats what the field holds.

func checkTenant(id string) error {
	if err := checkText("tenant_id", id, 1, MaxTenantBytes); err != nil {
		return err
	}
	for _, r := range id {
		if r == ':' {
			return fmt.Errorf("%w: tenant_id holds a ':', want none", coord.ErrInvalidRequest)
		}
		if unicode.IsControl(r) {
			return fmt.Errorf("%w: tenant_id holds the control character %U, want none", coord.ErrInvalidRequest, r)
		}
	}
	return nil
}

func checkKey(key string) error { return checkText("key", key, 1, MaxKeyBytes) }

func checkIdempotencyKey(key string) error {
	return checkText("idempotency_key", key, 0, MaxIdempotencyKeyBytes)
}

func checkValue(value []byte, most int) error {
	if len(value) > most {
		return fmt.Errorf("%w: value is %d bytes, want at most %d", coord.ErrInvalidRequest, len(value), most)
	}
	return nil
}

// maxTTLSeconds bounds how long a value may be asked to live: ten years.
const maxTTLSeconds = 10 * 365 * 24 * 60 * 60

// checkTTL returns a lifetime, 0 for none.
func checkTTL(seconds int64) (time.Duration, error) {
	if seconds < 0 || seconds > maxTTLSeconds {
		return 0, fmt.Errorf("%w: ttl_seconds is %d, want 0 (for ever) to %d", coord.ErrInvalidRequest, seconds, maxTTLSeconds)
	}
	return time.Duration(seconds) * time.Second, nil
}

// checkLevel reads a consistency level; the empty name is fallback.
func checkLevel(name string, fallback coord.Level) (coord.Level, error) {
	switch name {
	case "":
		return fallback, nil
	case "one", "quorum", "all":
		return coord.ParseLevel(name)
	}
	return 0, fmt.Errorf("%w: consistency is an unknown name of %d bytes, want one, quorum or all",
		coord.ErrInvalidRequest, len(name))
}

func checkReplicationFactor(field string, rf int32) error {
	if rf < MinReplicationFactor || rf > MaxReplicationFactor {
		return fmt.Errorf("%w: %s is %d, want %d to %d",
			coord.ErrInvalidReplicationFactor, field, rf, MinReplicationFactor, MaxReplicationFactor)
	}
	return nil
}

// checkPageSize returns the size of a page for one that was asked for: the
// default for 0, and never more than MaxPageSize.
func checkPageSize(asked int32) (int, error) {
	switch {
	case asked < 0:
		return 0, fmt.Errorf("%w: page_size is %d, want 0 (for %d) to %d",
			coord.ErrInvalidRequest, asked, DefaultPageSize, MaxPageSize)
	case asked == 0:
		return DefaultPageSize, nil
	}
	return min(int(asked), MaxPageSize), nil
}

func checkNodeID(id string) error { return checkName("node_id", id, MaxNodeIDBytes) }

func checkMigrationID(id string) error { return checkName("migration_id", id, MaxMigrationIDBytes) }

// checkHost accepts an IP address, without brackets, or a DNS name.
func checkHost(host string) error {
	if err := checkName("host", host, MaxHostBytes); err != nil {
		return err
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return nil
	}
	for _, label := range strings.Split(strings.TrimSuffix(host, "."), ".") {
		if label == "" || len(label) > 63 || strings.IndexFunc(label, notInHost) >= 0 {
			return fmt.Errorf("%w: host is neither an IP address nor a DNS name", coord.ErrInvalidRequest)
		}
	}
	return nil
}

// notInHost lets the underscore pass, which container networks put in names.
func notInHost(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
}

func checkPort(port int32) error {
	if port < 1 || port > 65535 {
		return fmt.Errorf("%w: port is %d, want 1 to 65535", coord.ErrInvalidRequest, port)
	}
	return nil
}

func checkVirtualNodes(n int32) error {
	if n < 0 || n > ring.MaxVirtualNodes {
		return fmt.Errorf("%w: virtual_nodes is %d, want 0 (for %d) to %d",
			coord.ErrInvalidRequest, n, ring.DefaultVirtualNodes, ring.MaxVirtualNodes)
	}
	return nil
}

// checkName checks an identifier that operators type and logs show.
func checkName(field, s string, most int) error {
	if err := checkText(field, s, 1, most); err != nil {
		return err
	}
	for _, r := range s {
		if unicode.IsControl(r) {
			return fmt.Errorf("%w: %s holds the control character %U, want none", coord.ErrInvalidRequest, field, r)
		}
	}
	return nil
}

// checkText checks size, encoding and the absence of NUL.
func checkText(field, s string, least, most int) error {
	if len(s) < least || len(s) > most {
		if s == "" {
			return fmt.Errorf("%w: %s is empty, want %d to %d bytes", coord.ErrInvalidRequest, field, least, most)
		}
		return fmt.Errorf("%w: %s is %d bytes, want %d to %d", coord.ErrInvalidRequest, field, len(s), least, most)
	}
	if i := strings.IndexByte(s, 0); i >= 0 {
		return fmt.Errorf("%w: %s holds a NUL at byte %d, want none", coord.ErrInvalidRequest, field, i)
	}
	if !utf8.ValidString(s) {
		return fmt.Errorf("%w: %s is not valid UTF-8", coord.ErrInvalidRequest, field)
	}
	return nil
}

// wireCheck is a check of an encoded message, nil where it needs none. A message
// of many empty elements would take a hundred times its size once it is decoded,
// so they are counted before.
func wireCheck(message any) func([]byte) error {
	switch message.(type) {
	case *coordinatorpb.PipelineRequest:
		return checkPipelineSize
	case *coordinatorpb.BatchWriteRequest:
		return checkBatchSize
	case *coordinatorpb.BatchReadRequest:
		return checkBatchSize
	case *coordinatorpb.ImportVersionsRequest:
		return checkImportSize
	}
	return nil
}

// Numbers of the fields that hold a message's elements.
const (
	operationsField = 1
	itemsField      = 3
	versionsField   = 2
)

func checkPipelineSize(raw []byte) error {
	return checkCount(raw, operationsField, "operations", MaxPipelineMessage)
}

func checkBatchSize(raw []byte) error { return checkCount(raw, itemsField, "items", MaxBatchItems) }

func checkImportSize(raw []byte) error {
	return checkCount(raw, versionsField, "versions", MaxBatchItems)
}

// checkCount counts the elements of a field in an encoded message. What is
// malformed passes: decoding finds it.
func checkCount(raw []byte, field protowire.Number, what string, most int) error {
	count := 0
	for len(raw) > 0 {
		number, _, size := protowire.ConsumeField(raw)
		if size < 0 {
			return nil
		}
		if raw = raw[size:]; number == field {
			count++
		}
	}
	if count > most {
		return fmt.Errorf("message holds %d %s, want at most %d", count, what, most)
	}
	return nil
}
