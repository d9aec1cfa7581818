package report

import "math"

// axis maps values to places along a chart, and has its round ticks. It is made by linear or logarithmic.
type axis struct {
	low, high float64 // values at its ends
	from, to  float64 // places of its ends
	log       bool
	ticks     []float64
}

// linear is an axis from 0 to a round number that is at least high, with three to six ticks.
func linear(high, from, to float64) axis {
	if high <= 0 {
		high = 1
	}
	step := math.Pow10(int(math.Floor(math.Log10(high))))
	for _, part := range []float64{.1, .2, .25, .5, 1, 2} { // of a power of ten
		if high/(step*part) <= 5 {
			step *= part
			break
		}
	}
	a := axis{from: from, to: to}
	n := int(math.Ceil(high/step - 1e-9))
	for i := range n + 1 {
		a.ticks = append(a.ticks, float64(i)*step)
	}
	a.high = float64(n) * step
	return a
}

// logarithmic is an axis that has low and high between two round numbers. low must be above 0.
func logarithmic(low, high, from, to float64) axis {
	steps := []float64{1, 2, 5}
	if high/low > 200 {
		steps = []float64{1}
	}
	a := axis{from: from, to: to, log: true}
	for decade := math.Floor(math.Log10(low)); a.high < high; decade++ {
		for _, step := range steps {
			tick := step * math.Pow10(int(decade))
			switch {
			case a.high >= high:
			case tick <= low:
				a.low, a.ticks = tick, []float64{tick}
			default:
				a.high, a.ticks = tick, append(a.ticks, tick)
			}
		}
	}
	return a
}

// at is the place of a value.
func (a axis) at(v float64) float64 {
	part := (v - a.low) / (a.high - a.low)
	if a.log {
		part = math.Log(v/a.low) / math.Log(a.high/a.low)
	}
	return a.from + min(max(part, 0), 1)*(a.to-a.from)
}
