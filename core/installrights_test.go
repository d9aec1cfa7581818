package core

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	"weir/core/wal"
	"weir/grpcapi/wire"
)

// certifiedAs is the context of a request with the certificate of a user.
func certifiedAs(ctx context.Context, user string) context.Context {
	cert := &x509.Certificate{Subject: pkix.Name{CommonName: user}}
	return peer.NewContext(ctx, &peer.Peer{AuthInfo: credentials.TLSInfo{State: tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{cert}}}}})
}

// installedLog tells when the store serves what is new.
type installedLog struct {
	slog.Handler
	installed func()
}

func (installedLog) Enabled(context.Context, slog.Level) bool { return true }
func (l installedLog) WithAttrs([]slog.Attr) slog.Handler     { return l }
func (l installedLog) WithGroup(string) slog.Handler          { return l }

func (l installedLog) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "installed a store" {
		l.installed()
	}
	return nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// outcome is what becomes of a read: a value or an error.
type outcome struct {
	value string
	err   error
}

// Nobody has the rights of a snapshot in what is there before it, nor those of before in the snapshot.
func TestRightsAndDataAreOfOneState(t *testing.T) {
	const before, after = "before", "after"
	allowed := func(value string) outcome { return outcome{value: value} }
	denied, again := outcome{err: rpctypes.ErrGRPCPermissionDenied}, outcome{err: rpctypes.ErrGRPCAuthOldRevision}
	grant := func(t *testing.T, n *Node) {
		must(t, errOf(n.RoleGrantPermission(certifiedAs(t.Context(), "root"), &pb.AuthRoleGrantPermissionRequest{
			Name: "u", Perm: &authpb.Permission{PermType: authpb.READ, Key: []byte("k")},
		})))
	}
	enable := func(t *testing.T, n *Node) { must(t, errOf(n.AuthEnable(t.Context(), &pb.AuthEnableRequest{}))) }
	for _, c := range []struct {
		name             string
		isOn             bool // before
		change           func(*testing.T, *Node)
		replacing, at    outcome // of a read of u while the log is replaced, and when the store has been
		finally          outcome
		permittedEarlier error // of a read that was permitted before, and carried out when all is replaced
	}{
		{"u may read what is not secret any more", true, grant, denied, again, allowed(after), rpctypes.ErrGRPCAuthOldRevision},
		{"everybody may", true, func(t *testing.T, n *Node) {
			must(t, errOf(n.AuthDisable(certifiedAs(t.Context(), "root"), &pb.AuthDisableRequest{})))
		}, denied, again, allowed(after), rpctypes.ErrGRPCAuthOldRevision},
		{"nobody may read what is secret now", false, enable, allowed(before), again, denied, rpctypes.ErrGRPCAuthOldRevision},
		{"users are the same", true, func(*testing.T, *Node) {}, denied, again, denied, nil},
		{"there are no users", false, func(*testing.T, *Node) {}, allowed(before), allowed(after), allowed(after), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &snapshotStory{t: t, early: t.TempDir(), saved: filepath.Join(t.TempDir(), "saved")}
			certificates := func(cfg *Config) { cheapPasswords(cfg); cfg.ClientCertAuth = true }
			put := func(n *Node, value string) {
				raw, err := proto.Marshal(&pb.PutRequest{Key: []byte("k"), Value: []byte(value)})
				must(t, err)
				var r wire.PutRequest
				must(t, r.Unmarshal(raw))
				must(t, errOf(n.Put(certifiedAs(t.Context(), "root"), &r)))
			}
			n := openNode(t, s.early, certificates)
			for _, u := range []string{"root", "u"} {
				must(t, errOf(n.UserAdd(t.Context(), &pb.AuthUserAddRequest{Name: u, Password: u})))
				must(t, errOf(n.RoleAdd(t.Context(), &pb.AuthRoleAddRequest{Name: u})))
				must(t, errOf(n.UserGrantRole(t.Context(), &pb.AuthUserGrantRoleRequest{User: u, Role: u})))
			}
			put(n, before)
			if c.isOn {
				enable(t, n)
			}
			closeNode(t, n)
			late := filepath.Join(t.TempDir(), "late")
			must(t, os.CopyFS(late, os.DirFS(s.early)))
			n = openNode(t, late, certificates)
			put(n, after)
			c.change(t, n)
			s.save(n)
			closeNode(t, n)

			read := func() (o outcome) {
				b, err := n.Range(certifiedAs(t.Context(), "u"), &wire.RangeRequest{Key: []byte("k"), Serializable: true})
				if err != nil {
					return outcome{err: err}
				}
				return outcome{value: string(unmarshal(t, b, &pb.RangeResponse{}).Kvs[0].Value)}
			}
			log := &stallFS{FS: wal.OS()}
			var replacing, at []outcome
			n = atRest(t, s.early, certificates, func(cfg *Config) {
				cfg.LogFS = log
				cfg.Logger = slog.New(installedLog{installed: func() { at = append(at, read()) }})
			})
			log.syncing = func() { replacing = append(replacing, read()) }
			id, err := n.identify(certifiedAs(t.Context(), "u"))
			must(t, err)
			s.receive(s.early)
			must(t, s.install(n))
			log.syncing = nil
			want := func(when string, got []outcome, want outcome) {
				t.Helper()
				if len(got) == 0 {
					t.Errorf("%s: nothing was read", when)
				}
				for _, o := range got {
					if o.value != want.value || !errors.Is(o.err, want.err) {
						t.Errorf("%s: %q, %v, want %q, %v", when, o.value, o.err, want.value, want.err)
					}
				}
			}
			want("while the log is replaced", replacing, c.replacing)
			want("when the store has been replaced", at, c.at)
			want("afterwards", []outcome{read()}, c.finally)
			if err := n.auth.Unchanged(id.Revision); !errors.Is(err, c.permittedEarlier) {
				t.Errorf("a read that was permitted before: %v, want %v", err, c.permittedEarlier)
			}
		})
	}
}
