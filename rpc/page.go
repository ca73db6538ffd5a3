package rpc

import (
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ring"
)

// Page tokens are opaque to clients: base64 of a letter for the kind and what
// follows it. A page of keys may end at another tenant's key, since replicas
// keep keys by token; such a token says only on which side of the tenant it
// lies, so that nobody reads foreign names out of it.
const (
	tokenTenants   = 'T' // the last tenant's id
	tokenKey       = 'K' // ring token, key: behind this key
	tokenBeforeKey = 'B' // ring token: before the tenant's keys there
	tokenBehindKey = 'E' // ring token: behind the tenant's keys there
	tokenExport    = 'V' // length of the tenant's space, space, and a token of the above: for administrators
)

const (
	ringTokenBytes = 8
	maxPageToken   = 1 + binary.MaxVarintLen16 + maxSpaceBytes + 1 + ringTokenBytes + MaxKeyBytes
)

func tenantsToken(last string) string {
	return base64.RawURLEncoding.EncodeToString(append([]byte{tokenTenants}, last...))
}

func parseTenantsToken(token string) (after string, err error) {
	if token == "" {
		return "", nil
	}
	raw, err := decodePageToken(token)
	if err != nil || raw[0] != tokenTenants || checkTenant(string(raw[1:])) != nil {
		return "", errPageToken()
	}
	return string(raw[1:]), nil
}

// keysToken is empty at the end of a listing.
func keysToken(tenant string, next *coord.Position) string {
	if next == nil {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(appendPosition(make([]byte, 0, 1+ringTokenBytes+len(next.Key)), tenant, next))
}

// appendPosition writes where the keys of a tenant, or of a space, go on.
func appendPosition(raw []byte, tenant string, next *coord.Position) []byte {
	kind := byte(tokenKey)
	switch cmp.Compare(next.Tenant, tenant) {
	case -1:
		kind = tokenBeforeKey
	case 1:
		kind = tokenBehindKey
	}
	raw = binary.BigEndian.AppendUint64(append(raw, kind), uint64(next.Token))
	if kind == tokenKey {
		raw = append(raw, next.Key...)
	}
	return raw
}

func parseKeysToken(tenant, token string) (*coord.Position, error) {
	if token == "" {
		return nil, nil
	}
	raw, err := decodePageToken(token)
	if err != nil {
		return nil, errPageToken()
	}
	return parsePosition(tenant, raw)
}

func parsePosition(tenant string, raw []byte) (*coord.Position, error) {
	if len(raw) < 1+ringTokenBytes {
		return nil, errPageToken()
	}
	kind, key := raw[0], string(raw[1+ringTokenBytes:])
	position := &coord.Position{Token: ring.Token(binary.BigEndian.Uint64(raw[1:]))}
	switch {
	case kind == tokenKey && checkText("key", key, 0, MaxKeyBytes) == nil:
		position.Tenant, position.Key = tenant, key
	case kind == tokenBeforeKey && key == "":
	case kind == tokenBehindKey && key == "":
		// No tenant's id holds a NUL, so this is the first position that no
		// key of the tenant comes after.
		position.Tenant = tenant + "\x00"
	default:
		return nil, errPageToken()
	}
	return position, nil
}

// exportToken is empty at the end of an export.
func exportToken(space string, next *coord.Position) string {
	if next == nil {
		return ""
	}
	raw := binary.AppendUvarint([]byte{tokenExport}, uint64(len(space)))
	return base64.RawURLEncoding.EncodeToString(appendPosition(append(raw, space...), space, next))
}

func parseExportToken(token string) (space string, after *coord.Position, err error) {
	if token == "" {
		return "", nil, nil
	}
	raw, err := decodePageToken(token)
	if err != nil || raw[0] != tokenExport {
		return "", nil, errPageToken()
	}
	size, n := binary.Uvarint(raw[1:])
	if n <= 0 || size == 0 || size > uint64(min(maxSpaceBytes, len(raw)-1-n)) {
		return "", nil, errPageToken()
	}
	rest := raw[1+n:]
	space = string(rest[:size])
	after, err = parsePosition(space, rest[size:])
	return space, after, err
}

// decodePageToken returns at least one byte.
func decodePageToken(token string) ([]byte, error) {
	if len(token) > base64.RawURLEncoding.EncodedLen(maxPageToken) {
		return nil, errPageToken()
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(strings.TrimRight(token, "="))
	if err != nil || len(raw) == 0 {
		return nil, errPageToken()
	}
	return raw, nil
}

func errPageToken() error {
	return fmt.Errorf("%w: page_token is not one that an answer held, want next_page_token of the page before",
		coord.ErrInvalidRequest)
}
