package grpcapi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

// A stream of the gateway can be spoken over a WebSocket (RFC 6455), which a browser cannot do over HTTP: each message
// to the server is a JSON value of the body, each line of the answer a message. It is what etcd has from
// github.com/tmc/grpc-websocket-proxy, which is not used here because it takes messages of any length, logs them, and
// leaves its connections open when the server stops.

// partTimeout bounds the sending of what begins and what ends a WebSocket. Nothing else could end the former: while it is
// sent the connection is neither net/http's any more nor closed with the context.
const partTimeout = time.Second

func isWebSocket(r *http.Request) bool { return websocket.IsWebSocketUpgrade(r) }

// serveWebSocket serves one stream, until it ends, the client leaves or the server is stopped, which the context tells.
func (g *gateway) serveWebSocket(w http.ResponseWriter, r *http.Request) {
	upgrader := websocket.Upgrader{
		HandshakeTimeout: partTimeout,
		// What CORS does for other requests, browsers leave to the server with a WebSocket.
		CheckOrigin: func(r *http.Request) bool { return g.origin.allow(r.Header.Get("Origin")) },
	}
	// A browser cannot set headers here. So the token is given as a protocol, "Bearer, <token>", or as a cookie.
	header := http.Header{}
	protocol, authorization := r.Header.Get("Sec-WebSocket-Protocol"), ""
	if scheme, token, ok := strings.Cut(protocol, ","); ok && strings.TrimSpace(scheme) == "Bearer" {
		authorization = "Bearer " + strings.TrimSpace(token)
	}
	if cookie, err := r.Cookie("token"); err == nil {
		authorization = "Bearer " + cookie.Value
	}
	if strings.HasPrefix(protocol, "Bearer") {
		header.Set("Sec-WebSocket-Protocol", "Bearer")
	}
	conn, err := upgrader.Upgrade(w, r, header)
	if err != nil {
		return // the client has been told
	}
	defer conn.Close()
	conn.SetReadLimit(int64(g.limit))

	// The server no longer knows the connection, and who waits for a client must not wait longer than the server lives.
	ctx, leave := context.WithCancel(r.Context())
	defer leave()
	defer context.AfterFunc(ctx, func() { conn.Close() })()

	request := r.Clone(ctx)
	request.Method = http.MethodPost
	request.Header = http.Header{}
	for _, name := range []string{"Origin", "Referer"} {
		if v := r.Header.Get(name); v != "" {
			request.Header.Set(name, v)
		}
	}
	if authorization != "" {
		request.Header.Set("Authorization", authorization)
	}
	request.Body = &socketBody{conn: conn, left: leave}
	answer := &socketAnswer{conn: conn, header: http.Header{}}
	g.serve(answer, request)
	answer.end()
}

// socketBody is the messages of a WebSocket, a newline after each. It is read by one goroutine at a time.
type socketBody struct {
	conn    *websocket.Conn
	message io.Reader // nil between two
	left    func()    // is called when the client has left
}

func (b *socketBody) Read(p []byte) (int, error) {
	if b.message == nil {
		_, message, err := b.conn.NextReader()
		if err != nil {
			b.left()
			return 0, io.EOF
		}
		b.message = io.MultiReader(message, strings.NewReader("\n"))
	}
	n, err := b.message.Read(p)
	switch {
	case errors.Is(err, io.EOF):
		b.message, err = nil, nil
	case err != nil:
		b.left()
	}
	return n, err
}

func (b *socketBody) Close() error { return nil } // serveWebSocket closes the connection

// socketAnswer is an http.ResponseWriter that sends each line as a message. There is no place for a status.
type socketAnswer struct {
	conn   *websocket.Conn
	header http.Header
	line   []byte // what has no end yet
}

func (a *socketAnswer) Header() http.Header { return a.header }

func (a *socketAnswer) WriteHeader(int) {}

// Flush is part of http.Flusher; each line is sent when it ends.
func (a *socketAnswer) Flush() {}

func (a *socketAnswer) Write(p []byte) (int, error) {
	n := len(p)
	for {
		line, rest, ended := bytes.Cut(p, []byte("\n"))
		if !ended {
			a.line = append(a.line, p...)
			return n, nil
		}
		if len(a.line) > 0 {
			line = append(a.line, line...)
			a.line = nil
		}
		if err := a.send(line); err != nil {
			return 0, err
		}
		p = rest
	}
}

func (a *socketAnswer) send(line []byte) error {
	if len(line) == 0 {
		return nil
	}
	return a.conn.WriteMessage(websocket.TextMessage, line)
}

// end sends what there is and says goodbye. Who has gone does not hear it.
func (a *socketAnswer) end() {
	if a.send(a.line) == nil {
		bye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
		_ = a.conn.WriteControl(websocket.CloseMessage, bye, time.Now().Add(partTimeout))
	}
}
