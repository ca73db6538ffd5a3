package cli

import (
	"context"
	"flag"
	"fmt"
	"strings"

	"github.com/pairdb/coordinator/ops/certs"
)

func certsCommand() command {
	return command{
		name: "certs", summary: "Make certificates to try TLS with", local: true, flags: makeCerts,
		details: "With -dev DIR it makes an authority and certificates for a coordinator, its storage\n" +
			"nodes and a client in DIR, valid for a year on this machine and the hosts of -hosts.\n" +
			"The authority's key is thrown away. It writes over nothing.",
	}
}

func makeCerts(fs *flag.FlagSet) action {
	dir := fs.String("dev", "", "make the files in `DIR`")
	hosts := fs.String("hosts", "", "comma-separated `HOSTS`, names or addresses, that servers are reached at besides localhost")
	return func(_ context.Context, in *invocation) error {
		if *dir == "" {
			return wrongUsage("certs needs -dev DIR")
		}
		var more []string
		if *hosts != "" {
			more = strings.Split(*hosts, ",")
		}
		d, err := certs.WriteDev(*dir, more)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(in.Stdout, `made certificates in %[1]s

in the configuration:
  server {
    tls {
      cert_file      = %[3]q
      key_file       = %[4]q
      client_ca_file = %[2]q
    }
  }
  storage {
    tls {
      ca_file   = %[2]q
      cert_file = %[5]q
      key_file  = %[6]q
    }
  }

a storage node:
  coordinator storage ... -tls-cert %[7]s -tls-key %[8]s -tls-client-ca %[2]s \
    -join HOST:PORT -ca %[2]s -cert %[7]s -key %[8]s

a client:
  coordinator status -ca %[2]s -cert %[9]s -key %[10]s
`, *dir, d.CA, d.ServerCert, d.ServerKey, d.CoordinatorCert, d.CoordinatorKey, d.StorageCert, d.StorageKey, d.ClientCert, d.ClientKey)
		return err
	}
}
