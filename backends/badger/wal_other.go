//go:build !linux

package badger

import "os"

func syncData(file *os.File) error { return file.Sync() }

func readOnlyWhatIsAsked(*os.File) {}
