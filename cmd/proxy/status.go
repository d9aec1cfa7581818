package main

import (
	"encoding/json"
	"net/http"

	"weir/proxy"
)

// statusHandler tells what the proxy has in memory and what it has answered from there, as JSON.
func statusHandler(p *proxy.Proxy) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		_ = e.Encode(p.Status()) // the client may be gone
	}
}
