package auth

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"
)

// No token is good but those that were signed, and none makes the verifier panic.
func FuzzVerify(f *testing.F) {
	v := verifier(f, nil)
	good := map[string]bool{}
	// The process that hands out inputs is not the one that tries them, so what
	// both sign with the same key must be the same token.
	constant := claims("nbf", 1_000_000_000, "exp", 4_000_000_000)
	for algorithm, key := range signers {
		token := sign(f, algorithm, kid(algorithm), constant, key)
		if _, err := v.Verify(token); err != nil {
			f.Fatal(err)
		}
		good[token] = true
		f.Add(token)
		f.Add(token[:strings.LastIndexByte(token, '.')+1])
	}
	f.Add(sign(f, "none", kid("HS256"), claims(), jwt.UnsafeAllowNoneSignatureType))
	f.Add("..")
	f.Fuzz(func(t *testing.T, token string) {
		p, err := v.Verify(token)
		if (err == nil) != (p != nil) {
			t.Fatalf("principal %v with error %v", p, err)
		}
		if err == nil && !good[token] {
			t.Fatalf("a token that nobody has signed is good: %s", token)
		}
	})
}

// Whatever a key set holds, its keys fit their algorithms.
func FuzzKeySet(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"oct","alg":"HS256","kid":"a","k":"MDEyMzQ1Njc4OWFiY2RlZg"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"},{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		file := filepath.Join(t.TempDir(), "jwks.json")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := readKeys(nil, file)
		if err != nil {
			return
		}
		for id, k := range s.keys {
			if err := fits(k.algorithm, k.key); err != nil || id != k.id {
				t.Fatalf("key %q of %s: %v", id, k.algorithm, err)
			}
		}
	})
}
