package page

import (
	"bytes"
	"cmp"
	"context"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"weir/loadtest/proc"
	"weir/loadtest/target/targettest"
)

var bin *proc.Bin

// screenshots is where pictures are left; "" is nowhere.
var screenshots = flag.String("screenshots", "", "directory to leave pictures of the page in")

func TestMain(m *testing.M) {
	flag.Parse()
	targettest.Main(m, &bin)
}

// browser is a Chromium with one tab.
type browser struct {
	*testing.T
	ctx context.Context
}

// browsers are the names of Chromium's program, that of Debian first.
var browsers = []string{"chromium", "chromium-browser", "google-chrome"}

// openBrowser starts Chromium, which ends with the test.
func openBrowser(t *testing.T) *browser {
	t.Helper()
	var path string
	for _, name := range browsers {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		t.Fatal("Chromium is not installed, which this test needs: apt-get install chromium")
	}
	// What Chromium has beside the user's folder it leaves there when it is killed.
	scratch, err := os.MkdirTemp("", "weir-page") //nolint:usetesting // it has a socket, whose path may have 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(scratch); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	alloc, stop := chromedp.NewExecAllocator(ctx, append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.UserDataDir(t.TempDir()), chromedp.Env("TMPDIR="+scratch), chromedp.Flag("no-sandbox", true), chromedp.Flag("disable-gpu", true),
		// It is not to look for anything outside of this machine.
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true),
		chromedp.Flag("proxy-server", "direct://"), chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"),
	)...)
	t.Cleanup(stop)
	tab, closeTab := chromedp.NewContext(alloc)
	t.Cleanup(closeTab)
	b := &browser{t, tab}
	b.do("start Chromium")
	return b
}

// do has the browser do something, and fails the test if it cannot.
func (b *browser) do(what string, actions ...chromedp.Action[chromedp.Void]) {
	b.Helper()
	if err := chromedp.Do(b.ctx, actions...); err != nil {
		b.Fatalf("%s: %v", what, err)
	}
}

// evaluate is the value of an expression of JavaScript on the page.
func evaluate[T any](b *browser, expression string) T {
	b.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		b.Fatalf("evaluate %s: %v", expression, err)
	}
	return v
}

// within bounds how long the page may take to show something: it is looked at a few times a second, and changes once.
const within = 20 * time.Second

// await waits until an expression is true on the page.
func (b *browser) await(what, expression string) {
	b.Helper()
	tick := time.NewTicker(50 * time.Millisecond) // there is no signal for it
	defer tick.Stop()
	end := time.After(within)
	for !evaluate[bool](b, expression) {
		select {
		case <-tick.C:
		case <-end:
			b.Fatalf("the page does not show %s:\n%s", what, b.text("body"))
		}
	}
}

// text is what an element says.
func (b *browser) text(selector string) string {
	b.Helper()
	return evaluate[string](b, fmt.Sprintf("document.querySelector(%q)?.innerText ?? ''", selector))
}

// look is how somebody looks at the page.
type look struct {
	width, height int64
	scheme        string // light or dark
}

func (l look) String() string { return fmt.Sprintf("%s-%d", l.scheme, l.width) }

// command is a command of the protocol that has no answer.
func command[P any](c cdp.Command[P, cdp.Empty], params P) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, c, params)
		return err
	})
}

func (b *browser) view(l look) {
	b.Helper()
	scheme := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: l.scheme}}}
	b.do("look with "+l.String(), chromedp.EmulateViewport(l.width, l.height), command(emulation.SetEmulatedMedia, scheme))
}

// picture leaves a picture of what is to be seen in the window, if pictures are asked for.
func (b *browser) picture(name string, whole bool) {
	b.Helper()
	if *screenshots == "" {
		return
	}
	shoot := chromedp.CaptureScreenshot()
	if whole {
		shoot = chromedp.FullScreenshot(100)
	}
	taken, err := chromedp.Run(b.ctx, shoot)
	if err != nil {
		b.Fatalf("take a picture: %v", err)
	}
	if !whole {
		taken = smaller(b, taken)
	}
	if err := os.WriteFile(filepath.Join(*screenshots, name+".png"), taken, 0o644); err != nil {
		b.Fatal(err)
	}
}

// smaller has the 256 colours that there is most of, which are enough for a page: it is for the README.
func smaller(b *browser, taken []byte) []byte {
	b.Helper()
	full, err := png.Decode(bytes.NewReader(taken))
	if err != nil {
		b.Fatal(err)
	}
	few := image.NewPaletted(full.Bounds(), mostUsed(full, 256))
	draw.Draw(few, few.Bounds(), full, image.Point{}, draw.Src)
	var out bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, few); err != nil {
		b.Fatal(err)
	}
	return out.Bytes()
}

// mostUsed returns the colours of a picture of which there are most.
func mostUsed(m image.Image, n int) color.Palette {
	counts := map[color.Color]int{}
	for y := m.Bounds().Min.Y; y < m.Bounds().Max.Y; y++ {
		for x := m.Bounds().Min.X; x < m.Bounds().Max.X; x++ {
			counts[m.At(x, y)]++
		}
	}
	colours := slices.SortedFunc(maps.Keys(counts), func(a, b color.Color) int { return cmp.Compare(counts[b], counts[a]) })
	return colours[:min(n, len(colours))]
}
