package badger

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// syncData syncs what is needed to read a file's data again, which leaves out
// the time of its last change.
func syncData(file *os.File) error {
	for {
		if err := unix.Fdatasync(int(file.Fd())); !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}

// willNeed brings a part of file into the kernel's cache, and no more than that.
// The file may be closed meanwhile.
func willNeed(file *os.File, from, length int64) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = unix.Fadvise(int(fd), from, length, unix.FADV_WILLNEED) })
	return errors.Join(err, os.NewSyscallError("fadvise", failed))
}
