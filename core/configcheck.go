package core

import "errors"

// Check tells what Open would refuse as far as that can be seen in the configuration, in the files that it names, and in which files there
// are in DataDir: none of those is opened, nobody is asked, and no host is looked up. Its error joins all that is wrong.
func (c Config) Check() error {
	c, err := c.withDefaults()
	if err != nil {
		return err
	}
	hasStore, _, dirErr := whose(c.DataDir)
	errs := []error{checkAuth(c), dirErr}
	if !hasStore && len(c.InitialCluster) > 0 { // it counts for a member without data alone
		_, err := ownEntry(c.InitialCluster, c.Name)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
