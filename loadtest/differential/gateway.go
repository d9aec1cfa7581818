package differential

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// canonical is how etcd's gateway writes JSON.
var canonical = protojson.MarshalOptions{UseProtoNames: true}

// bodyOptions is one of the ways in which clients write JSON.
func (r *runner) bodyOptions() protojson.MarshalOptions {
	return protojson.MarshalOptions{UseProtoNames: r.chance(2), UseEnumNumbers: r.chance(2), EmitUnpopulated: r.chance(4)}
}

// byGateway decides whether a request goes over the gateway. Serializable reads do not: how old their answers may be is
// promised to a connection, and the gateway is another.
func (r *runner) byGateway(req proto.Message) bool {
	return r.chance(8) && !readsSerializably(req)
}

func readsSerializably(req proto.Message) bool {
	switch req := req.(type) {
	case *pb.RangeRequest:
		return req.Serializable
	case *pb.TxnRequest:
		ops := slices.Concat(req.Success, req.Failure)
		for _, op := range ops {
			if op.GetRequestRange().GetSerializable() || op.GetRequestTxn() != nil && readsSerializably(op.GetRequestTxn()) {
				return true
			}
		}
		return len(ops) == 0 // what it compares counts as read serializably
	}
	return false
}

// callJSON sends a request to its RPC over the gateway.
func (s *side) callJSON(ctx context.Context, who *identity, req proto.Message, body protojson.MarshalOptions) answer {
	to, err := s.rpcOf(req)
	if err != nil {
		return answer{err: err}
	}
	text, err := body.Marshal(req)
	if err != nil {
		return answer{err: fmt.Errorf("write %T as JSON: %w", req, err)}
	}
	return s.post(ctx, who, to.path, text, to.response.New().Interface())
}

// post sends a body to the gateway and reads the answer into resp.
func (s *side) post(ctx context.Context, who *identity, path string, body []byte, resp proto.Message) answer {
	r, err := s.openJSON(ctx, who, path, bytes.NewReader(body))
	if err != nil {
		return answer{err: err}
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return answer{err: fmt.Errorf("read the answer of %s: %w", path, err)}
	}
	if r.StatusCode != http.StatusOK {
		return answer{err: statusOf(text), http: headOf(r)}
	}
	if err := parse(text, resp); err != nil {
		return answer{err: err, http: headOf(r)}
	}
	return answer{resp: resp, http: headOf(r)}
}

// openJSON sends a body to the gateway.
func (s *side) openJSON(ctx context.Context, who *identity, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.target.Endpoint+path, body)
	if err != nil {
		return nil, fmt.Errorf("make a request for %s: %w", path, err)
	}
	req.Header.Set("Content-Type", "application/json")
	if who != nil {
		req.Header.Set("Authorization", who.tokens[s.index])
	}
	r, err := s.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("POST %s: %w", path, err)
	}
	return r, nil
}

// headOf is what is compared of an answer's head: its status, and its fields less those that are of the day and the length.
func headOf(r *http.Response) string {
	head := "HTTP " + r.Status + "\n"
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		if name != "Date" && name != "Content-Length" {
			head += name + ": " + strings.Join(r.Header[name], ", ") + "\n"
		}
	}
	return head
}

// parse reads a message, and makes sure that it was written as etcd does: then comparing messages is comparing texts.
func parse(text []byte, m proto.Message) error {
	if err := protojson.Unmarshal(text, m); err != nil {
		return fmt.Errorf("read %.300s: %w", text, err)
	}
	again, err := canonical.Marshal(m)
	if err != nil {
		return fmt.Errorf("write %T as JSON: %w", m, err)
	}
	got, err := compact(text)
	if err != nil {
		return err
	}
	if want, err := compact(again); err != nil || got != want {
		return fmt.Errorf("the gateway answers %s, where etcd's way to write it is %s (%w)", got, want, err)
	}
	return nil
}

// compact takes out of JSON the spaces, which protojson sets at random so that nobody compares its output with a file.
func compact(text []byte) (string, error) {
	var b bytes.Buffer
	if err := json.Compact(&b, text); err != nil {
		return "", fmt.Errorf("read %.300s: %w", text, err)
	}
	return b.String(), nil
}

// statusOf is the error in the body of an answer that is not 200; as it is if it is not one of the gateway's.
func statusOf(text []byte) error {
	var s spb.Status
	if err := parse(text, &s); err != nil {
		return fmt.Errorf("body %q", text)
	}
	// Errors of protobuf's parser have a space that is at random a non-breaking one.
	s.Message = strings.ReplaceAll(s.Message, "\u00a0", " ")
	return status.FromProto(&s).Err()
}

// malformed are bodies that no RPC, or only some, can read. None changes anything but keys.
var malformed = []string{
	"", " ", "{", "}", "null", "[]", "1", `"x"`, "{}", "{} {}", "{}x", `{"nonsense":true}`, `{"key":1}`, `{"key":"not base64!"}`,
	`{"key":"YQ=="} {`, `{"key":"YQ"}`, `{"key":"YQ==","key":"Yg=="}`, `{"key":"-_8="}`, `{"key":null}`, `{"key":{}}`, `{"key":"YQ==","revision":1.5}`,
	`{"key":"YQ==","revision":"1"}`, `{"key":"YQ==","limit":1e0}`, `{"key":"YQ==","limit":"99999999999999999999"}`, `{"key":"YQ==","sort_order":"UP"}`,
	`{"key":"YQ==","sortOrder":"DESCEND","sort_target":1}`, `{"key":"YQ==","sort_order":77}`, `{"key":"YQ==","keys_only":"true"}`,
	`{"compare":[{"key":"YQ==","result":"EQUAL","target":"VALUE","value":"eA==","version":1}]}`, `{"compare":{}}`,
	`{"success":[{"request_range":{"key":"YQ=="},"request_put":{"key":"YQ=="}}]}`, `{"success":[null]}`, `{"failure":[{"request_range":{"key":"YQ=="}}]}`,
	`{"ID":"1","keys":true}`, `{"ID":1}`, `{"id":1}`, "{\"key\":\"\xff\"}", `{"key":"YQ==","value":"` + strings.Repeat("A", 4096) + `"}`,
}

// stepMalformed sends any body to an RPC that it hardly was meant for.
func (r *runner) stepMalformed(ctx context.Context) error {
	to := pick[proto.Message](r, &pb.RangeRequest{}, &pb.PutRequest{}, &pb.DeleteRangeRequest{}, &pb.TxnRequest{}, &pb.HashKVRequest{},
		&pb.LeaseTimeToLiveRequest{}, &pb.AlarmRequest{}, &pb.AuthUserGetRequest{}, &pb.AuthenticateRequest{})
	body := pick(r, malformed...)
	rpc, err := r.sides[0].rpcOf(to)
	if err != nil {
		return err
	}
	_, err = r.exchange(ctx, "JSON "+rpc.path, body, func(ctx context.Context, s *side) answer {
		return s.post(ctx, r.who, rpc.path, []byte(body), rpc.response.New().Interface())
	})
	if err != nil {
		return err
	}
	return r.refresh(ctx)
}

// stepWatchJSON watches over the gateway what was written since the last compaction.
func (r *runner) stepWatchJSON(ctx context.Context) error {
	root := r.asRoot()
	err := r.write(ctx, &pb.PutRequest{Key: []byte(keys[0])})
	root()
	if err != nil {
		return err
	}
	start := max(r.compact+1, r.rev-20)
	create := &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: start, PrevKv: r.chance(2) && start > r.compact+1}
	req := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}
	body, err := r.bodyOptions().Marshal(req)
	if err != nil {
		return fmt.Errorf("write a watch as JSON: %w", err)
	}
	_, err = r.exchange(ctx, "JSON watch", show(req), func(ctx context.Context, s *side) answer { return s.watchJSON(ctx, r.who, body, r.rev) })
	return err
}

// watchJSON is a watch over the gateway until the event of a revision has come, all answers put into one.
func (s *side) watchJSON(ctx context.Context, who *identity, body []byte, until int64) answer {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, err := s.openJSON(ctx, who, "/v3/watch", bytes.NewReader(body))
	if err != nil {
		return answer{err: err}
	}
	defer r.Body.Close()
	all := &pb.WatchResponse{}
	for results := json.NewDecoder(r.Body); ; {
		m := &pb.WatchResponse{}
		if err := nextResult(results, m); err != nil {
			return answer{err: err, http: headOf(r)}
		}
		proto.Merge(all, m)
		if n := len(m.Events); m.Canceled || n > 0 && m.Events[n-1].Kv.ModRevision >= until {
			all.Header.Revision = 0 // etcd states its newest with any history
			return answer{resp: all, http: headOf(r)}
		}
	}
}

// nextResult reads one answer of a stream. An error that the server sent is one of its status.
func nextResult(results *json.Decoder, m proto.Message) error {
	var line struct{ Result, Error json.RawMessage }
	if err := results.Decode(&line); err != nil {
		return fmt.Errorf("read a stream of the gateway: %w", err)
	}
	if line.Error != nil {
		return statusOf(line.Error)
	}
	return parse(line.Result, m)
}

// stepKeepAliveJSON sends pings over the gateway, as one body.
func (r *runner) stepKeepAliveJSON(ctx context.Context) error {
	var body []byte
	n := 1 + r.rng.IntN(3)
	shown := ""
	for range n {
		ping := &pb.LeaseKeepAliveRequest{ID: r.aLease()}
		text, err := r.bodyOptions().Marshal(ping)
		if err != nil {
			return fmt.Errorf("write a ping as JSON: %w", err)
		}
		body = append(append(body, text...), '\n')
		shown += show(ping)
	}
	_, err := r.exchange(ctx, "JSON keepalive", shown, func(ctx context.Context, s *side) answer { return s.pingsJSON(ctx, r.who, body) })
	return err
}

// pingsJSON is all answers to a body of pings, put into one text.
func (s *side) pingsJSON(ctx context.Context, who *identity, body []byte) answer {
	r, err := s.openJSON(ctx, who, "/v3/lease/keepalive", bytes.NewReader(body))
	if err != nil {
		return answer{err: err}
	}
	defer r.Body.Close()
	a := answer{http: headOf(r)}
	for results := json.NewDecoder(r.Body); ; {
		m := &pb.LeaseKeepAliveResponse{}
		if !results.More() {
			return a
		}
		if a.err = nextResult(results, m); a.err != nil {
			return a
		}
		s.normalize(m)
		a.http += show(m)
	}
}
