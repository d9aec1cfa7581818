package process

import (
	"errors"
	"fmt"
	"syscall"
)

// ListenError is the one line that says why an address cannot be listened on, and how to mend it.
func ListenError(address, flag string, err error) error {
	mend := "give another --" + flag
	if errors.Is(err, syscall.EADDRINUSE) {
		mend = "stop the process that listens there, or " + mend
	}
	return fmt.Errorf("listen on %s: %w: %s", address, err, mend)
}
