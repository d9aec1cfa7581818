package suite

import (
	"fmt"
	"slices"
	"strings"
)

// Scenarios is every scenario, in the order in which they are reported.
func Scenarios() []Scenario {
	return slices.Concat(requestScenarios(), largeScenarios(), watchScenarios(), leaseScenarios(), connectionScenarios(), mixedScenarios())
}

// FindScenarios finds scenarios by their names.
func FindScenarios(names []string) ([]Scenario, error) {
	all := Scenarios()
	var found []Scenario
	for _, name := range names {
		i := slices.IndexFunc(all, func(s Scenario) bool { return s.Info.Name == name })
		if i < 0 {
			var known []string
			for _, s := range all {
				known = append(known, s.Info.Name)
			}
			return nil, fmt.Errorf("there is no scenario %q, only %s", name, strings.Join(known, ", "))
		}
		found = append(found, all[i])
	}
	return found, nil
}
