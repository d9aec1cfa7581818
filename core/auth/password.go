package auth

import (
	"context"
	"encoding/base64"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/crypto/bcrypt"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// errNoPasswordUser is what etcd says when a password is given for a user without one, and to a hash that is not base64.
var errNoPasswordUser = status.Error(codes.Unknown, "auth: authentication failed, password was given for no password user")

// HashPassword returns what goes into HashedPassword of a request: bcrypt's hash in base64. It takes 60 ms of a core at
// the default cost, so no more than half of the cores hash at a time, and who comes then waits. Error: Unknown for a
// password above 72 bytes, of which bcrypt would not see the rest; that of ctx if it ends first.
func (s *Store) HashPassword(ctx context.Context, pw string) (string, error) {
	if err := s.waitToHash(ctx); err != nil {
		return "", err
	}
	defer func() { <-s.hashing }()
	hash, err := bcrypt.GenerateFromPassword([]byte(pw), s.bcryptCost)
	if err != nil {
		return "", status.Error(codes.Unknown, err.Error())
	}
	return base64.StdEncoding.EncodeToString(hash), nil
}

func (s *Store) waitToHash(ctx context.Context) error {
	select {
	case s.hashing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// decodeHash gives no password for an empty hash. Nobody can log in with that.
func decodeHash(hashed string) ([]byte, error) {
	hash, err := base64.StdEncoding.DecodeString(hashed)
	if err != nil {
		return nil, errNoPasswordUser
	}
	return hash, nil
}

// CheckPassword returns the revision at which this was the user's password. If it is not the present one any more when
// the token has been assigned, the password may have changed in between and is to be checked again. It costs and waits
// like HashPassword. Errors: ErrGRPCAuthNotEnabled, ErrGRPCAuthFailed, Unknown for a user that has no password.
func (s *Store) CheckPassword(ctx context.Context, user, password string) (revision uint64, err error) {
	st := s.state.Load()
	if !st.enabled {
		return 0, rpctypes.ErrGRPCAuthNotEnabled
	}
	u := st.users[user]
	if u == nil {
		return 0, rpctypes.ErrGRPCAuthFailed
	}
	if u.noPassword() {
		return 0, errNoPasswordUser
	}
	if err := s.waitToHash(ctx); err != nil {
		return 0, err
	}
	defer func() { <-s.hashing }()
	if err := bcrypt.CompareHashAndPassword(u.stored.Password, []byte(password)); err != nil {
		return 0, rpctypes.ErrGRPCAuthFailed
	}
	return st.revision, nil
}
