package core

import (
	"errors"
	"path/filepath"

	"weir/core/wal"
)

// Check tells what Open would refuse as far as that can be seen in the configuration, in the files that it names, and in which files there
// are in DataDir: none of those is opened, nobody is asked, and no host is looked up. Its error joins all that is wrong.
func (c Config) Check() error {
	c, err := c.withDefaults()
	if err != nil {
		return err
	}
	_, _, dirErr := whose(c.DataDir)
	hasLog, logErr := wal.Exists(c.WALDir, c.LogFS)
	switch {
	case logErr != nil && dirErr != nil && c.WALDir == filepath.Join(c.DataDir, "member", "wal"):
		logErr = nil // that is the same mistake
	case logErr != nil:
		logErr = logDirError(logErr)
	}
	errs := []error{checkAuth(c), dirErr, logErr}
	if logErr == nil && !hasLog && len(c.InitialCluster) > 0 { // it counts for a member without a log alone
		_, err := ownEntry(c.InitialCluster, c.Name)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
