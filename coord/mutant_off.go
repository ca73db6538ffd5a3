//go:build !mutant

package coord

const mutant = noMutant
