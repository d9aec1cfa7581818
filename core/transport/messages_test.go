package transport

import (
	"bytes"
	"testing"
)

func TestMessagesArriveInOrderOnEachChannel(t *testing.T) {
	for name, options := range map[string][]option{
		"plaintext": nil,
		"TLS":       {withTLS(newAuthority(t).pair(t))},
		"unix":      {func(o *memberOptions) { o.unix = true }},
	} {
		t.Run(name, func(t *testing.T) {
			ms := []*member{start(t, 1, options...), start(t, 2, options...), start(t, 3, options...)}
			connect(ms...)
			const n = 500
			for i := range uint64(n) {
				for _, from := range ms {
					for _, to := range ms {
						if from != to {
							from.say(heartbeat(from, to, i), appendMsg(from, to, i, []byte("value")))
						}
					}
				}
			}
			for _, to := range ms {
				beats, appends := map[uint64]uint64{}, map[uint64]uint64{}
				for range n * 2 * (len(ms) - 1) {
					m := next(t, to.received)
					last := beats
					value := m.GetCommit()
					if len(m.GetEntries()) > 0 {
						last, value = appends, m.GetIndex()
					}
					if value != last[m.GetFrom()] {
						t.Fatalf("%s came after %d", brief(m), last[m.GetFrom()])
					}
					last[m.GetFrom()]++
				}
			}
			for _, m := range ms {
				if len(m.unreachable) > 0 {
					t.Errorf("member %d was told of a loss", m.id)
				}
			}
		})
	}
}

func TestMessageOfManyMegabytesArrives(t *testing.T) {
	a, b := start(t, 1), start(t, 2)
	connect(a, b)
	want := appendMsg(a, b, 1, bytes.Repeat([]byte("0123456789abcdef"), 1<<20), []byte("small"))
	a.say(want)
	wantMessage(t, next(t, b.received), want)
}
