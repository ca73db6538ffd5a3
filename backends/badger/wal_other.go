//go:build !linux

package badger

import (
	"errors"
	"os"
)

func syncData(file *os.File) error { return file.Sync() }

func willNeed(*os.File, int64, int64) error { return errors.ErrUnsupported }
