package auth

import (
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

func TestNothingIsRefusedWhileAuthenticationIsOff(t *testing.T) {
	s := open(t, Config{})
	for _, id := range []Identity{{}, {User: "nobody", Revision: 1}} {
		for _, err := range permits(s, id, "a", "\x00") {
			if err != nil {
				t.Errorf("%v is refused: %v", id, err)
			}
		}
		if err := s.PermitAdmin(id); err != nil {
			t.Errorf("%v is refused: %v", id, err)
		}
	}
}

// permits asks for a range to be read, deleted, and its first key to be written.
func permits(s *Store, id Identity, key, end string) [3]error {
	return [3]error{
		s.PermitRange(id, []byte(key), []byte(end)),
		s.PermitDelete(id, []byte(key), []byte(end)),
		s.PermitPut(id, []byte(key)),
	}
}

func TestPermitsGiveEtcdsErrors(t *testing.T) {
	s := open(t, Config{})
	apply(t, s, addRole("r"), addRole("w"), grant("r", read, "a", "c"), grant("w", write, "b", ""), grant("w", readWrite, "x", ""),
		addUser("ann"), grantRole("ann", "r"), grantRole("ann", "w"), addUser("adm"), grantRole("adm", root))
	apply(t, s, withRoot()...)
	now := s.Revision()
	denied, old, empty := rpctypes.ErrGRPCPermissionDenied, rpctypes.ErrGRPCAuthOldRevision, rpctypes.ErrGRPCUserEmpty
	for name, c := range map[string]struct {
		id    Identity
		key   string
		end   string
		want  [3]error // of permits
		admin error
	}{
		"nobody":               {Identity{}, "a", "", [3]error{empty, empty, empty}, empty},
		"without a revision":   {Identity{User: root}, "a", "", [3]error{empty, empty, empty}, nil},
		"without a user":       {Identity{Revision: now}, "a", "", [3]error{denied, denied, denied}, empty},
		"an old revision":      {Identity{root, now - 1}, "a", "", [3]error{old, old, old}, nil},
		"a newer revision":     {Identity{root, now + 1}, "a", "", [3]error{}, nil},
		"a user that is gone":  {Identity{"eve", now}, "a", "", [3]error{denied, denied, denied}, rpctypes.ErrGRPCUserNotFound},
		"root":                 {Identity{root, now}, "a", "\x00", [3]error{}, nil},
		"who has root's role":  {Identity{"adm", now}, "a", "\x00", [3]error{}, nil},
		"what is only read":    {Identity{"ann", now}, "a", "", [3]error{nil, denied, denied}, denied},
		"what is both":         {Identity{"ann", now}, "b", "", [3]error{}, denied},
		"both, of one role":    {Identity{"ann", now}, "x", "", [3]error{}, denied},
		"a range that is read": {Identity{"ann", now}, "a", "c", [3]error{nil, denied, denied}, denied},
		"a range partly read":  {Identity{"ann", now}, "b", "d", [3]error{denied, denied, nil}, denied},
		"an open range":        {Identity{"ann", now}, "a", "\x00", [3]error{denied, denied, denied}, denied},
		"what is neither":      {Identity{"ann", now}, "c", "", [3]error{denied, denied, denied}, denied},
		"a range with nothing": {Identity{"ann", now}, "b", "a", [3]error{}, denied},
	} {
		t.Run(name, func(t *testing.T) {
			if got := permits(s, c.id, c.key, c.end); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
			if got := s.PermitAdmin(c.id); got != c.admin {
				t.Errorf("as an administrator: got %v, want %v", got, c.admin)
			}
		})
	}
}

func TestARightIsThereAsSoonAsItIsGrantedAndGoneWithItsRole(t *testing.T) {
	s := open(t, Config{})
	apply(t, s, withRoot()...)
	apply(t, s, addUser("ann"), addRole("r"), grantRole("ann", "r"))
	ann := func() Identity { return Identity{"ann", s.Revision()} }
	for range 2 {
		apply(t, s, grant("r", read, "a", ""))
		if err := s.PermitRange(ann(), []byte("a"), nil); err != nil {
			t.Errorf("granted: %v", err)
		}
		apply(t, s, &pb.AuthRoleRevokePermissionRequest{Role: "r", Key: []byte("a")})
		if err := s.PermitRange(ann(), []byte("a"), nil); err != rpctypes.ErrGRPCPermissionDenied {
			t.Errorf("revoked: %v", err)
		}
	}
	apply(t, s, grant("r", read, "a", ""), &pb.AuthRoleDeleteRequest{Role: "r"}, addRole("r"))
	if err := s.PermitRange(ann(), []byte("a"), nil); err != rpctypes.ErrGRPCPermissionDenied {
		t.Errorf("after another role of that name has come: %v", err)
	}
}

// TestReadersSeeOneStateEach turns a permission on at even revisions and off at odd ones, and asks for it all the time.
func TestReadersSeeOneStateEach(t *testing.T) {
	s := open(t, Config{})
	apply(t, s, withRoot()...)
	apply(t, s, addUser("ann"), addRole("r"), grantRole("ann", "r"))
	if s.Revision()%2 == 0 {
		apply(t, s, addRole("other"))
	}
	var wg sync.WaitGroup
	done := make(chan struct{})
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				id := s.IdentifyCN("ann")
				want := rpctypes.ErrGRPCPermissionDenied
				if id.Revision%2 == 0 {
					want = nil
				}
				if err := s.PermitRange(id, []byte("a"), nil); err != want && err != rpctypes.ErrGRPCAuthOldRevision {
					t.Errorf("at revision %d: %v", id.Revision, err)
				}
			}
		})
	}
	for range 2000 {
		apply(t, s, grant("r", read, "a", ""), &pb.AuthRoleRevokePermissionRequest{Role: "r", Key: []byte("a")})
	}
	close(done)
	wg.Wait()
}

func BenchmarkPermitRange(b *testing.B) {
	s := open(b, Config{})
	apply(b, s, addUser("ann"), addRole("r"), grantRole("ann", "r"))
	for i := range 1000 {
		apply(b, s, grant("r", read, string([]byte{'k', byte(i >> 8), byte(i), '/'}), string([]byte{'k', byte(i >> 8), byte(i), '0'})))
	}
	key := []byte("k\x01\x01/key")
	b.Run("off", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_ = s.PermitRange(Identity{}, key, nil)
		}
	})
	apply(b, s, withRoot()...)
	ann := s.IdentifyCN("ann")
	b.Run("on", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := s.PermitRange(ann, key, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
}
