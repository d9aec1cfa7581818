//go:build !unix

package process

// writable cannot tell here: who starts the program will see.
func writable(string) bool { return true }
