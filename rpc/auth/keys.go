package auth

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// Key is a verification key in a file: PEM, or, for HS algorithms, the secret's
// bytes.
type Key struct {
	ID        string
	Algorithm string
	File      string
}

// Bounds of keys and their files.
const (
	maxFileBytes   = 1 << 20
	maxKeys        = 100
	minSecretBytes = 16
	minRSABits     = 2048
)

// Algorithms that a key may be for.
var algorithms = []string{
	"HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
}

// curves are the key sizes in bits of ES algorithms.
var curves = map[string]int{"ES256": 256, "ES384": 384, "ES512": 521}

// keySet is all keys as they were read at one time.
type keySet struct {
	keys map[string]verificationKey // by id
}

// verificationKey is pinned to its algorithm: a token that names another one
// is refused, whatever its signature.
type verificationKey struct {
	id        string
	algorithm string
	key       any // []byte, *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey
}

// find returns the key of a token with this key id; a token without one needs
// no id where there is one key only.
func (s *keySet) find(id string) (verificationKey, bool) {
	if k, ok := s.keys[id]; ok {
		return k, true
	}
	if id == "" && len(s.keys) == 1 {
		for _, k := range s.keys {
			return k, true
		}
	}
	return verificationKey{}, false
}

func (s *keySet) add(k verificationKey) error {
	if err := fits(k.algorithm, k.key); err != nil {
		return err
	}
	if _, ok := s.keys[k.id]; ok {
		return fmt.Errorf("the key id %q is there twice", k.id)
	}
	if len(s.keys) == maxKeys {
		return fmt.Errorf("more than %d keys", maxKeys)
	}
	s.keys[k.id] = k
	return nil
}

// readKeys reads all files anew.
func readKeys(keys []Key, jwks string) (*keySet, error) {
	s := &keySet{keys: map[string]verificationKey{}}
	for _, k := range keys {
		key, err := readKey(k)
		if err == nil {
			err = s.add(verificationKey{k.ID, k.Algorithm, key})
		}
		if err != nil {
			return nil, fmt.Errorf("key %q, file %s: %w", k.ID, k.File, err)
		}
	}
	if jwks != "" {
		if err := s.addSet(jwks); err != nil {
			return nil, fmt.Errorf("key set %s: %w", jwks, err)
		}
	}
	if len(s.keys) == 0 {
		return nil, errors.New("there is no key to verify tokens with")
	}
	return s, nil
}

func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFileBytes {
		return nil, fmt.Errorf("no regular file of at most %d bytes", maxFileBytes)
	}
	return os.ReadFile(path)
}

// readKey never quotes what a file holds.
func readKey(k Key) (any, error) {
	text, err := readFile(k.File)
	if err != nil {
		return nil, err
	}
	isPEM := bytes.Contains(text, []byte("-----BEGIN "))
	if strings.HasPrefix(k.Algorithm, "HS") {
		if isPEM {
			return nil, fmt.Errorf("it is PEM, want the bytes of the secret for %s", k.Algorithm)
		}
		return text, nil
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("it is not PEM, want a public key or a certificate")
	}
	switch block.Type {
	case "PUBLIC KEY":
		return x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		return x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		return cert.PublicKey, nil
	}
	return nil, fmt.Errorf("it is PEM of another kind, want PUBLIC KEY or CERTIFICATE")
}

// fits tells whether key is one for algorithm, and strong enough.
func fits(algorithm string, key any) error {
	switch key := key.(type) {
	case []byte:
		if strings.HasPrefix(algorithm, "HS") {
			if len(key) < minSecretBytes {
				return fmt.Errorf("the secret has %d bytes, want at least %d", len(key), minSecretBytes)
			}
			return nil
		}
	case *rsa.PublicKey:
		if strings.HasPrefix(algorithm, "RS") || strings.HasPrefix(algorithm, "PS") {
			if bits := key.N.BitLen(); bits < minRSABits {
				return fmt.Errorf("the RSA key has %d bits, want at least %d", bits, minRSABits)
			}
			return nil
		}
	case *ecdsa.PublicKey:
		if bits, ok := curves[algorithm]; ok && key.Curve.Params().BitSize == bits {
			return nil
		}
	case ed25519.PublicKey:
		if algorithm == "EdDSA" {
			return nil
		}
	}
	return fmt.Errorf("the key is none for %s", algorithm)
}

// addSet adds the signing keys of a JSON Web Key Set.
func (s *keySet) addSet(path string) error {
	text, err := readFile(path)
	if err != nil {
		return err
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil {
		return errors.New("it is not a JSON Web Key Set")
	}
	for i, raw := range set.Keys {
		var k jose.JSONWebKey
		if err := json.Unmarshal(raw, &k); err != nil {
			return fmt.Errorf("key %d of it is not one of a kind that is known", i+1) // err may quote the key
		}
		if k.Use != "" && k.Use != "sig" {
			continue
		}
		if k.Algorithm == "" {
			k.Algorithm = usualAlgorithm(k.Key)
		}
		if err := s.add(verificationKey{k.KeyID, k.Algorithm, k.Key}); err != nil {
			return fmt.Errorf("key %d of it: %w", i+1, err)
		}
	}
	return nil
}

// usualAlgorithm is that of a key in a set that names none. A secret must.
func usualAlgorithm(key any) string {
	switch key := key.(type) {
	case *rsa.PublicKey:
		return "RS256"
	case *ecdsa.PublicKey:
		for name, bits := range curves {
			if key.Curve.Params().BitSize == bits {
				return name
			}
		}
	case ed25519.PublicKey:
		return "EdDSA"
	}
	return "an algorithm that it does not name"
}
