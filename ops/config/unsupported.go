package config

import "github.com/hashicorp/hcl/v2"

// refuseUnsupported reports the blocks that can be written but that this
// release does not act on yet. Each of them protects something: to accept one
// and do nothing would leave an operator believing in a protection that is not there.
func refuseUnsupported(d *decoder, f *fileSchema) {
	refuse := func(subject hcl.Range, what, without string) {
		d.report(subject, what+" is not supported by this release yet", "Remove the block; "+without+".")
	}
	for _, limits := range f.Limits {
		refuse(limits.Range, "limits", "without it no tenant is limited")
	}
}
