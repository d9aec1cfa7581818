package check

import (
	"slices"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
)

// history is series of samples, from which Prometheus' engine reads.
type history []series

type series struct {
	labels  labels.Labels
	samples []chunks.Sample
}

// load makes a history from series in Prometheus' notation, each with its values, one every interval since time 0.
func load(t *testing.T, interval time.Duration, input map[string]string) (h history) {
	t.Helper()
	for name, values := range input {
		lset, values, err := parser.ParseSeriesDesc(name + " " + values)
		if err != nil {
			t.Fatalf("series %s: %v", name, err)
		}
		s := series{labels: lset}
		for i, v := range values {
			if !v.Omitted {
				s.samples = append(s.samples, sample{int64(i) * interval.Milliseconds(), v.Value})
			}
		}
		h = append(h, s)
	}
	return h
}

// firing are the labels with which an alert fires at a time: those for which its expression has held at each minute for as long as it
// asks for.
func (h history) firing(t *testing.T, rule rulefmt.Rule, at time.Duration) (all []labels.Labels) {
	t.Helper()
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 1e6, Timeout: time.Minute, LookbackDelta: 5 * time.Minute})
	defer engine.Close()
	start := at - time.Duration(rule.For)
	if start < 0 {
		return nil
	}
	query, err := engine.NewRangeQuery(t.Context(), h, nil, rule.Expr, time.UnixMilli(start.Milliseconds()), time.UnixMilli(at.Milliseconds()), time.Minute)
	if err != nil {
		t.Fatalf("%s: %v", rule.Alert, err)
	}
	defer query.Close()
	result, err := query.Exec(t.Context()).Matrix()
	if err != nil {
		t.Fatalf("%s: %v", rule.Alert, err)
	}
	evaluations := int((at-start)/time.Minute) + 1
	for _, s := range result {
		if len(s.Floats) == evaluations {
			all = append(all, s.Metric)
		}
	}
	slices.SortFunc(all, labels.Compare)
	return all
}

// Querier is storage.Queryable's.
func (h history) Querier(_, _ int64) (storage.Querier, error) {
	return &storage.MockQuerier{SelectMockFunction: func(_ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
		var found []series
		for _, s := range h {
			if !slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return !m.Matches(s.labels.Get(m.Name)) }) {
				found = append(found, s)
			}
		}
		return &selection{series: found}
	}}, nil
}

// selection is storage.SeriesSet over some series.
type selection struct {
	series []series
	next   int
}

func (s *selection) Next() bool { s.next++; return s.next <= len(s.series) }

func (s *selection) At() storage.Series {
	found := s.series[s.next-1]
	return storage.NewListSeries(found.labels, found.samples)
}

func (s *selection) Err() error                        { return nil }
func (s *selection) Warnings() annotations.Annotations { return nil }

// sample is chunks.Sample with a number.
type sample struct {
	at    int64
	value float64
}

func (s sample) T() int64                      { return s.at }
func (s sample) ST() int64                     { return 0 }
func (s sample) F() float64                    { return s.value }
func (s sample) H() *histogram.Histogram       { return nil }
func (s sample) FH() *histogram.FloatHistogram { return nil }
func (s sample) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (s sample) Copy() chunks.Sample           { return s }

// metricsOf are the metrics that an expression asks for, each with the labels that it goes by.
func metricsOf(t *testing.T, expr string) map[string][]string {
	t.Helper()
	parsed, err := parser.ParseExpr(expr)
	if err != nil {
		t.Errorf("%s: %v", expr, err)
		return nil
	}
	found := map[string][]string{}
	parser.Inspect(parsed, func(node parser.Node, _ []parser.Node) error {
		if v, ok := node.(*parser.VectorSelector); ok {
			found[v.Name] = append(found[v.Name], model.MetricNameLabel)
			for _, m := range v.LabelMatchers {
				found[v.Name] = append(found[v.Name], m.Name)
			}
		}
		return nil
	})
	return found
}
