package core

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/core/auth"
	"weir/core/mvcc"
)

// agreement is the level that all members have agreed on: which kinds of requests and of changes of the membership may be in the log.
// The applier changes it, anyone reads. doc.go lists the levels.
//
// While a cluster is upgraded, members of two releases run together, and what the newer one could write the older one could not
// apply: it would have to end, and with a majority of such members the cluster. So it is not written before all know it. The
// leader asks them, and puts the level that all know into the log; from there on a member that does not know it ends, does not start,
// and cannot join.
//
// It is not in the log who knows which level, as it is with etcd's versions of members (which tell clients something, see clusterVersion):
// a member would say it when it starts, and be believed when an older weir has long been started with its data.
type agreement struct {
	highest int // that this weir knows
	agreed  atomic.Int64
}

const (
	firstLevel  = 1 // of every new cluster, whatever its founders know: they must begin alike
	newestLevel = 1 // that this weir knows
)

// levelKey is the key of the cluster bucket. Where it is not, the level is the first.
var levelKey = []byte("weirLevel")

// loadAgreement reads what the store holds. It refuses a level above the highest one.
func loadAgreement(store stored, highest int) (*agreement, error) {
	agreed := firstLevel
	err := store.ForEach(mvcc.BucketCluster, func(key, value []byte) (err error) {
		if string(key) == string(levelKey) {
			agreed, err = strconv.Atoi(string(value))
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the level of the cluster: %w", err)
	}
	if err := mustKnow(agreed, highest); err != nil {
		return nil, err
	}
	a := &agreement{highest: highest}
	a.agreed.Store(int64(agreed))
	return a, nil
}

var errOldWeir = errors.New("start the newer weir that they run")

// mustKnow refuses to take part in what members have agreed on.
func mustKnow(agreed, highest int) error {
	if agreed > highest {
		return fmt.Errorf("the members have agreed on level %d, and this weir knows those up to %d: %w", agreed, highest, errOldWeir)
	}
	return nil
}

// replace makes the level that of by.
func (a *agreement) replace(by *agreement) { a.agreed.Store(by.agreed.Load()) }

func (a *agreement) level() int { return int(a.agreed.Load()) }

// permit refuses what a level has brought that is not agreed on.
func (a *agreement) permit(what fmt.Stringer, level int) error {
	if agreed := a.level(); level > agreed {
		return status.Errorf(codes.FailedPrecondition, "weir: %v takes level %d, and the members have agreed on %d: upgrade all of them", what, level, agreed)
	}
	return nil
}

// levelRaise is what has the level raised.
type levelRaise struct {
	Level int `json:"level"`
	// Members are those that know the level. If there is another one when the raise is applied, it raises nothing: that one was added
	// after the leader had asked.
	Members []uint64 `json:"members"`
}

// errNotAsked says that a raise was void.
var errNotAsked = errors.New("a member was added that has not been asked")

// apply carries out a raise, here and in the store.
func (a *agreement) apply(tx *mvcc.Entry, r *levelRaise, members []memberRecord) (result, error) {
	isNew := func(m memberRecord) bool { return !slices.Contains(r.Members, m.ID) }
	switch {
	case slices.ContainsFunc(members, isNew):
		return result{err: errNotAsked}, nil
	case r.Level <= a.level():
		return result{}, nil
	}
	if err := mustKnow(r.Level, a.highest); err != nil {
		return result{}, err
	}
	tx.Put(mvcc.BucketCluster, levelKey, []byte(strconv.Itoa(r.Level)))
	a.agreed.Store(int64(r.Level))
	return result{}, nil
}

const (
	// levelInterval is how often the leader asks whether there is a level that all members know.
	levelInterval = 4 * time.Second
	// levelTimeout is how long one of them may take to answer.
	levelTimeout = time.Second
)

const callLevel = "Level"

// answerLevel tells the highest level that this weir knows.
func (n *Node) answerLevel(context.Context, []byte) ([]byte, error) {
	return strconv.AppendInt(nil, int64(n.cfg.level), 10), nil
}

// tendLevel is the goroutine that, on the leader, has the level raised. Where nothing is newer than what is agreed on it does nothing.
func (n *Node) tendLevel() {
	defer n.goroutines.Done()
	var said string
	for {
		n.pause(n.cfg.levelInterval)
		if n.ctx.Err() != nil {
			return
		}
		from := n.agreement.level()
		to, err := n.raiseLevel(n.ctx)
		switch {
		case err == nil && to > from:
			n.logger.Info("raised the level that all members have agreed on", "from", from, "to", to)
			said = ""
		case err != nil && n.ctx.Err() == nil && err.Error() != said:
			said = err.Error()
			n.logger.Info("the level that all members have agreed on stays", "level", from, "newest", n.cfg.level, "because", said)
		}
	}
}

// raiseLevel has the highest level that all members know agreed on, if this member leads, and returns what is agreed on then. The error
// says why that is not the highest one that this member knows.
func (n *Node) raiseLevel(ctx context.Context) (level int, err error) {
	agreed, term := n.agreement.level(), n.tenure.ofTerm()
	if agreed >= n.cfg.level || term == 0 {
		return agreed, nil
	}
	r := levelRaise{Level: n.cfg.level}
	members := n.members.records()
	var behind []string
	for i, known := range n.askLevels(ctx, members) {
		id := members[i].ID
		r.Members = append(r.Members, id)
		r.Level = min(r.Level, known.level)
		switch {
		case known.err != nil:
			behind = append(behind, fmt.Sprintf("member %s does not tell its level: %v", idString(id), known.err))
		case known.level < n.cfg.level:
			behind = append(behind, fmt.Sprintf("member %s knows levels up to %d", idString(id), known.level))
		}
	}
	if r.Level > agreed {
		if err := n.proposeLevel(ctx, &r, term); err != nil {
			return agreed, err
		}
		agreed = r.Level
	}
	if len(behind) > 0 {
		return agreed, errors.New(strings.Join(behind, ", "))
	}
	return agreed, nil
}

func (n *Node) proposeLevel(ctx context.Context, r *levelRaise, term uint64) error {
	payload, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode a level: %w", err)
	}
	res, err := n.proposeAndWait(ctx, &request{
		kind: kindLevel, as: auth.Identity{}, payload: payload, decoded: r, under: term, done: make(chan result, 1),
	})
	if err != nil {
		return err
	}
	return res.err
}

// knownLevel is the highest level that a member knows: 0 if it does not tell, and err says why.
type knownLevel struct {
	level int
	err   error
}

// askLevels asks all members at once.
func (n *Node) askLevels(ctx context.Context, members []memberRecord) []knownLevel {
	ctx, cancel := context.WithTimeout(ctx, levelTimeout)
	defer cancel()
	known := make([]knownLevel, len(members))
	var asking sync.WaitGroup
	for i, m := range members {
		if m.ID == n.member.ID {
			known[i].level = n.cfg.level
			continue
		}
		asking.Go(func() { known[i] = n.askLevel(ctx, m.ID) })
	}
	asking.Wait()
	return known
}

func (n *Node) askLevel(ctx context.Context, id uint64) knownLevel {
	answer, err := n.callPeer(ctx, id, callLevel, nil)
	if err != nil {
		return knownLevel{err: errors.New(status.Convert(err).Message())}
	}
	level, err := strconv.Atoi(string(answer))
	return knownLevel{level, err}
}
