package reload

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"weir/loadtest/target"
)

const (
	operators = "tenants:\n- {name: operators, common-names: [operator]}\n"
	orders    = "- {name: orders, common-names: [orders], namespace: /orders/%s}\n"
	stock     = "- {name: stock, common-names: [stock], namespace: /stock/}\n"
	late      = "- {name: late, common-names: [late], namespace: /late/, max-keys: 2}\n"
)

func withLimit(limit string) string { return operators + fmt.Sprintf(orders, limit) + stock }

func TestFilesAreTakenOverUnderLoad(t *testing.T) {
	for _, kind := range []target.Kind{target.ProxyEtcd37, target.ProxyCore} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			takeOver(newSite(t, kind, withLimit("")))
		})
	}
}

func takeOver(s *site) {
	s.T.Helper()
	ordersID, stockID, lateID := s.issue("orders"), s.issue("stock"), s.issue("late")
	ordersClient, stockClient := s.dial(ordersID), s.dial(stockID)
	resp, err := s.store.Get(s.Ctx, "x")
	s.Must(err)
	lease, err := ordersClient.Grant(s.Ctx, 5)
	s.Must(err)
	pings, err := ordersClient.KeepAlive(s.Ctx, lease.ID)
	s.Must(err)
	go func() {
		for range pings { // they must be taken
		}
	}()
	_, err = ordersClient.Put(s.Ctx, "leased", "", clientv3.WithLease(lease.ID))
	s.Must(err)
	stop := s.writer("/orders/", "/stock/")
	kept, dropped := s.follow(ordersClient, resp.Header.Revision+1), s.follow(stockClient, resp.Header.Revision+1)
	s.reach(kept, 10)
	s.reach(dropped, 10)

	// Certificates.
	next := s.issue("")
	s.writeServer(next)
	s.Eventually(time.Minute, "the new certificate", func() error {
		got, err := s.served(ordersID)
		if err == nil && got != next.serial.String() {
			err = fmt.Errorf("it is still %s", got)
		}
		return err
	})
	s.write("crl.pem", s.revoke(lateID))
	s.Eventually(time.Minute, "the refusal of who is revoked", func() error {
		if _, err := s.served(lateID); err == nil {
			return errors.New("served")
		}
		return nil
	})
	if _, err := s.served(stockID); err != nil {
		s.T.Error(err)
	}
	tls := 0
	s.eventually("tls", func(n, _ int, stale bool, _ string) bool {
		tls = n
		return n >= 2 && !stale
	})
	s.write("server.crt", next.cert[:len(next.cert)-30])
	s.eventually("tls", func(n, refused int, stale bool, why string) bool {
		return n == tls && refused > 0 && stale && strings.Contains(why, "server.crt")
	})
	s.write("server.crt", next.cert)
	s.eventually("tls", func(_, _ int, stale bool, _ string) bool { return !stale })

	// Limits of a tenant, lowered and raised.
	watch := func() error {
		r, ok := <-ordersClient.Watch(clientv3.WithRequireLeader(s.Ctx), "other", clientv3.WithCreatedNotify())
		if !ok {
			return errors.New("closed")
		}
		return r.Err()
	}
	s.write("tenants.yaml", withLimit(", limits: {watches: 1}"))
	s.reloaded("tenants", 1)
	if err := watch(); !strings.Contains(fmt.Sprint(err), "too many requests") {
		s.T.Errorf("a watch above a limit that was lowered: %v", err)
	}
	s.write("tenants.yaml", withLimit(", limits: {watches: 3}"))
	s.reloaded("tenants", 2)
	if err := watch(); err != nil {
		s.T.Errorf("a watch within a limit that was raised: %v", err)
	}

	// A bad file, one that is cut off, and one that is away.
	good := withLimit(", limits: {watches: 3}")
	s.write("tenants.yaml", good+"- {name: stock, common-names: [z]}\n")
	s.eventually("tenants", func(n, refused int, stale bool, why string) bool {
		return n == 2 && refused == 1 && stale && strings.Contains(why, "tenants.yaml:5: ")
	})
	if got := s.metric(`weir_reload_refused{what="tenants"}`); got != "1" {
		s.T.Errorf("the metric is %s", got)
	}
	s.Must(os.Remove(filepath.Join(s.dir, "tenants.yaml")))
	s.eventually("tenants", func(_, refused int, stale bool, why string) bool {
		return refused == 2 && stale && strings.Contains(why, "no such file")
	})
	if _, err := stockClient.Put(s.Ctx, "still", ""); err != nil {
		s.T.Errorf("the tenants are gone with their file: %v", err)
	}
	if n := strings.Count(s.proxy.Log(), "tenants.yaml:5: "); n != 1 {
		s.T.Errorf("the log names the line %d times", n)
	}

	// A tenant who comes, at once with SIGHUP, and one who goes.
	s.write("crl.pem", s.revoke())
	s.write("tenants.yaml", good+late)
	s.signal(syscall.SIGHUP)
	s.reloaded("tenants", 3)
	s.Eventually(time.Minute, "the tenant who has come", func() error {
		_, err := s.dial(lateID).Put(s.Ctx, "a", "")
		return err
	})
	s.write("tenants.yaml", operators+fmt.Sprintf(orders, "")+late)
	select {
	case err := <-dropped.ended:
		if grpcstatus.Code(errors.Unwrap(err)) != codes.PermissionDenied && !strings.Contains(err.Error(), "the tenants have changed") {
			s.T.Errorf("who is no tenant any more is told %v", err)
		}
	case <-s.Ctx.Done():
		s.T.Fatal("the watch of who is no tenant any more goes on")
	}
	if _, err := stockClient.Get(s.Ctx, "k/1"); !errors.Is(err, rpctypes.ErrPermissionDenied) {
		s.T.Errorf("who is no tenant any more reads: %v", err)
	}

	// Options: some count, of the others it is said that they do not.
	s.write("proxy.yaml", "limit-watches: 1\nlog-level: debug\ncache-bytes: 1000000\n")
	s.reloaded("options", 1)
	s.logLevel("debug")
	if err := watch(); !strings.Contains(fmt.Sprint(err), "too many requests") {
		s.T.Errorf("a watch above a limit of the options: %v", err)
	}
	if !strings.Contains(s.proxy.Log(), `"msg":"changed options count only after a restart","flags":["cache-bytes"]`) {
		s.T.Error("nothing is said of what needs a restart")
	}
	s.write("proxy.yaml", "limit-watches: 1\nlog-level: loud\n")
	s.eventually("options", func(n, refused int, stale bool, why string) bool {
		return n == 1 && refused == 1 && stale && strings.Contains(why, "loud")
	})
	s.write("proxy.yaml", options)
	s.reloaded("options", 2)
	s.logLevel("info")
	s.signal(syscall.SIGUSR1)
	s.logLevel("debug")
	s.signal(syscall.SIGUSR2)
	s.logLevel("info")

	s.reach(kept, stop())
	if ttl, err := ordersClient.TimeToLive(s.Ctx, lease.ID); err != nil || ttl.TTL <= 0 {
		s.T.Errorf("the lease that was pinged is %+v, %v", ttl, err)
	}
}
