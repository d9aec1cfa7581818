package process

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"go.etcd.io/etcd/api/v3/version"
)

// Version is of weir itself. What it says of etcd is the version whose API it speaks.
const Version = "0.1.0-dev"

// VersionText is what --version prints: the four lines that etcd prints, as scripts around it read them, then weir's own.
func VersionText(command string) string {
	return fmt.Sprintf("etcd Version: %s\nGit SHA: %s\nGo Version: %s\nGo OS/Arch: %s/%s\nweir %s Version: %s\n",
		version.Version, revision(), runtime.Version(), runtime.GOOS, runtime.GOARCH, command, Version)
}

// revision is the commit that the binary was built from, if the build recorded it (-buildvcs).
func revision() string {
	info, ok := debug.ReadBuildInfo()
	if ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return "not recorded"
}
