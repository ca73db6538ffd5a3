package config

import (
	"fmt"
	"io"
	"strconv"
)

// Secret is a password, or a URL that may hold one. However it is printed or
// encoded it shows as [redacted]; Reveal gives what it holds. The empty Secret,
// which is the zero one, prints as nothing, so that "no password" can be told
// from one.
type Secret struct {
	// value is a pointer, since that is what package fmt prints of it where it
	// cannot call Format: in another struct's unexported field.
	value *string
}

const redacted = "[redacted]"

// NewSecret hides s.
func NewSecret(s string) Secret {
	if s == "" {
		return Secret{}
	}
	return Secret{&s}
}

// Reveal returns the secret itself, for the client that sends it.
func (s Secret) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// Empty tells whether there is no secret.
func (s Secret) Empty() bool { return s.value == nil }

func (s Secret) String() string {
	if s.Empty() {
		return ""
	}
	return redacted
}

// GoString keeps %#v from showing the secret.
func (s Secret) GoString() string { return strconv.Quote(s.String()) }

// Format keeps every verb from showing the secret.
func (s Secret) Format(f fmt.State, verb rune) {
	if verb == 'q' || (verb == 'v' && f.Flag('#')) {
		_, _ = io.WriteString(f, s.GoString())
		return
	}
	_, _ = io.WriteString(f, s.String())
}

// MarshalText keeps JSON and every other text encoding from showing the secret.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
