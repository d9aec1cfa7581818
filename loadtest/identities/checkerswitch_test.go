package identities

import (
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// What is told here: authentication is off from 2 s on for a while, alice may read /a/ until that is revoked at 10 s, and the proxies'
// user has no rights from 20 s to 30 s. Each change takes a millisecond.
func switchStory(p promises, own as, off time.Duration) *checker {
	now := &rights{
		enabled: true, issues: map[string]int{alice: 1},
		users: map[string]user{alice: {"password", []string{"r1"}}, proxyUser: {proxyPassword, []string{string(own)}}},
		roles: map[string][]permission{"r1": {{"/a/", "/a0", authpb.READ}}},
	}
	l := &ledger{}
	l.changed("", 0, 0, now)
	change := func(at time.Duration, change func(*rights)) {
		now = now.clone()
		change(now)
		l.changed("", at, at+time.Millisecond, now)
	}
	change(2*time.Second, func(r *rights) { r.enabled = false })
	change(2*time.Second+off, func(r *rights) { r.enabled = true })
	change(10*time.Second, func(r *rights) { r.roles["r1"] = nil })
	change(20*time.Second, func(r *rights) { r.users[proxyUser] = user{proxyPassword, nil} })
	change(30*time.Second, func(r *rights) { r.users[proxyUser] = user{proxyPassword, []string{string(own)}} })
	return &checker{ledger: l, promises: p, own: own}
}

// A proxy forwards watches until it has found out that they can be shared. They end then, and none is excused for long.
func TestCheckerExcusesNoWatchForHavingBeenForwarded(t *testing.T) {
	const brief, long = time.Second, 4 * time.Second // that authentication is off
	for name, c := range map[string]struct {
		kind          target.Kind
		own           as
		off           time.Duration
		who           *identity
		opened, event time.Duration
		want          bool // it is right
	}{
		"with the right":                      {target.ProxyEtcd37, asRoot, long, aliceIn(), 7 * time.Second, 9 * time.Second, true},
		"just after it":                       {target.ProxyEtcd37, asRoot, long, aliceIn(), 7 * time.Second, 12 * time.Second, true},
		"long after it":                       {target.ProxyEtcd37, asRoot, long, aliceIn(), 7 * time.Second, 14 * time.Second, false},
		"long after it, looked at once":       {target.ProxyEtcd37, asReader, long, aliceIn(), 7 * time.Second, 14 * time.Second, true},
		"while the proxies know nothing":      {target.ProxyEtcd37, asRoot, long, aliceIn(), 25 * time.Second, 28 * time.Second, true},
		"while the members do":                {target.ProxyCore, asRoot, long, aliceIn(), 25 * time.Second, 28 * time.Second, false},
		"when the proxies know again":         {target.ProxyEtcd37, asRoot, long, aliceIn(), 25 * time.Second, 34 * time.Second, false},
		"before they can":                     {target.ProxyEtcd37, asRoot, long, aliceIn(), 25 * time.Second, 32 * time.Second, true},
		"forwarded, when they know again":     {target.ProxyEtcd37, asReader, long, aliceIn(), 25 * time.Second, 34 * time.Second, false},
		"from before a switch":                {target.ProxyEtcd37, asReader, long, aliceIn(), time.Second, 9500 * time.Millisecond, false},
		"from before one, without identity":   {target.ProxyEtcd37, asNobody, long, aliceIn(), time.Second, 9500 * time.Millisecond, false},
		"just after a switch":                 {target.ProxyEtcd37, asReader, long, aliceIn(), time.Second, 8 * time.Second, true},
		"from before a brief one":             {target.ProxyEtcd37, asReader, brief, aliceIn(), time.Second, 9 * time.Second, true},
		"nobody":                              {target.ProxyEtcd37, asRoot, brief, nil, 2500 * time.Millisecond, 9 * time.Second, false},
		"nobody, looked at once":              {target.ProxyEtcd37, asReader, brief, nil, 2500 * time.Millisecond, 9 * time.Second, true},
		"nobody, forwarded":                   {target.ProxyEtcd37, asNobody, brief, nil, 2500 * time.Millisecond, 9 * time.Second, true},
		"nobody, forwarded to a core":         {target.ProxyCore, asNobody, brief, nil, 2500 * time.Millisecond, 9 * time.Second, false},
		"nobody, just after a switch":         {target.ProxyEtcd37, asRoot, brief, nil, 2500 * time.Millisecond, 5 * time.Second, true},
		"nobody, when the proxies know again": {target.ProxyEtcd37, asReader, brief, nil, 2500 * time.Millisecond, 34 * time.Second, false},
		"nobody, at etcd":                     {target.Etcd37, asNobody, brief, nil, 2500 * time.Millisecond, 34 * time.Second, true},
		"nobody, at a core":                   {target.Core, asNobody, brief, nil, 2500 * time.Millisecond, 34 * time.Second, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := switchStory(promised(c.kind, c.own), c.own, c.off)
			pair := &mvccpb.KeyValue{Key: []byte("/a/1"), CreateRevision: 2, ModRevision: 2, Version: 1}
			s.history = &history{events: []*mvccpb.Event{{Kv: pair}}, last: 2}
			s.begin([]write{{2, c.event}})
			w := &watch{in: permission{key: "/a/", end: "/a0"}, from: 2, sent: c.opened, answered: c.opened}
			w.events = []received{{&mvccpb.Event{Kv: pair}, c.event + time.Millisecond}}
			s.eventsOf(&watchStream{who: c.who, opened: c.opened}, w)
			targettest.Want(t, s.summary(), len(s.wrong) == 0, c.want)
		})
	}
}
