package auth

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"
)

var secret = []byte("0123456789abcdef0123456789abcdef")

const issuer, audience, leeway = "https://login.example.com", "pairdb", 30 * time.Second

// signers are private keys by algorithm, made once: RSA takes a while.
var signers = func() map[string]any {
	rsaKey, err1 := rsa.GenerateKey(rand.Reader, 2048)
	ecKey, err2 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	_, edKey, err3 := ed25519.GenerateKey(rand.Reader)
	if err := errors.Join(err1, err2, err3); err != nil {
		panic(err)
	}
	return map[string]any{"HS256": secret, "RS256": rsaKey, "ES256": ecKey, "EdDSA": edKey}
}()

func public(key any) any {
	switch key := key.(type) {
	case *rsa.PrivateKey:
		return &key.PublicKey
	case *ecdsa.PrivateKey:
		return &key.PublicKey
	case ed25519.PrivateKey:
		return key.Public()
	}
	return key
}

func writeKey(t testing.TB, path string, key any) {
	t.Helper()
	text, ok := key.([]byte)
	if !ok {
		der, err := x509.MarshalPKIXPublicKey(public(key))
		if err != nil {
			t.Fatal(err)
		}
		text = pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// verifier knows one key of each algorithm, by the algorithm's name.
func verifier(t testing.TB, now func() time.Time) *Verifier {
	t.Helper()
	o := Options{Issuer: issuer, Audience: audience, Leeway: leeway, Now: now}
	dir := t.TempDir()
	for algorithm, key := range signers {
		file := filepath.Join(dir, algorithm)
		writeKey(t, file, key)
		o.Keys = append(o.Keys, Key{ID: algorithm, Algorithm: algorithm, File: file})
	}
	v, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func claims(change ...any) jwt.MapClaims {
	now := time.Now().Unix()
	c := jwt.MapClaims{"iss": issuer, "aud": audience, "exp": now + 3600, "nbf": now - 60, "sub": "someone",
		"tenant_id": "acme", "roles": []string{"reader"}}
	for i := 0; i < len(change); i += 2 {
		if change[i+1] == nil {
			delete(c, change[i].(string))
		} else {
			c[change[i].(string)] = change[i+1]
		}
	}
	return c
}

func sign(t testing.TB, algorithm string, header map[string]any, c jwt.MapClaims, key any) string {
	t.Helper()
	token := jwt.NewWithClaims(jwt.GetSigningMethod(algorithm), c)
	maps.Copy(token.Header, header)
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func kid(id string) map[string]any { return map[string]any{"kid": id} }

func TestVerify(t *testing.T) {
	v := verifier(t, nil)
	now := time.Now().Unix()
	hs := func(c jwt.MapClaims) string { return sign(t, "HS256", kid("HS256"), c, secret) }
	good := hs(claims())
	rsaPEM, err := os.ReadFile(v.opts.Keys[slices.IndexFunc(v.opts.Keys, func(k Key) bool { return k.ID == "RS256" })].File)
	if err != nil {
		t.Fatal(err)
	}
	otherKey, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	for name, c := range map[string]struct {
		token string
		want  error
	}{
		"HS256": {good, nil},
		"RS256": {sign(t, "RS256", kid("RS256"), claims(), signers["RS256"]), nil},
		"ES256": {sign(t, "ES256", kid("ES256"), claims(), signers["ES256"]), nil},
		"EdDSA": {sign(t, "EdDSA", kid("EdDSA"), claims(), signers["EdDSA"]), nil},

		"empty":               {"", ErrMalformed},
		"two parts":           {"a.b", ErrMalformed},
		"not base64":          {"!.!.!", ErrMalformed},
		"too long":            {strings.Repeat("a", MaxTokenBytes+1), ErrMalformed},
		"none":                {sign(t, "none", kid("HS256"), claims(), jwt.UnsafeAllowNoneSignatureType), ErrSignature},
		"public key as HMAC":  {sign(t, "HS256", kid("RS256"), claims(), rsaPEM), ErrSignature},
		"HS512 for HS256":     {sign(t, "HS512", kid("HS256"), claims(), secret), ErrSignature},
		"PS256 for RS256":     {sign(t, "PS256", kid("RS256"), claims(), signers["RS256"]), ErrSignature},
		"unknown key":         {sign(t, "HS256", kid("gone"), claims(), secret), ErrSignature},
		"no key id, many":     {sign(t, "HS256", nil, claims(), secret), ErrSignature},
		"key id no text":      {sign(t, "HS256", map[string]any{"kid": 1}, claims(), secret), ErrMalformed},
		"another's key":       {sign(t, "ES256", kid("ES256"), claims(), otherKey), ErrSignature},
		"critical extension":  {sign(t, "HS256", map[string]any{"kid": "HS256", "crit": []string{"b64"}}, claims(), secret), ErrMalformed},
		"changed signature":   {good[:len(good)-5] + "AAAAA", ErrSignature},
		"expired":             {hs(claims("exp", now-31)), ErrExpired},
		"expired in leeway":   {hs(claims("exp", now-20)), nil},
		"expiry of old":       {hs(claims("exp", -1e300)), ErrExpired},
		"no expiry":           {hs(claims("exp", nil)), ErrClaims},
		"expiry no number":    {hs(claims("exp", "never")), ErrClaims},
		"not yet valid":       {hs(claims("nbf", now+60)), ErrNotYetValid},
		"soon, in leeway":     {hs(claims("nbf", now+10)), nil},
		"begins no number":    {hs(claims("nbf", "now")), ErrClaims},
		"other issuer":        {hs(claims("iss", "https://evil.example.com")), ErrIssuer},
		"no issuer":           {hs(claims("iss", nil)), ErrClaims},
		"other audience":      {hs(claims("aud", "billing")), ErrAudience},
		"one of audiences":    {hs(claims("aud", []string{"billing", audience})), nil},
		"no audience":         {hs(claims("aud", nil)), ErrClaims},
		"tenant is a number":  {hs(claims("tenant_id", 5)), ErrClaims},
		"tenants are numbers": {hs(claims("tenant_id", []any{"a", 5})), ErrClaims},
		"roles are an object": {hs(claims("roles", map[string]any{"admin": true})), ErrClaims},
		"subject is a number": {hs(claims("sub", 5)), ErrClaims},
		"no tenant":           {hs(claims("tenant_id", nil)), nil},
	} {
		t.Run(name, func(t *testing.T) {
			for range 2 { // the second time it may be remembered
				p, err := v.Verify(c.token)
				if !errors.Is(err, c.want) || (p == nil) != (c.want != nil) {
					t.Fatalf("got %v, %v; want %v", p, err, c.want)
				}
			}
		})
	}
}

func TestWhatAPrincipalMay(t *testing.T) {
	v := verifier(t, nil)
	for name, c := range map[string]struct {
		tenants, roles any
		may            string // of a, b and "", and x for admin
	}{
		"one":           {"a", nil, "a"},
		"list":          {[]string{"a", "b"}, []string{"reader"}, "ab"},
		"all":           {"*", "admin", "abx"},
		"all in a list": {[]string{"c", "*"}, []string{"reader", "admin"}, "abx"},
		"none":          {nil, []string{"admin"}, "x"},
		"prefix":        {"ab", "administrator", ""},
		"case":          {"A", "Admin", ""},
	} {
		p, err := v.Verify(sign(t, "HS256", kid("HS256"), claims("tenant_id", c.tenants, "roles", c.roles), secret))
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, tenant := range []string{"a", "b"} {
			if p.May(tenant) {
				got += tenant
			}
		}
		if p.Admin() {
			got += "x"
		}
		if got != c.may || p.May("") != strings.Contains(c.may, "b") && c.tenants == "*" || p.Subject != "someone" || p.KeyID != "HS256" {
			t.Errorf("%s: may reach %q, subject %q, key %q; want %q", name, got, p.Subject, p.KeyID, c.may)
		}
	}
}

// A remembered token ends when it expires, and with its key.
func TestRememberedTokensEnd(t *testing.T) {
	now := time.Now()
	v := verifier(t, func() time.Time { return now })
	token := sign(t, "ES256", kid("ES256"), claims("exp", now.Unix()+60), signers["ES256"])
	p, err := v.Verify(token)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := v.Verify(token); again != p || err != nil {
		t.Errorf("it was verified again: %v", err)
	}
	now = now.Add(60*time.Second + leeway)
	if _, err := v.Verify(token); !errors.Is(err, ErrExpired) {
		t.Errorf("after its end: %v", err)
	}
	if err := v.StillGood(p, token); !errors.Is(err, ErrExpired) {
		t.Errorf("still good after its end: %v", err)
	}
	now = now.Add(-50 * time.Second)
	if err := v.StillGood(p, token); err != nil {
		t.Errorf("before its end: %v", err)
	}

	i := slices.IndexFunc(v.opts.Keys, func(k Key) bool { return k.ID == "ES256" })
	if err := os.WriteFile(v.opts.Keys[i].File, []byte("half a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := v.Reload(); err == nil || !strings.Contains(err.Error(), v.opts.Keys[i].File) {
		t.Errorf("a file at fault: %v", err)
	}
	if err := v.StillGood(p, token); err != nil {
		t.Errorf("while a file is at fault: %v", err)
	}
	next, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	writeKey(t, v.opts.Keys[i].File, next)
	if err := v.Reload(); err != nil {
		t.Fatal(err)
	}
	if err := v.StillGood(p, token); !errors.Is(err, ErrSignature) {
		t.Errorf("after its key was replaced: %v", err)
	}
	if _, err := v.Verify(sign(t, "ES256", kid("ES256"), claims("exp", now.Unix()+60), next)); err != nil {
		t.Errorf("a token of the new key: %v", err)
	}
}

func writeSet(t testing.TB, keys ...jose.JSONWebKey) string {
	t.Helper()
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestKeySet(t *testing.T) {
	file := writeSet(t,
		jose.JSONWebKey{Key: public(signers["RS256"]), KeyID: "r"},
		jose.JSONWebKey{Key: public(signers["ES256"]), KeyID: "e", Use: "sig"},
		jose.JSONWebKey{Key: public(signers["EdDSA"]), KeyID: "d", Algorithm: "EdDSA"},
		jose.JSONWebKey{Key: secret, KeyID: "h", Algorithm: "HS256"},
		jose.JSONWebKey{Key: public(signers["RS256"]), KeyID: "for encryption", Use: "enc", Algorithm: "RSA-OAEP"})
	v, err := New(Options{JWKSFile: file})
	if err != nil {
		t.Fatal(err)
	}
	for id, algorithm := range map[string]string{"r": "RS256", "e": "ES256", "d": "EdDSA", "h": "HS256"} {
		if _, err := v.Verify(sign(t, algorithm, kid(id), claims(), signers[algorithm])); err != nil {
			t.Errorf("key %s: %v", id, err)
		}
	}
	if _, err := v.Verify(sign(t, "RS256", kid("for encryption"), claims(), signers["RS256"])); !errors.Is(err, ErrSignature) {
		t.Errorf("a key for encryption: %v", err)
	}
	// With one key a token needs no key id.
	v, err = New(Options{JWKSFile: writeSet(t, jose.JSONWebKey{Key: public(signers["EdDSA"])})})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(sign(t, "EdDSA", nil, claims(), signers["EdDSA"])); err != nil {
		t.Errorf("without a key id: %v", err)
	}
}

func TestBadKeys(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	private, _ := x509.MarshalPKCS8PrivateKey(signers["ES256"])
	for name, c := range map[string]struct {
		algorithm string
		key       any
		want      string
	}{
		"weak RSA":          {"RS256", weak, "1024 bits"},
		"short secret":      {"HS256", []byte("hunter2"), "7 bytes"},
		"PEM as a secret":   {"HS256", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")}), "it is PEM"},
		"curve":             {"ES384", signers["ES256"], "none for ES384"},
		"kind":              {"EdDSA", signers["ES256"], "none for EdDSA"},
		"no PEM":            {"ES256", []byte("swordfish"), "not PEM"},
		"private key":       {"ES256", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), "another kind"},
		"PEM of no key":     {"ES256", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")}), ""},
		"unknown algorithm": {"none", signers["ES256"], "none for none"},
	} {
		file := filepath.Join(t.TempDir(), "key")
		writeKey(t, file, c.key)
		_, err := New(Options{Keys: []Key{{ID: "k", Algorithm: c.algorithm, File: file}}})
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "swordfish")) {
			t.Errorf("%s: the error quotes the key: %v", name, err)
		}
	}
	for name, text := range map[string]string{
		"no JSON": "keys", "no keys": `{"keys":[]}`, "unknown kind": `{"keys":[{"kty":"x"}]}`,
		"secret without algorithm": `{"keys":[{"kty":"oct","k":"` + base64.RawURLEncoding.EncodeToString(secret) + `"}]}`,
		"point off the curve":      `{"keys":[{"kty":"EC","crv":"P-256","x":"AAAA","y":"AAAA"}]}`,
		"twice":                    `{"keys":[{"kty":"oct","alg":"HS256","kid":"a","k":"MDEyMzQ1Njc4OWFiY2RlZg"},{"kty":"oct","alg":"HS256","kid":"a","k":"MDEyMzQ1Njc4OWFiY2RlZg"}]}`,
	} {
		file := filepath.Join(t.TempDir(), "jwks")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := New(Options{JWKSFile: file}); err == nil {
			t.Errorf("key set with %s is accepted", name)
		}
	}
	if _, err := New(Options{JWKSFile: t.TempDir()}); err == nil {
		t.Error("a directory is accepted")
	}
}

// Whatever a token holds, no error repeats any of it.
func TestErrorsHoldNoTokenParts(t *testing.T) {
	v := verifier(t, nil)
	const mark = "MARKER"
	c := claims("sub", mark, "iss", mark, "aud", mark, "jti", mark)
	for _, token := range []string{
		mark, mark + "." + mark + "." + mark,
		sign(t, "HS256", map[string]any{"kid": mark, "typ": mark}, c, secret),
		sign(t, "HS256", map[string]any{"kid": "HS256"}, c, secret),
		sign(t, "none", kid(mark), c, jwt.UnsafeAllowNoneSignatureType),
	} {
		_, err := v.Verify(token)
		if err == nil || strings.Contains(err.Error(), mark) {
			t.Errorf("error is %v", err)
		}
	}
}

func BenchmarkVerifyRemembered(b *testing.B) {
	v := verifier(b, nil)
	token := sign(b, "RS256", kid("RS256"), claims(), signers["RS256"])
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(token); err != nil {
			b.Fatal(err)
		}
	}
}
