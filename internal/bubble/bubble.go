package bubble

import (
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
)

// processors keeps the number of Ps to give back when the last of the bubbles that are open at one time has ended: tests
// that run in parallel may each have one.
type processors struct {
	mu    sync.Mutex // guards what follows
	open  int
	taken int
}

var shared processors

// Test is synctest.Test, with one P for the whole process until f has returned. Tests may call it concurrently.
//
// Rejected: GOMAXPROCS=1 for all of `go test -race`. It takes the parallelism from the tests that are not in bubbles,
// and is not there when somebody runs one package by hand.
func Test(t *testing.T, f func(*testing.T)) {
	t.Helper()
	shared.enter()
	defer shared.leave()
	synctest.Test(t, f)
}

func (p *processors) enter() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open++; p.open == 1 {
		p.taken = runtime.GOMAXPROCS(1)
	}
}

func (p *processors) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open--; p.open == 0 {
		runtime.GOMAXPROCS(p.taken)
	}
}
