package linearizable

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// History is what a few clients did at the same time to keys that nobody else writes and that were not there before.
type History struct {
	Prefix string   // nobody else's keys begin so
	Keys   []string // in order; some may begin otherwise
	Ops    []*Op
}

// MaxKeys is how many keys a History may have.
const MaxKeys = 8

// checkTimeout ends the search for an order of a history's operations. Nearly all take less than a millisecond.
const checkTimeout = 20 * time.Second

// Check tells whether there is an order of the operations, with none before one that had ended when it was sent, in which a
// map of keys and values would have given the same answers. It says Unknown if that takes too long to find out.
//
// Writes that failed may have happened at any time after they were sent, or never.
func (h *History) Check() porcupine.CheckResult {
	return porcupine.CheckOperationsTimeout(h.model(), h.operations(), checkTimeout)
}

// Visualize checks the history and writes a page that shows it to a file.
func (h *History) Visualize(path string) error {
	m := h.model()
	_, info := porcupine.CheckOperationsVerbose(m, h.operations(), checkTimeout)
	return porcupine.VisualizePath(m, info, path)
}

// operations are those whose place in the order says something: not reads that failed, nor those that may be old, are of
// a past revision, or reach beyond the history's keys.
func (h *History) operations() []porcupine.Operation {
	var ops []porcupine.Operation
	var end int64
	for _, o := range h.Ops {
		end = max(end, int64(o.Return)+1)
	}
	for _, o := range h.Ops {
		if o.Response == nil && !o.writes() || !o.linearizable() || !h.covers(&o.Request) {
			continue
		}
		op := porcupine.Operation{ClientId: o.Client, Input: &o.Request, Call: int64(o.Call), Output: o.Response, Return: int64(o.Return), Metadata: o.Server}
		if o.Response == nil {
			op.Return = end
		}
		ops = append(ops, op)
	}
	return ops
}

// covers tells whether a request is all about the newest state of the history's keys.
func (h *History) covers(r *Request) bool {
	for _, s := range r.steps() {
		own := slices.Contains(h.Keys, s.Key)
		if s.End != "" {
			own = strings.HasPrefix(s.Key, h.Prefix) && (s.End == clientv3.GetPrefixRangeEnd(h.Prefix) || strings.HasPrefix(s.End, h.Prefix))
		}
		if !own || s.Read.Revision != 0 || s.Read.Serializable {
			return false
		}
	}
	return true
}

// state is a map of the history's keys: by the key's place among them its value, empty for none.
type state [MaxKeys]string

func (h *History) model() porcupine.Model {
	return porcupine.Model{
		Partition: h.partition,
		Init:      func() any { return state{} },
		Step: func(before, input, output any) (bool, any) {
			return h.step(before.(state), input.(*Request), output.(*Response))
		},
		DescribeOperation: func(input, output any) string {
			if a := output.(*Response); a != nil {
				return input.(*Request).String() + " => " + a.String()
			}
			return input.(*Request).String() + " => ?"
		},
		DescribeState:             func(s any) string { return h.describe(s.(state)) },
		DescribeOperationMetadata: func(server any) string { return server.(string) },
	}
}

func (h *History) describe(s state) string {
	var all []string
	for i, key := range h.Keys {
		if s[i] != "" {
			all = append(all, strings.TrimPrefix(key, h.Prefix)+"="+s[i])
		}
	}
	return "{" + strings.Join(all, " ") + "}"
}

// step does a request, and tells whether its answer is right; nil may be any.
func (h *History) step(s state, r *Request, a *Response) (bool, state) {
	steps, succeeded := r.Then, h.compare(s, r.Compare)
	if !succeeded {
		steps = r.Else
	}
	if a != nil && (a.Succeeded != succeeded || len(a.Results) != len(steps)) {
		return false, s
	}
	for i, one := range steps {
		var want Result
		switch one.Kind {
		case Put:
			s[slices.Index(h.Keys, one.Key)] = one.Value
		case DeleteRange:
			for k, key := range h.Keys {
				if s[k] != "" && holds(one.Key, one.End, key) {
					s[k] = ""
					want.Deleted++
				}
			}
		default:
			want = one.Read.of(h.pairs(s, one.Key, one.End))
		}
		if a != nil && !sameValues(a.Results[i], want) {
			return false, s
		}
	}
	return true, s
}

func (h *History) compare(s state, c Compare) bool {
	i := slices.Index(h.Keys, c.Key)
	return c.Key == "" || s[i] == c.Value
}

func (h *History) pairs(s state, key, end string) []KV {
	var kvs []KV
	for i, k := range h.Keys {
		if s[i] != "" && holds(key, end, k) {
			kvs = append(kvs, KV{Key: k, Value: s[i]})
		}
	}
	return kvs
}

// of is what a Range with these options gives where kvs is all there is, in order of keys.
func (r Read) of(kvs []KV) Result {
	result := Result{Count: int64(len(kvs))}
	if r.CountOnly {
		return result
	}
	if r.Limit > 0 && int64(len(kvs)) > r.Limit {
		kvs, result.More = kvs[:r.Limit], true
	}
	for _, kv := range kvs {
		if r.KeysOnly {
			kv.Value = ""
		}
		result.KVs = append(result.KVs, kv)
	}
	return result
}

// sameValues compares all but revisions and versions.
func sameValues(a, b Result) bool {
	return a.More == b.More && a.Count == b.Count && a.Deleted == b.Deleted &&
		slices.EqualFunc(a.KVs, b.KVs, func(a, b KV) bool { return a.Key == b.Key && a.Value == b.Value })
}

// partition parts the operations so that no two parts have a key in common: each part may be put in order by itself, which
// is far cheaper. A list of all keys leaves but one part.
func (h *History) partition(ops []porcupine.Operation) [][]porcupine.Operation {
	var part [MaxKeys]int // by key: the lowest key that it is joined with
	for i := range part {
		part[i] = i
	}
	touched := func(op porcupine.Operation) []int {
		r := op.Input.(*Request)
		var all []int
		for i, key := range h.Keys {
			if r.Compare.Key == key || slices.ContainsFunc(r.steps(), func(s Step) bool { return holds(s.Key, s.End, key) }) {
				all = append(all, i)
			}
		}
		return all
	}
	for _, op := range ops {
		keys := touched(op)
		for _, k := range keys[1:] {
			from, to := max(part[keys[0]], part[k]), min(part[keys[0]], part[k])
			for i := range part {
				if part[i] == from {
					part[i] = to
				}
			}
		}
	}
	parts := map[int][]porcupine.Operation{}
	for _, op := range ops {
		p := part[touched(op)[0]]
		parts[p] = append(parts[p], op)
	}
	var sorted [][]porcupine.Operation
	for _, p := range parts {
		sorted = append(sorted, p)
	}
	slices.SortFunc(sorted, func(a, b []porcupine.Operation) int { return cmp.Compare(len(a), len(b)) })
	return sorted
}
