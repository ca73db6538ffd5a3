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

// readOnlyWhatIsAsked makes reads of file bring no more into the kernel's cache
// than they ask for, where the kernel agrees.
func readOnlyWhatIsAsked(file *os.File) {
	_ = unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_RANDOM)
}
