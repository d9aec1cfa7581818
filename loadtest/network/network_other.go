//go:build !linux

package network

import (
	"context"
	"errors"
)

// Network is for Linux. Elsewhere there is none.
type Network struct{}

// New fails: there are no network namespaces.
func New(context.Context, int) (*Network, error) {
	return nil, errors.New("make network namespaces: they are Linux's")
}

// Addr is never called, as New fails.
func (*Network) Addr(int) string { return "" }

// Command is never called, as New fails.
func (*Network) Command(_ int, command ...string) []string { return command }

// Device is never called, as New fails.
func (*Network) Device(int) string { return "" }

// Set is never called, as New fails.
func (*Network) Set(int, int, Link) {}

// Mend is never called, as New fails.
func (*Network) Mend() {}

// Close is never called, as New fails.
func (*Network) Close() error { return nil }
