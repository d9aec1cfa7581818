package page

import (
	"slices"
	"sync"
)

// notes are texts that come from elsewhere. The methods may be called concurrently.
type notes struct {
	mu    sync.Mutex // guards texts
	texts []string
}

func (n *notes) add(text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.texts = append(n.texts, text)
}

func (n *notes) all() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.texts)
}
