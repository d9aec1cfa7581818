package client

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// StatusError is how a server ended an RPC that has failed.
type StatusError struct {
	Code    codes.Code
	Message string
	// Said is set if the server said so, with a status of gRPC. Else the code is what gRPC takes the end for: a page of HTTP that
	// is not found is Unimplemented too, and tells nothing of what a server can do.
	Said bool
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("the server ended an RPC with %v: %s", e.Code, e.Message)
}

// GRPCStatus lets package status of grpc-go see what it is.
func (e *StatusError) GRPCStatus() *status.Status { return status.New(e.Code, e.Message) }

// fields are those of the last headers that were read, as far as they matter here. Rejected: the framer's MetaHeadersFrame, which
// with its slices makes a third of what a client costs.
type fields struct {
	decoder             *hpack.Decoder
	http, code, message string // :status, grpc-status and grpc-message
}

func newFields() *fields {
	h := &fields{}
	h.decoder = hpack.NewDecoder(tableSize, func(f hpack.HeaderField) {
		switch f.Name {
		case ":status":
			h.http = f.Value
		case "grpc-status":
			h.code = f.Value
		case "grpc-message":
			h.message = f.Value
		}
	})
	return h
}

// read reads the fields of a frame, and of those that continue it.
func (h *fields) read(fr *http2.Framer, f *http2.HeadersFrame) error {
	h.http, h.code, h.message = "", "", ""
	_, err := h.decoder.Write(f.HeaderBlockFragment())
	for ended := f.HeadersEnded(); !ended && err == nil; {
		var next http2.Frame
		if next, err = fr.ReadFrame(); err != nil {
			break
		}
		more := next.(*http2.ContinuationFrame) // the framer lets nothing else follow
		_, err = h.decoder.Write(more.HeaderBlockFragment())
		ended = more.HeadersEnded()
	}
	if err == nil {
		err = h.decoder.Close()
	}
	if err != nil {
		return fmt.Errorf("read headers: %w", err)
	}
	return nil
}

// status is what the last headers of an RPC say of it, nil for success. If nothing of gRPC is in them, somebody answered who
// is no gRPC server.
func (h *fields) status() error {
	if h.code == "" {
		return h.httpStatus()
	}
	n, err := strconv.ParseUint(h.code, 10, 32)
	if err != nil {
		return &StatusError{Code: codes.Unknown, Message: fmt.Sprintf("a status of %q, which is no number", h.code)}
	}
	if n == uint64(codes.OK) {
		return nil
	}
	message := h.message
	if plain, err := url.PathUnescape(message); err == nil {
		message = plain
	}
	return &StatusError{Code: codes.Code(n), Message: message, Said: true}
}

// httpStatus is what an answer without a status of gRPC amounts to. The codes are those of gRPC's "HTTP to gRPC Status Code
// Mapping".
func (h *fields) httpStatus() error {
	code := codes.Unknown
	switch n, _ := strconv.Atoi(h.http); n {
	case http.StatusBadRequest:
		code = codes.Internal
	case http.StatusUnauthorized:
		code = codes.Unauthenticated
	case http.StatusForbidden:
		code = codes.PermissionDenied
	case http.StatusNotFound:
		code = codes.Unimplemented
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		code = codes.Unavailable
	}
	return &StatusError{Code: code, Message: fmt.Sprintf("no status of gRPC, and status %q of HTTP", h.http)}
}

// resetStatus is what it means that the server reset a stream. The codes are those of "Errors" in gRPC's description of its
// use of HTTP/2.
func resetStatus(reset http2.ErrCode) error {
	code := codes.Internal
	switch reset {
	case http2.ErrCodeRefusedStream:
		code = codes.Unavailable
	case http2.ErrCodeCancel:
		code = codes.Canceled
	case http2.ErrCodeEnhanceYourCalm, http2.ErrCodeFlowControl:
		code = codes.ResourceExhausted
	case http2.ErrCodeInadequateSecurity:
		code = codes.PermissionDenied
	}
	return &StatusError{Code: code, Message: fmt.Sprintf("the stream was reset with %v", reset)}
}
