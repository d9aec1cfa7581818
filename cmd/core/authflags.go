package main

import (
	"errors"
	"fmt"
	"time"

	"weir/cmd/internal/process"
)

// authFlags are how users log in.
type authFlags struct {
	token      string
	tokenTTL   uint // s
	bcryptCost uint
}

func (a *authFlags) define(f *process.Flags) {
	f.StringVar(&a.token, "auth-token", "simple", "Kind of tokens: 'simple', or 'jwt' with its options, as in jwt,pub-key=a.pem,priv-key=b.pem,sign-method=RS256,ttl=10m.")
	f.UintVar(&a.tokenTTL, "auth-token-ttl", 300, "Time in seconds that a simple token lives after its last use.")
	f.UintVar(&a.bcryptCost, "bcrypt-cost", 10, "Cost of hashing a password, 4 to 31.")
}

func (a *authFlags) apply(_ *process.Flags, o *options) error {
	const maxTTL = 100 * 365 * 24 * 3600
	switch {
	case a.token == "":
		return errors.New("--auth-token must not be empty: give simple, or jwt with its options")
	case a.tokenTTL > maxTTL:
		return fmt.Errorf("--auth-token-ttl=%d is too long: at most %d", a.tokenTTL, maxTTL)
	}
	o.core.Auth.Token = a.token
	o.core.Auth.TokenTTL = time.Duration(a.tokenTTL) * time.Second
	o.core.Auth.BcryptCost = int(min(a.bcryptCost, 32)) // out of range is the default, as at etcd
	return nil
}
