package grpcapi

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/gorilla/websocket"
	"google.golang.org/grpc/test/bufconn"

	"weir/grpcapi/wire"
)

func openSocket(t *testing.T, url string, header http.Header) (*websocket.Conn, *http.Response, error) {
	t.Helper()
	c, resp, err := websocket.DefaultDialer.DialContext(t.Context(), strings.Replace(url, "http://", "ws://", 1), header)
	if err == nil {
		t.Cleanup(func() { c.Close() })
	}
	return c, resp, err
}

func receive(t *testing.T, c *websocket.Conn) string {
	t.Helper()
	kind, message, err := c.ReadMessage()
	if err != nil || kind != websocket.TextMessage {
		t.Fatalf("got %d %s, %v", kind, message, err)
	}
	return string(message)
}

func send(t *testing.T, c *websocket.Conn, message string) {
	t.Helper()
	if err := c.WriteMessage(websocket.TextMessage, []byte(message)); err != nil {
		t.Fatal(err)
	}
}

func TestWatchOverAWebSocket(t *testing.T) {
	url := startGateway(t, newMemStore(t))
	c, _, err := openSocket(t, url+"/v3/watch", nil)
	if err != nil {
		t.Fatal(err)
	}
	send(t, c, `{"create_request":{"key":"`+b64("a")+`"}}`)
	if got := receive(t, c); !strings.Contains(got, `"created"`) {
		t.Errorf("got %s", got)
	}
	send(t, c, `{"create_request":{"key":"`+b64("b")+`"}}`)
	if got := receive(t, c); !strings.Contains(got, `"created"`) {
		t.Errorf("got %s", got)
	}
	if code, body := postJSON(t, jsonClient(t), url+"/v3/kv/put", `{"key":"`+b64("b")+`"}`); code != 200 {
		t.Fatalf("got %d %s", code, body)
	}
	if got := receive(t, c); !strings.Contains(got, b64("b")) || strings.Contains(got, "\n") {
		t.Errorf("got %q", got)
	}
}

func TestWebSocketTellsAnErrorAndSaysGoodbye(t *testing.T) {
	url := startGateway(t, newMemStore(t))
	c, _, err := openSocket(t, url+"/v3/no/such/path", nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := receive(t, c); compact([]byte(got)) != `{"code":5,"message":"Not Found"}` {
		t.Errorf("got %s", got)
	}
	if _, _, err := c.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
		t.Errorf("got %v", err)
	}
}

// watchedStore tells who asks to watch.
type watchedStore struct {
	*memStore
	asked chan wire.Credentials
}

func (s *watchedStore) PermitWatch(ctx context.Context, _, _ []byte) (string, error) {
	s.asked <- wire.CredentialsOf(ctx)
	return "", nil
}

func TestWebSocketPassesTheToken(t *testing.T) {
	store := &watchedStore{newMemStore(t), make(chan wire.Credentials, 1)}
	url := startGateway(t, store)
	for name, c := range map[string]struct {
		header   http.Header
		protocol string
		want     wire.Credentials
	}{
		"protocol":   {http.Header{"Sec-Websocket-Protocol": {"Bearer, t.1"}}, "Bearer", wire.Credentials{HasToken: true, Token: "t.1"}},
		"no space":   {http.Header{"Sec-Websocket-Protocol": {"Bearer,t.1"}}, "Bearer", wire.Credentials{HasToken: true, Token: "t.1"}},
		"cookie":     {http.Header{"Cookie": {"token=t.2"}}, "", wire.Credentials{HasToken: true, Token: "t.2"}},
		"nothing":    {nil, "", wire.Credentials{}},
		"its header": {http.Header{"Authorization": {"t.3"}}, "", wire.Credentials{}}, // as at etcd
	} {
		t.Run(name, func(t *testing.T) {
			conn, resp, err := openSocket(t, url+"/v3/watch", c.header)
			if err != nil {
				t.Fatal(err)
			}
			if got := resp.Header.Get("Sec-WebSocket-Protocol"); got != c.protocol {
				t.Errorf("got protocol %q", got)
			}
			send(t, conn, `{"create_request":{"key":"aw=="}}`)
			if got := <-store.asked; got != c.want {
				t.Errorf("the backend was shown %+v", got)
			}
		})
	}
}

func TestWebSocketsOfStrangersAreRefused(t *testing.T) {
	s := NewBackendServer(Config{Gateway: true, CORS: []string{"https://ours.example"}, Logger: quiet()}, newMemStore(t))
	url := "http://" + start(t, s)
	for origin, allowed := range map[string]bool{"https://ours.example": true, "https://theirs.example": false, "": true} {
		header := http.Header{}
		if origin != "" {
			header.Set("Origin", origin)
		}
		c, resp, err := openSocket(t, url+"/v3/watch", header)
		switch {
		case allowed && err != nil:
			t.Errorf("%q: %v", origin, err)
		case !allowed && (err == nil || resp.StatusCode != http.StatusForbidden):
			t.Errorf("%q: got %v, %v", origin, resp.Status, err)
		case err == nil:
			c.Close()
		}
	}
}

func TestWebSocketBoundsMessages(t *testing.T) {
	s := NewBackendServer(Config{Gateway: true, MaxRequestBytes: 1000, Logger: quiet()}, newMemStore(t))
	c, _, err := openSocket(t, "http://"+start(t, s)+"/v3/watch", nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.WriteMessage(websocket.TextMessage, make([]byte, 2*(1000+frameOverhead)+1)) // it may be cut off meanwhile
	for {
		if _, _, err := c.ReadMessage(); err != nil {
			if strings.Contains(err.Error(), "timeout") {
				t.Error(err)
			}
			return
		}
	}
}

func TestStopEndsWebSockets(t *testing.T) {
	s := NewBackendServer(Config{Gateway: true, Logger: quiet()}, newMemStore(t))
	c, _, err := openSocket(t, "http://"+start(t, s)+"/v3/watch", nil)
	if err != nil {
		t.Fatal(err)
	}
	send(t, c, `{"create_request":{"key":"aw=="}}`)
	receive(t, c)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.Stop(ctx)
	for {
		if _, _, err := c.ReadMessage(); err != nil {
			return
		}
	}
}

// TestStopEndsWebSocketsThatNobodyReads: even the answer to the request for one may be more than the connection takes.
func TestStopEndsWebSocketsThatNobodyReads(t *testing.T) {
	s := NewBackendServer(Config{Gateway: true, Logger: quiet()}, newMemStore(t))
	l := bufconn.Listen(8)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l, Port{}) }()
	c, err := l.DialContext(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const request = "GET /v3/watch HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil { // the answer is being sent
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.Stop(ctx)
	if err := <-served; err != nil {
		t.Error(err)
	}
}
