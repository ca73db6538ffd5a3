//go:build mutant

package coord

var mutant mutation
