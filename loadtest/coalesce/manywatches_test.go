package coalesce

import (
	"fmt"
	"testing"

	"weir/loadtest/target/targettest"
)

// Creates may be sent one after the other without waiting for their answers, which come in the same order.
func TestThousandWatchesOnOneStream(t *testing.T) {
	t.Parallel()
	at(t, somewhere, func(s *site) {
		const n = 1000
		st := s.store()
		on := s.open(s.Ctx, s.dial())
		var specs []spec
		for i := range n {
			switch i % 4 {
			case 0:
				specs = append(specs, prefix("/a/"))
			case 1:
				specs = append(specs, spec{key: fmt.Sprintf("/a/%d", i%50)})
			case 2:
				specs = append(specs, prefix(fmt.Sprintf("/a/%d/", i%50)))
			case 3:
				specs = append(specs, spec{key: "/a/", end: "/b/", noDelete: true, prevKV: i%8 == 3})
			}
		}
		all := on.create(specs...)
		for i, w := range all {
			if w.id != int64(i) {
				s.Fatalf("watch %d was given the id %d", i, w.id)
			}
		}
		for i := range 50 {
			st.put(fmt.Sprintf("/a/%d", i), "1")
			st.putAll([]string{fmt.Sprintf("/a/%d/x", i), fmt.Sprintf("/a/%d/y", i)}, "2")
		}
		st.remove("/a/1", "/a/2")
		s.checkAll(all)

		// Half of them go, and those that stay do not notice.
		var gone, stay []*watch
		for i, w := range all {
			if i%2 == 0 {
				gone = append(gone, w)
				on.cancelWatch(w)
			} else {
				stay = append(stay, w)
			}
		}
		for _, w := range gone {
			r := w.awaitCancel()
			targettest.Want(s, "reason of a cancel that was asked for", r.CancelReason, "")
		}
		st.put("/a/1", "3")
		st.put("/a/2/x", "3")
		s.checkAll(stay)
	})
}

func TestChosenAndGeneratedIDsOnSharedFeeds(t *testing.T) {
	t.Parallel()
	at(t, somewhere, func(s *site) {
		st := s.store()
		conn := s.dial()
		var all []*watch
		for i := range 5 {
			on := s.open(s.Ctx, conn)
			a, b, c := prefix("/a/"), prefix("/a/"), prefix("/a/")
			a.id, b.id = int64(7+i), -3
			all = append(all, on.create(a, b, c)...)
			again := prefix("/b/")
			again.id = a.id
			// The answer to a taken id is created and cancelled at once, for nobody's id.
			refused := on.create(again)[0]
			targettest.Want(s, "canceled", refused.canceled != nil, true)
			targettest.Want(s, "reason", refused.canceled.GetCancelReason(), "mvcc: duplicate watch ID provided on the WatchStream")
			targettest.Want(s, "id", refused.created.WatchId, -1)
		}
		st.put("/a/1", "1")
		st.put("/b/1", "1")
		s.checkAll(all)
	})
}

func TestHalfClosedStreamsOnASharedFeedGoOn(t *testing.T) {
	t.Parallel()
	at(t, somewhere, func(s *site) {
		st := s.store()
		var all []*watch
		for _, on := range s.openMany(5, 4) {
			all = append(all, on.create(prefix("/a/"), spec{key: "/a/1"})...)
			s.Must(on.grpc.CloseSend())
		}
		for range 20 {
			st.put("/a/1", "1")
		}
		h := s.historySince(1)
		for _, w := range all {
			w.awaitEvents(20)
			h.check(w)
		}
	})
}

// Streams that end abruptly, with their connection or alone, take only their own watches along.
func TestClosedStreamsTakeOnlyTheirWatchesAlong(t *testing.T) {
	t.Parallel()
	at(t, somewhere, func(s *site) {
		st := s.store()
		var goes, stays []*watch
		for i, on := range s.openMany(10, 5) {
			w := on.create(prefix("/a/"), spec{key: "/a/1"})
			if i%2 == 0 {
				goes = append(goes, w...)
			} else {
				stays = append(stays, w...)
			}
		}
		for i := range 50 {
			st.put("/a/1", fmt.Sprint(i))
			goes[i%len(goes)].stream.cancel()
		}
		s.checkAll(stays)
	})
}
