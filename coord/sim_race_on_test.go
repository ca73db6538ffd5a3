//go:build race

package coord

const simRace = true
