package auth

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/goleak"
	"golang.org/x/crypto/bcrypt"
	"google.golang.org/protobuf/proto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is moved by the test.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// open returns a Store without records, whose passwords are cheap.
func open(t testing.TB, cfg Config) *Store {
	t.Helper()
	cfg.BcryptCost = bcrypt.MinCost
	s, err := Open(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// apply applies requests that must be granted, and returns all their records.
func apply(t testing.TB, s *Store, requests ...proto.Message) (records []Record) {
	t.Helper()
	for _, m := range requests {
		r, err := s.Apply(m)
		if err != nil {
			t.Fatalf("apply %T{%v}: %v", m, m, err)
		}
		records = append(records, r...)
	}
	return records
}

func enable() proto.Message  { return &pb.AuthEnableRequest{} }
func disable() proto.Message { return &pb.AuthDisableRequest{} }

func addUser(name string) proto.Message {
	return &pb.AuthUserAddRequest{Name: name, Options: &authpb.UserAddOptions{NoPassword: true}}
}

func addUserWithPassword(t testing.TB, s *Store, name, password string) proto.Message {
	t.Helper()
	return &pb.AuthUserAddRequest{Name: name, HashedPassword: hash(t, s, password)}
}

func hash(t testing.TB, s *Store, password string) string {
	t.Helper()
	hashed, err := s.HashPassword(t.Context(), password)
	if err != nil {
		t.Fatal(err)
	}
	return hashed
}

func addRole(name string) proto.Message { return &pb.AuthRoleAddRequest{Name: name} }

func grantRole(user, role string) proto.Message {
	return &pb.AuthUserGrantRoleRequest{User: user, Role: role}
}

func grant(role string, to authpb.Permission_Type, key, end string) proto.Message {
	p := &authpb.Permission{PermType: to, Key: []byte(key), RangeEnd: []byte(end)}
	return &pb.AuthRoleGrantPermissionRequest{Name: role, Perm: p}
}

// withRoot are the requests after which authentication is on.
func withRoot() []proto.Message {
	return []proto.Message{addUser(root), grantRole(root, root), enable()}
}

// describe writes down all that a Store answers about users and roles.
func describe(t testing.TB, s *Store) string {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "enabled %v revision %d\n", s.Enabled(), s.Revision())
	for _, name := range s.Users() {
		roles, err := s.User(name)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "user %q %q %v\n", name, roles, s.state.Load().users[name].stored.Password)
	}
	for _, name := range s.Roles() {
		permissions, err := s.Role(name)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "role %q", name)
		for _, p := range permissions {
			fmt.Fprintf(&b, " %v %q-%q", p.PermType, p.Key, p.RangeEnd)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// disk keeps records as a file would.
type disk map[string]Record

func (d disk) write(records []Record) {
	for _, r := range records {
		key := r.Kind.String() + "/" + string(r.Key)
		if d[key] = r; r.Value == nil {
			delete(d, key)
		}
	}
}

func (d disk) open(t testing.TB, cfg Config) *Store {
	t.Helper()
	s, err := Open(cfg, maps.Values(d))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func (d disk) String() string {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(d)) {
		fmt.Fprintf(&b, "%s=%q\n", key, d[key].Value)
	}
	return b.String()
}
