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
)

const ringTokenBytes = 8

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
	raw := make([]byte, 1, 1+ringTokenBytes+len(next.Key))
	raw = binary.BigEndian.AppendUint64(raw, uint64(next.Token))
	switch cmp.Compare(next.Tenant, tenant) {
	case -1:
		raw[0] = tokenBeforeKey
	case 0:
		raw[0] = tokenKey
		raw = append(raw, next.Key...)
	case 1:
		raw[0] = tokenBehindKey
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

func parseKeysToken(tenant, token string) (*coord.Position, error) {
	if token == "" {
		return nil, nil
	}
	raw, err := decodePageToken(token)
	if err != nil || len(raw) < 1+ringTokenBytes {
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

// decodePageToken returns at least one byte.
func decodePageToken(token string) ([]byte, error) {
	if len(token) > base64.RawURLEncoding.EncodedLen(1+ringTokenBytes+MaxKeyBytes) {
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
