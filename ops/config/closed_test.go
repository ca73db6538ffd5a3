package config

import (
	"strings"
	"testing"
)

func TestDevListensOnLoopbackAlone(t *testing.T) {
	const auth = "auth {\n jwt {\n jwks_file = \"k\"\n }\n}\n"
	for _, c := range []struct {
		listen, text string
		allow, ok    bool
	}{
		{"127.0.0.1:0", "", false, true},
		{"[::1]:0", "", false, true},
		{"localhost:0", "", false, true},
		{"0.0.0.0:0", "", false, false},
		{":0", "", false, false},
		{"10.0.0.1:0", "", false, false},
		{"0.0.0.0:0", "", true, true},
		{"0.0.0.0:0", auth, false, true},
		{"0.0.0.0:0", "server {\n tls {\n cert_file = \"c\"\n key_file = \"k\"\n client_ca_file = \"a\"\n }\n}\n", false, true},
		{"0.0.0.0:0", "server {\n tls {\n cert_file = \"c\"\n key_file = \"k\"\n }\n}\n", false, false},
	} {
		src := Source{Dev: true, Flags: Flags{Listen: c.listen, AllowRemote: c.allow}}
		if c.ok {
			mustParse(t, src, c.text)
		} else if faults := mustFail(t, src, c.text); !strings.Contains(faults.Error(), "-allow-remote") {
			t.Errorf("%s: %v", c.listen, faults)
		}
	}
	// The console shows keys and values, and asks for no client's certificate.
	const mutual = "server {\n tls {\n cert_file = \"c\"\n key_file = \"k\"\n client_ca_file = \"a\"\n }\n}\n"
	for _, text := range []string{"", mutual} {
		src := Source{Dev: true, Flags: Flags{OpsListen: "0.0.0.0:0"}}
		if faults := mustFail(t, src, text); !strings.Contains(faults.Error(), "metrics.listen") {
			t.Errorf("the console beyond loopback: %v", faults)
		}
		src.Flags.AllowRemote = true
		mustParse(t, src, text)
	}
	mustParse(t, Source{Dev: true, Flags: Flags{OpsListen: "0.0.0.0:0"}}, auth)
	mustParse(t, Source{Flags: Flags{Listen: "0.0.0.0:0"}}, minimal)
}
