package statuspage

import (
	"encoding/json"
	"math"
	"testing"
	"time"
)

func TestHistoryHasTheLastHourAndHowFastCountersGrow(t *testing.T) {
	h := newHistory([]Chart{{Lines: []Line{{Name: "gauge"}, {Name: "counter", Grows: true}}}})
	at := time.Unix(0, 0)
	for i := range maxSamples + 10 {
		h.add(at, []float64{float64(i), float64(10 * i)})
		at = at.Add(samplePeriod)
	}
	h.add(at, []float64{math.NaN(), 5}) // it has begun anew
	var samples [][]*float64
	if err := json.Unmarshal(h.json(), &samples); err != nil {
		t.Fatal(err)
	}
	if len(samples) != maxSamples {
		t.Fatalf("there are %d samples", len(samples))
	}
	if first := samples[0]; *first[0] != 11 || *first[1] != 2 {
		t.Errorf("the oldest is %v a second %v", *first[0], *first[1])
	}
	if last := samples[maxSamples-1]; last[0] != nil || last[1] != nil {
		t.Errorf("what is not known is %v %v", last[0], last[1])
	}
}
