package differential

import (
	"context"
	"fmt"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
)

// answer is what one side said.
type answer struct {
	resp proto.Message
	err  error
	http string // what is compared beside, of an answer over the gateway; else ""
}

// ask sends a request to both sides, as who asks in this step. It is an error only if the answers differ.
func (r *runner) ask(ctx context.Context, req proto.Message) (answers [2]answer, err error) {
	return r.askOwn(ctx, func(*side) proto.Message { return req })
}

// askOwn is ask for requests with something in them that each side has named itself.
func (r *runner) askOwn(ctx context.Context, req func(*side) proto.Message) (answers [2]answer, err error) {
	shown := req(r.sides[0])
	name, send := nameOf(shown), func(ctx context.Context, s *side) answer { return s.call(ctx, r.who, req(s)) }
	if r.byGateway(shown) {
		body := r.bodyOptions()
		name, send = "JSON "+name, func(ctx context.Context, s *side) answer { return s.callJSON(ctx, r.who, req(s), body) }
	}
	return r.exchange(ctx, name, show(shown), send)
}

func nameOf(m proto.Message) string { return string(m.ProtoReflect().Descriptor().Name()) }

// both is ask for requests whose answers teach nothing.
func (r *runner) both(ctx context.Context, req proto.Message) error {
	_, err := r.ask(ctx, req)
	return err
}

// exchange has both sides answer at the same time, and compares their answers. shown is the request.
func (r *runner) exchange(ctx context.Context, name, shown string, send func(context.Context, *side) answer) (answers [2]answer, err error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	done := make(chan struct{})
	go func() {
		answers[1] = send(ctx, r.sides[1])
		close(done)
	}()
	answers[0] = send(ctx, r.sides[0])
	<-done
	return answers, r.compareAnswers(name, shown, answers)
}

// compareAnswers compares two answers.
func (r *runner) compareAnswers(name, shown string, answers [2]answer) error {
	var texts [2]string
	for i, a := range answers {
		r.sides[i].learn(a.resp)
		texts[i] = r.sides[i].text(a)
	}
	r.report[name+" "+status.Code(answers[0].err).String()]++
	if texts[0] != texts[1] {
		return fmt.Errorf("answers differ\nrequest %s, by %s:\n%s\n%s answers:\n%s\n%s answers:\n%s",
			name, r.who, shown, r.sides[0].name, texts[0], r.sides[1].name, texts[1])
	}
	return nil
}

// text is an answer in a form to be compared and shown.
func (s *side) text(a answer) string {
	if a.err != nil {
		return a.http + statusText(a.err)
	}
	if a.resp == nil {
		return a.http
	}
	m := proto.Clone(a.resp)
	s.normalize(m)
	return a.http + show(m)
}

// statusText shows an error as "Code: text".
func statusText(err error) string {
	s, ok := status.FromError(err)
	if !ok {
		return "not a status: " + err.Error()
	}
	return s.Code().String() + ": " + s.Message()
}

func show(m proto.Message) string {
	// prototext adds spaces at random so that nobody compares its output with a file; within a process it is stable.
	return prototext.MarshalOptions{Multiline: true, Indent: "  "}.Format(m)
}
