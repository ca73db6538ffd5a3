package badger

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ring"
)

// maxKeyBytes bounds tenant and key together. Badger takes keys of 65,000 bytes.
const maxKeyBytes = 16 << 10

// Keys of records are namespace | token (8 bytes, big-endian) | tenant | NUL |
// key, whose byte order is that of coord.Position, given that a tenant holds
// no NUL.

func appendKey(dst []byte, ns byte, token ring.Token, tenant, key string) []byte {
	dst = append(dst, ns)
	dst = binary.BigEndian.AppendUint64(dst, uint64(token))
	dst = append(dst, tenant...)
	dst = append(dst, 0)
	return append(dst, key...)
}

// checkKey tells whether tenant and key can be told apart again in a stored key.
func checkKey(tenant, key string) error {
	switch {
	case len(tenant)+len(key) > maxKeyBytes:
		return fmt.Errorf("tenant and key have %d bytes, at most %d are accepted", len(tenant)+len(key), maxKeyBytes)
	case strings.IndexByte(tenant, 0) >= 0, strings.IndexByte(key, 0) >= 0:
		return fmt.Errorf("tenant or key holds a NUL")
	}
	return nil
}

// splitKey returns the parts of a record's key, without copying.
func splitKey(b []byte) (token ring.Token, tenant, key []byte, err error) {
	if len(b) < 10 {
		return 0, nil, nil, fmt.Errorf("decode key: %w: %d bytes", coord.ErrCorrupt, len(b))
	}
	token = ring.Token(binary.BigEndian.Uint64(b[1:9]))
	tenant, key, found := bytes.Cut(b[9:], []byte{0})
	if !found {
		return 0, nil, nil, fmt.Errorf("decode key: %w: no end of tenant", coord.ErrCorrupt)
	}
	return token, tenant, key, nil
}
