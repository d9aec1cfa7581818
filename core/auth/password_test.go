package auth

import (
	"encoding/base64"
	"strings"
	"testing"
	"testing/synctest"

	"weir/internal/bubble"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/crypto/bcrypt"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestCheckPasswordGivesTheRevisionOrEtcdsError(t *testing.T) {
	s := open(t, Config{})
	apply(t, s, addUserWithPassword(t, s, "ann", "secret"), addUser("none"))
	if _, err := s.CheckPassword(t.Context(), "ann", "secret"); err != rpctypes.ErrGRPCAuthNotEnabled {
		t.Errorf("while authentication is off: %v", err)
	}
	apply(t, s, withRoot()...)
	if revision, err := s.CheckPassword(t.Context(), "ann", "secret"); err != nil || revision != s.Revision() {
		t.Errorf("got %d and %v, want %d", revision, err, s.Revision())
	}
	for _, c := range []struct {
		user, password string
		want           error
	}{
		{"ann", "wrong", rpctypes.ErrGRPCAuthFailed},
		{"ann", "", rpctypes.ErrGRPCAuthFailed},
		{"eve", "secret", rpctypes.ErrGRPCAuthFailed},
		{"none", "", errNoPasswordUser},
	} {
		if _, err := s.CheckPassword(t.Context(), c.user, c.password); err != c.want {
			t.Errorf("%s with %q: got %v, want %v", c.user, c.password, err, c.want)
		}
	}
}

func TestOnlyTheNewPasswordIsGoodAfterAChange(t *testing.T) {
	s := open(t, Config{})
	apply(t, s, withRoot()...)
	apply(t, s, addUserWithPassword(t, s, "ann", "old"), &pb.AuthUserChangePasswordRequest{Name: "ann", HashedPassword: hash(t, s, "new")})
	if _, err := s.CheckPassword(t.Context(), "ann", "old"); err != rpctypes.ErrGRPCAuthFailed {
		t.Errorf("old: %v", err)
	}
	if _, err := s.CheckPassword(t.Context(), "ann", "new"); err != nil {
		t.Errorf("new: %v", err)
	}
}

func TestAUserWithoutAPasswordGetsNone(t *testing.T) {
	s := open(t, Config{})
	apply(t, s, withRoot()...)
	apply(t, s, addUser("ann"), &pb.AuthUserChangePasswordRequest{Name: "ann", HashedPassword: hash(t, s, "new")})
	if _, err := s.CheckPassword(t.Context(), "ann", "new"); err != errNoPasswordUser {
		t.Errorf("got %v", err)
	}
}

func TestNobodyLogsInToAUserWithAnEmptyHash(t *testing.T) {
	s := open(t, Config{})
	apply(t, s, withRoot()...)
	apply(t, s, &pb.AuthUserAddRequest{Name: "ann", Password: "plain"})
	for _, password := range []string{"", "plain"} {
		if _, err := s.CheckPassword(t.Context(), "ann", password); err != rpctypes.ErrGRPCAuthFailed {
			t.Errorf("with %q: %v", password, err)
		}
	}
}

func TestTheHashHasTheCostOfTheConfig(t *testing.T) {
	for given, want := range map[int]int{0: 10, 3: 10, 32: 10, 4: 4, 5: 5} {
		s, err := Open(Config{BcryptCost: given}, nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := base64.StdEncoding.DecodeString(hash(t, s, "secret"))
		if err != nil {
			t.Fatal(err)
		}
		if cost, err := bcrypt.Cost(b); err != nil || cost != want {
			t.Errorf("cost %d: the hash has cost %d: %v", given, cost, err)
		}
	}
}

func TestAPasswordThatBcryptWouldCutIsRefused(t *testing.T) {
	s := open(t, Config{})
	hash(t, s, strings.Repeat("x", 72))
	_, err := s.HashPassword(t.Context(), strings.Repeat("x", 73))
	if status.Code(err) != codes.Unknown || !strings.Contains(err.Error(), "72 bytes") {
		t.Errorf("got %v", err)
	}
}

func TestHashingWaitsForItsTurn(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := open(t, Config{})
		apply(t, s, addUserWithPassword(t, s, "ann", "secret"))
		apply(t, s, withRoot()...)
		for range cap(s.hashing) {
			s.hashing <- struct{}{}
		}
		done := make(chan error, 2)
		go func() {
			_, err := s.CheckPassword(t.Context(), "ann", "secret")
			done <- err
		}()
		go func() {
			_, err := s.HashPassword(t.Context(), "secret")
			done <- err
		}()
		synctest.Wait()
		if len(done) > 0 {
			t.Error("did not wait")
		}
		if _, err := s.CheckPassword(t.Context(), "eve", "secret"); err != rpctypes.ErrGRPCAuthFailed {
			t.Errorf("a user that is not there, for which there is nothing to hash: %v", err)
		}
		<-s.hashing
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}
