package page

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	clientv3 "go.etcd.io/etcd/client/v3"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// looks are those that the page is made for.
var looks = []look{{1280, 800, "light"}, {1280, 800, "dark"}, {360, 740, "light"}, {360, 740, "dark"}}

func TestPageFollowsWatchesAndAMemberThatIsKilled(t *testing.T) {
	s := targettest.NewSite(t, bin, target.ProxyCore, targettest.SiteOptions{Timeout: 2 * time.Minute, Members: 3, NoProxies: true})
	s.StartProxies(s.Cluster.Endpoints())
	client := targettest.Client(t, s.Endpoint())
	b := openBrowser(t)
	asked, complaints := b.listen()
	b.view(looks[0])
	b.do("load the page", chromedp.Navigate("http://"+s.Endpoint()+"/weir/"))
	b.await("that it is live", `document.getElementById("live").dataset.state === "live"`)
	b.await("three members, of which one leads", `(() => {
		const rows = [...document.querySelectorAll("#members tbody tr")].map((r) => r.innerText);
		return rows.length === 3 && rows.filter((r) => r.includes("leader")).length === 1 && rows.filter((r) => r.includes("in use")).length === 1;
	})()`)
	b.await("charts", `document.querySelectorAll("#charts figure svg path").length > 8`)
	targettest.Want(t, "watches at first", watchesShown(b), "0")

	ctx, cancel := context.WithCancel(s.Ctx)
	defer cancel()
	for i := range 300 {
		client.Watch(ctx, fmt.Sprintf("/services/api/%02d", i%30))
	}
	b.await("the watches that were opened", `document.getElementById("tiles").innerText.includes("Watches\n300")`)
	b.await("the feed that they share", `document.getElementById("feeds").innerText.includes("/services/api/")`)
	work(s, client)
	b.await("the range that is read most", `document.getElementById("ranges").innerText.includes("/config/")`)
	for _, l := range looks {
		b.view(l)
		b.fits(l)
		b.picture("window-"+l.String(), false)
		b.picture("whole-"+l.String(), true)
	}
	b.view(looks[0])
	b.picture("status", false)

	victim := s.Cluster.Members[1]
	s.Must(victim.Kill())
	s.Cleanup(func() { s.Must(victim.Restart()) }) // as it is to be found when the test ends
	b.await("that a member is gone", fmt.Sprintf(`(() => {
		const row = [...document.querySelectorAll("#members tbody tr")].find((r) => r.innerText.includes(%q));
		return row.querySelector("td.bad") !== null && document.getElementById("tiles").innerText.includes("2 of 3");
	})()`, victim.Addr))
	b.picture("killed", false)

	s.Must(s.Front().Kill())
	s.Cleanup(func() { s.Must(s.Front().Restart()) })
	b.await("that the proxy does not answer", `document.getElementById("live").dataset.state === "lost"`)
	for _, url := range asked() {
		if !strings.HasPrefix(url, "http://"+s.Endpoint()+"/weir/") {
			t.Errorf("the page has asked for %s", url)
		}
	}
	for _, c := range complaints() {
		t.Errorf("the browser complains: %s", c)
	}
}

func TestPageShowsItsMomentWithoutJavaScript(t *testing.T) {
	s := targettest.NewSite(t, bin, target.ProxyCore, targettest.SiteOptions{Timeout: 2 * time.Minute})
	b := openBrowser(t)
	b.view(look{360, 740, "dark"})
	b.do("load the page", command(emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}), chromedp.Navigate("http://"+s.Endpoint()+"/weir/"))
	text := b.text("main")
	for _, want := range []string{"Upstream members", s.Cluster.Members[0].Addr, "Coalescing", "Busiest ranges"} {
		if !strings.Contains(text, want) {
			t.Errorf("it does not say %q:\n%s", want, text)
		}
	}
	targettest.Want(t, "the state", strings.HasPrefix(b.text("#live"), "As of "), true)
}

func TestCoreHasAPage(t *testing.T) {
	s := targettest.NewSite(t, bin, target.Core, targettest.SiteOptions{Timeout: 2 * time.Minute, Members: 3})
	client := targettest.Client(t, s.Endpoint())
	b := openBrowser(t)
	b.view(looks[0])
	b.do("load the page", chromedp.Navigate("http://"+s.Endpoint()+"/weir/"))
	b.await("that it is live", `document.getElementById("live").dataset.state === "live"`)
	b.await("three members, of which one leads", `(() => {
		const rows = [...document.querySelectorAll("#members tbody tr")].map((r) => r.innerText);
		return rows.length === 3 && rows.filter((r) => r.includes("leader")).length === 1;
	})()`)
	client.Watch(s.Ctx, "/a/", clientv3.WithPrefix())
	b.await("a watch that was opened", `document.getElementById("tiles").innerText.includes("Watches\n1")`)
	_, err := client.Grant(s.Ctx, 600)
	s.Must(err)
	b.await("a lease", `document.getElementById("tiles").innerText.includes("Leases\n1")`)
	for _, l := range looks {
		b.view(l)
		b.fits(l)
		b.picture("core-"+l.String(), true)
	}
}

// watchesShown is how many watches the tile says.
func watchesShown(b *browser) string {
	b.Helper()
	return evaluate[string](b, `[...document.querySelectorAll("#tiles .tile")].find((t) => t.innerText.startsWith("Watches")).querySelector(".value").innerText`)
}

// fits fails the test if the page is wider than the window.
func (b *browser) fits(l look) {
	b.Helper()
	if evaluate[bool](b, `document.documentElement.scrollWidth > document.documentElement.clientWidth`) {
		b.Errorf("with %s the page is wider than the window", l)
	}
}

// listen notes what the browser asks for, and what it complains of.
func (b *browser) listen() (asked, complaints func() []string) {
	urls, said := &notes{}, &notes{}
	err := chromedp.Listen(b.ctx, func(event any) {
		switch e := event.(type) {
		case *network.EventRequestWillBeSent:
			urls.add(e.Request.URL)
		case *runtime.EventExceptionThrown:
			said.add(e.ExceptionDetails.Text)
		}
	})
	if err != nil {
		b.Fatalf("listen to the browser: %v", err)
	}
	b.do("listen to the network", command(network.Enable, network.EnableParams{}))
	return urls.all, said.all
}

// work has clients write and read for a while.
func work(s *targettest.Site, client *clientv3.Client) {
	s.Helper()
	value := strings.Repeat("v", 200)
	for i := range 200 {
		_, err := client.Put(s.Ctx, fmt.Sprintf("/config/service-%03d", i), value)
		s.Must(err)
	}
	lease, err := client.Grant(s.Ctx, 60)
	s.Must(err)
	_, err = client.KeepAlive(s.Ctx, lease.ID)
	s.Must(err)
	began := time.Now()
	// One read in 64 is looked at for what is read most: of so many some are, whatever the chance.
	for i := 0; i < 1500 || time.Since(began) < workTime(); i++ {
		_, err := client.Get(s.Ctx, "/config/", clientv3.WithPrefix())
		s.Must(err)
		_, err = client.Get(s.Ctx, fmt.Sprintf("/config/service-%03d", i%200), clientv3.WithSerializable())
		s.Must(err)
		if i%3 == 0 {
			_, err = client.Put(s.Ctx, fmt.Sprintf("/services/api/%02d", i%30), value)
			s.Must(err)
		}
	}
}

// workTime is longer for pictures, in which charts should have something to show.
func workTime() time.Duration {
	if *screenshots != "" {
		return 40 * time.Second
	}
	return 0
}
