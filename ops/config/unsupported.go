package config

import "github.com/hashicorp/hcl/v2"

// refuseUnsupported reports the blocks that can be written but that this
// release does not act on yet. Each of them protects something: to accept one
// and do nothing would leave an operator believing in a protection that is not there.
func refuseUnsupported(d *decoder, f *fileSchema) {
	refuse := func(subject hcl.Range, what, without string) {
		d.report(subject, what+" is not supported by this release yet", "Remove the block; "+without+".")
	}
	for _, server := range f.Server {
		for _, tls := range server.TLS {
			refuse(tls.Range, "server.tls", "without it connections are in plain text")
		}
	}
	for _, storage := range f.Storage {
		for _, tls := range storage.TLS {
			refuse(tls.Range, "storage.tls", "without it connections to storage nodes are in plain text")
		}
	}
	for _, auth := range f.Auth {
		refuse(auth.Range, "auth", "without it every request is accepted")
	}
	for _, limits := range f.Limits {
		refuse(limits.Range, "limits", "without it no tenant is limited")
	}
}
