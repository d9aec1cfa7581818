package bench

import (
	"cmp"
	"slices"
)

// Spread is what several turns measured.
type Spread struct{ Median, Min, Max float64 }

// spreadOf is the spread of one number of each turn. There must be a turn.
func spreadOf[T any](turns []T, of func(T) float64) Spread {
	var all []float64
	for _, t := range turns {
		all = append(all, of(t))
	}
	slices.Sort(all)
	return Spread{Median: (all[(len(all)-1)/2] + all[len(all)/2]) / 2, Min: all[0], Max: all[len(all)-1]}
}

func sum[T cmp.Ordered](list []T) T {
	var s T
	for _, e := range list {
		s += e
	}
	return s
}
