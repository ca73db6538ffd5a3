package guard

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"github.com/pairdb/coordinator/ops/config"
)

// Only an administrator's token opens what is for administrators.
func TestAuthorizeAdmin(t *testing.T) {
	forbidden := errors.New("no")
	if open := new(Guard).AuthorizeAdmin(forbidden); open != nil {
		t.Error("somebody is asked for a token though nobody needs one")
	}
	dir := t.TempDir()
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	revoked, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	g, err := Open(&config.Config{Auth: &config.Auth{JWT: config.JWT{
		Issuer: issuer, Audience: audience, TenantClaim: "tenant_id", RolesClaim: "roles",
		Keys: []config.JWTKey{{ID: "now", Algorithm: "ES256", File: writePEM(t, filepath.Join(dir, "now.pem"), "PUBLIC KEY", der)}},
	}}}, Events{})
	if err != nil {
		t.Fatal(err)
	}
	authorize := g.AuthorizeAdmin(forbidden)
	for _, k := range makeTokens(t, key, revoked) {
		if len(k.header) > 1 {
			continue // net/http shows the first of two
		}
		r := httptest.NewRequest("GET", "/console/events", nil)
		for _, h := range k.header {
			r.Header.Set("Authorization", h)
		}
		switch err := authorize(r); {
		case k.admin && err != nil:
			t.Errorf("%s: %v", k.name, err)
		case !k.admin && err == nil:
			t.Errorf("%s: it is let in", k.name)
		case !k.admin && k.good != errors.Is(err, forbidden):
			t.Errorf("%s: %v; known but forbidden: %v", k.name, err, k.good)
		}
	}
}
