//go:build linux || darwin || freebsd

package badger

import "golang.org/x/sys/unix"

func diskSpace(dir string) (DiskSpace, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return DiskSpace{}, err
	}
	size := uint64(st.Bsize)
	return DiskSpace{Free: uint64(st.Bavail) * size, Total: uint64(st.Blocks) * size}, nil
}
