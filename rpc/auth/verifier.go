package auth

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/golang-jwt/jwt/v5"
	"github.com/maypok86/otter/v2"
)

// Why a token is refused. These are all that a caller is told: nothing that a
// token holds is in an error.
var (
	ErrMalformed   = errors.New("the token is malformed")
	ErrSignature   = errors.New("the token's signature is not valid, or its key or algorithm is not known")
	ErrExpired     = errors.New("the token has expired")
	ErrNotYetValid = errors.New("the token is not valid yet")
	ErrIssuer      = errors.New("the token is of another issuer")
	ErrAudience    = errors.New("the token is for another audience")
	ErrClaims      = errors.New("the token lacks a claim that is needed, or one is not of the expected type")
)

// MaxTokenBytes bounds a token.
const MaxTokenBytes = 8 << 10

// maxRemembered bounds the tokens that are known to be good, so that their
// signatures are not verified for every request.
const maxRemembered = 10_000

// Options say which tokens are good. Zero fields take the default in brackets.
type Options struct {
	Issuer, Audience string // that a token must have; empty: not checked
	Leeway           time.Duration
	TenantClaim      string // [tenant_id]
	RolesClaim       string // [roles]
	Keys             []Key
	JWKSFile         string
	Now              func() time.Time // [time.Now]
}

// Verifier verifies tokens. It is safe for concurrent use.
type Verifier struct {
	opts   Options
	parser *jwt.Parser
	state  atomic.Pointer[state]
}

// state is the keys, and the tokens that they have verified.
type state struct {
	keys *keySet
	good *otter.Cache[[sha256.Size]byte, *Principal]
}

// New reads the keys.
func New(o Options) (*Verifier, error) {
	if o.TenantClaim == "" {
		o.TenantClaim = "tenant_id"
	}
	if o.RolesClaim == "" {
		o.RolesClaim = "roles"
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	settings := []jwt.ParserOption{
		jwt.WithValidMethods(algorithms), jwt.WithExpirationRequired(), jwt.WithStrictDecoding(),
		jwt.WithLeeway(o.Leeway), jwt.WithTimeFunc(o.Now),
	}
	if o.Issuer != "" {
		settings = append(settings, jwt.WithIssuer(o.Issuer))
	}
	if o.Audience != "" {
		settings = append(settings, jwt.WithAudience(o.Audience))
	}
	v := &Verifier{opts: o, parser: jwt.NewParser(settings...)}
	if err := v.Reload(); err != nil {
		return nil, err
	}
	return v, nil
}

// Paths are the files that keys were read from.
func (v *Verifier) Paths() []string {
	var paths []string
	for _, k := range v.opts.Keys {
		paths = append(paths, k.File)
	}
	if v.opts.JWKSFile != "" {
		paths = append(paths, v.opts.JWKSFile)
	}
	return paths
}

// Reload reads the keys again. Tokens of keys that are gone are refused from
// now on; where a file is at fault, the keys stay as they were.
func (v *Verifier) Reload() error {
	keys, err := readKeys(v.opts.Keys, v.opts.JWKSFile)
	if err != nil {
		return err
	}
	v.state.Store(&state{keys, otter.Must(&otter.Options[[sha256.Size]byte, *Principal]{MaximumSize: maxRemembered})})
	return nil
}

// Verify tells who a token says the caller is. Its errors are those above.
//
// Good tokens are remembered by their digest, so that a look-up takes the same
// time however much of a token is guessed.
func (v *Verifier) Verify(token string) (*Principal, error) {
	if len(token) > MaxTokenBytes {
		return nil, ErrMalformed
	}
	s := v.state.Load()
	digest := sha256.Sum256(unsafe.Slice(unsafe.StringData(token), len(token)))
	if p, ok := s.good.GetIfPresent(digest); ok {
		return p, v.inTime(p)
	}
	p, err := v.verify(s.keys, token)
	if err != nil {
		return nil, err
	}
	s.good.Set(digest, p)
	return p, nil
}

// StillGood tells whether a principal of this token is one yet: it looks at the
// time and, where keys were read again since, at the keys.
func (v *Verifier) StillGood(p *Principal, token string) error {
	if p.keys == v.state.Load().keys {
		return v.inTime(p)
	}
	_, err := v.Verify(token)
	return err
}

func (v *Verifier) inTime(p *Principal) error {
	now := v.opts.Now()
	switch {
	case !now.Before(p.until):
		return ErrExpired
	case now.Before(p.from):
		return ErrNotYetValid
	}
	return nil
}

func (v *Verifier) verify(keys *keySet, token string) (*Principal, error) {
	claims := jwt.MapClaims{}
	p := &Principal{keys: keys}
	_, err := v.parser.ParseWithClaims(token, claims, func(t *jwt.Token) (any, error) {
		// A critical extension that is not understood makes a token void; none is.
		if _, critical := t.Header["crit"]; critical {
			return nil, ErrMalformed
		}
		id, isText := t.Header["kid"].(string)
		if _, there := t.Header["kid"]; there && !isText {
			return nil, ErrMalformed
		}
		k, ok := keys.find(id)
		if !ok || k.algorithm != t.Method.Alg() {
			return nil, ErrSignature
		}
		p.KeyID = k.id
		return k.key, nil
	})
	if err != nil {
		return nil, plain(err)
	}
	if err := v.read(p, claims); err != nil {
		return nil, err
	}
	return p, nil
}

// plain is what is told of an error of the parser.
func plain(err error) error {
	for _, kind := range []struct{ theirs, ours error }{
		{ErrMalformed, ErrMalformed},
		{jwt.ErrTokenMalformed, ErrMalformed},
		{jwt.ErrTokenSignatureInvalid, ErrSignature},
		{jwt.ErrTokenUnverifiable, ErrSignature},
		{jwt.ErrTokenExpired, ErrExpired},
		{jwt.ErrTokenNotValidYet, ErrNotYetValid},
		{jwt.ErrTokenInvalidIssuer, ErrIssuer},
		{jwt.ErrTokenInvalidAudience, ErrAudience},
	} {
		if errors.Is(err, kind.theirs) {
			return kind.ours
		}
	}
	return ErrClaims
}

// read takes from claims what they say of the caller.
func (v *Verifier) read(p *Principal, claims jwt.MapClaims) error {
	expires, err := claims.GetExpirationTime()
	if err != nil || expires == nil {
		return ErrClaims
	}
	p.until = expires.Add(v.opts.Leeway)
	if begins, err := claims.GetNotBefore(); err != nil {
		return ErrClaims
	} else if begins != nil {
		p.from = begins.Add(-v.opts.Leeway)
	}
	if p.Subject, err = claims.GetSubject(); err != nil {
		return ErrClaims
	}
	if p.tenants, err = names(claims[v.opts.TenantClaim]); err != nil {
		return err
	}
	p.all = slices.Contains(p.tenants, AllTenants)
	roles, err := names(claims[v.opts.RolesClaim])
	p.admin = slices.Contains(roles, AdminRole)
	return err
}

// names reads a claim that is a string or a list of them; absent is none.
func names(claim any) ([]string, error) {
	switch c := claim.(type) {
	case nil:
		return nil, nil
	case string:
		return []string{c}, nil
	case []any:
		list := make([]string, len(c))
		for i := range c {
			name, ok := c[i].(string)
			if !ok {
				return nil, ErrClaims
			}
			list[i] = name
		}
		return list, nil
	}
	return nil, ErrClaims
}

// String keeps a principal's description free of what its token holds but its
// subject.
func (p *Principal) String() string { return fmt.Sprintf("subject %q", p.Subject) }
