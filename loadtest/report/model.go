package report

import "time"

// Report is one run of the suite. Its sentences and paragraphs may have `code` and **strong** words, and no other markup; names,
// reasons of failures and cells of tables are shown as they are.
type Report struct {
	Started time.Time     `json:"started"`
	Took    time.Duration `json:"took_ns"`
	Command string        `json:"command"` // that was given, to run it again
	Machine Machine       `json:"machine"`
	Systems []System      `json:"systems"` // the first of which ratios are to, if it is Base
	// Scenarios are in the order in which they were run.
	Scenarios []Scenario `json:"scenarios"`
	// Caveats say what must not be compared or concluded, a sentence or two each, for the run as a whole.
	Caveats []string `json:"caveats,omitempty"`
	Scale   *Scale   `json:"scale,omitempty"` // nil if nobody asked for it
	// Tables are what other benches have measured, as they print it.
	Tables []Section `json:"tables,omitempty"`
}

// Machine is where a run was made.
type Machine struct {
	Processor  string  `json:"processor"`
	Cores      int     `json:"cores"`
	Memory     int64   `json:"memory_bytes"`
	OS         string  `json:"os"` // with its kernel's version, and the architecture
	Go         string  `json:"go"`
	Filesystem string  `json:"filesystem"`   // of the servers' data
	Fdatasync  float64 `json:"fdatasync_us"` // what one takes there, the median, measured before the run; 0 if not
	Load       float64 `json:"load"`         // load average of the minute before the run: of others
}

// System is what was loaded: servers that the bench started, or some that ran already.
type System struct {
	Name string `json:"name"`
	Base bool   `json:"base,omitempty"` // ratios are to it
	// Programs are what it consists of, with their versions, in words: "etcd 3.7.3", "weir proxy 0.1.0 (3adc54f)".
	Programs []string `json:"programs"`
	// External is set for a system that ran already. CPU and memory are known of those of its processes only that were named. Its
	// throughput has no ratio to others'.
	External bool `json:"external,omitempty"`
	// Optional is set for a system that is there to compare with only: a run in which it fails is not a failure.
	Optional bool `json:"optional,omitempty"`
	// Caveat is what makes it not comparable with others; "" if nothing does.
	Caveat string `json:"caveat,omitempty"`
}

// Scenario is one kind of load, and what each system did under it.
type Scenario struct {
	Name string `json:"name"`
	Kind string `json:"kind"` // groups scenarios in the report: "writes", "reads", "watches", "leases", "connections", "mixed"
	// Description says in one or two sentences who asks for what: clients, requests under way, sizes, proportions.
	Description string `json:"description"`
	Unit        string `json:"unit"` // what is counted, in the singular: "put", "event", "ping"
	// OpenLoop: requests are sent at a fixed rate, and latency counts from when each was due. Then throughput says nothing.
	OpenLoop bool     `json:"open_loop,omitempty"`
	Aims     []Aim    `json:"aims,omitempty"`
	Results  []Result `json:"results"` // one of each system, in the order of Report.Systems
}

// Measure is a number that is reported of each result.
type Measure string

// The measures. A ratio is to the base system in the same round.
const (
	Throughput      Measure = "throughput" // operations a second
	ThroughputRatio Measure = "throughput ratio"
	CPU             Measure = "cpu" // microseconds an operation, of all servers
	CPURatio        Measure = "cpu ratio"
	P50             Measure = "p50" // milliseconds, as all latencies
	P99             Measure = "p99"
	P999            Measure = "p99.9"
	P99Ratio        Measure = "p99 ratio"
	Memory          Measure = "memory" // bytes of RSS, of all servers, at the end of the turn
	MemoryRatio     Measure = "memory ratio"
	Upstream        Measure = "upstream" // requests that the store was sent, for each operation; of systems with a proxy
)

// Aim is what a system is meant to reach in a scenario: its median at most, or at least, Bound.
type Aim struct {
	System  string  `json:"system"`
	Measure Measure `json:"measure"`
	AtLeast bool    `json:"at_least,omitempty"` // else at most
	Bound   float64 `json:"bound"`
	Source  string  `json:"source,omitempty"` // where it is promised, in words
	// Why says what keeps it from being met, as far as is known; shown when it is missed.
	Why string `json:"why,omitempty"`
}

// Result is what one system did in one scenario.
type Result struct {
	System string `json:"system"`
	Turns  []Turn `json:"turns"` // those that did not fail
	// Failed is why other turns have no part in the result.
	Failed []Failure `json:"failed,omitempty"`
	// Unsupported says why the system cannot do this at all; "" if it can.
	Unsupported string `json:"unsupported,omitempty"`
}

// Failure is a turn that failed.
type Failure struct {
	Round  int    `json:"round"`
	Reason string `json:"reason"`
}

// Turn is what was measured of one system in one round.
type Turn struct {
	Round      int           `json:"round"` // turns of several systems in one round followed each other
	Took       time.Duration `json:"took_ns"`
	Operations int64         `json:"operations"`
	// Due is how many operations were due while the turn was measured, if they are due at a fixed rate: of an OpenLoop. 0 else.
	Due int64 `json:"due,omitempty"`
	// Independent is how many of the latencies are independent of each other: the events of one write come late together. 0 if
	// all are.
	Independent int64 `json:"independent,omitempty"`
	// Bytes are of values that were sent or received, 0 if not counted.
	Bytes   int64   `json:"bytes,omitempty"`
	Latency Latency `json:"latency"`
	// Processes are the servers', in their order: members first, then proxies. None if nobody said which they are.
	Processes []Process `json:"processes,omitempty"`
	// Upstream is how many requests the store was sent, by method ("Range", "Watch"); empty if none, nil if nobody tells.
	Upstream map[string]float64 `json:"upstream,omitzero"`
	// Extra are numbers that only this scenario has, by their names with units: "live B/watcher".
	Extra map[string]float64 `json:"extra,omitempty"`
}

// Latency is in milliseconds. Curve is the whole distribution, for a chart.
type Latency struct {
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P99   float64 `json:"p99"`
	P999  float64 `json:"p99_9"`
	Max   float64 `json:"max"`
	Curve []Point `json:"curve,omitempty"` // by percentile, rising
}

// Point is one of a curve.
type Point struct {
	X float64 `json:"x"`
	Y float64 `json:"y"`
}

// Process is one server's part in a turn.
type Process struct {
	Name string        `json:"name"` // "etcd-1", "core-1", "proxy-1"
	Role string        `json:"role"` // "store" or "proxy"
	CPU  time.Duration `json:"cpu_ns"`
	RSS  int64         `json:"rss_bytes"` // at the end of the turn
}

// Scale is what a model predicts for more machines than there are here.
type Scale struct {
	// Failed is why there is nothing else; "" if there is.
	Failed   string  `json:"failed,omitempty"`
	Watchers int     `json:"watchers"`
	Events   float64 `json:"events_per_second"`
	// Invalid is why neither the plans nor the predictions say anything, as of inputs from a machine without a moment's rest; "" if they do.
	Invalid string `json:"invalid,omitempty"`
	// Inputs are the measured figures that the model starts from.
	Inputs []Input `json:"inputs"`
	// Method says how the prediction is made, in paragraphs.
	Method []string `json:"method"`
	// Plans are trees of proxies that serve all watchers: for each case and machine, the best first.
	Plans []Plan `json:"plans"`
	// Checks are predictions of sizes that fit here, beside what was measured.
	Checks []Check `json:"checks"`
}

// Input is one figure of a model.
type Input struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	From  string  `json:"from"` // where it was measured: scenario and system
}

// Plan is one way to serve Scale's watchers.
type Plan struct {
	Case    string  `json:"case"`   // who watches what, in words
	Cores   int     `json:"cores"`  // of each machine, a proxy's and the core's
	Levels  []Level `json:"levels"` // from the core down to the clients; none if it can serve them itself
	Proxies int     `json:"proxies"`
	// Store is what the core has to do, as parts of one of its cores (1: one core is busy all the time).
	StoreCores float64 `json:"store_cores"`
	// NextProxyCores is what one more proxy that joins the core itself, and no other proxy, adds to its load.
	NextProxyCores float64 `json:"next_proxy_cores"`
	LatencyP50     float64 `json:"latency_p50_ms"`
	LatencyP99     float64 `json:"latency_p99_ms"`         // an upper bound
	Bandwidth      float64 `json:"store_bytes_per_second"` // that leave the core
	Note           string  `json:"note,omitempty"`
	// Impossible says why the case cannot be served with such machines; then there is nothing else but these two.
	Impossible string `json:"impossible,omitempty"`
}

// Level is the proxies at one distance from the core.
type Level struct {
	Proxies   int     `json:"proxies"`
	Fanout    int     `json:"fanout"`     // streams or clients that each serves
	BusyCores float64 `json:"busy_cores"` // of each
	Memory    int64   `json:"memory_bytes"`
	Bandwidth float64 `json:"bytes_per_second"` // that leave each
	Limit     string  `json:"limit"`            // what each has too little of first: "processor", "network"
}

// Check is a prediction beside a real run.
type Check struct {
	Name      string  `json:"name"` // "2 proxies, 10,000 watchers, 50 events/s"
	Measure   string  `json:"measure"`
	Unit      string  `json:"unit"`
	Predicted float64 `json:"predicted"`
	Measured  float64 `json:"measured"`
	Low       float64 `json:"low"` // of what was measured, as High
	High      float64 `json:"high"`
	Note      string  `json:"note,omitempty"` // why it proves little, if it does
	// Invalid: it proves nothing, for the reason that the note says.
	Invalid bool `json:"invalid,omitempty"`
}

// Section is tables of another bench with their title.
type Section struct {
	Title   string    `json:"title"`
	Started time.Time `json:"started,omitzero"`
	Command string    `json:"command,omitempty"` // that was given, to run it again
	Text    []string  `json:"text,omitempty"`    // paragraphs before the tables
	Tables  []Table   `json:"tables"`
	// Failed are the turns that have no part in the tables, and why, as they are.
	Failed []string `json:"failed,omitempty"`
}

// Table is cells of text. The first Words columns are words, the others numbers.
type Table struct {
	Head  []string   `json:"head"`
	Words int        `json:"words"`
	Rows  [][]string `json:"rows"`
}
