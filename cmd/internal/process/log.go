package process

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"

	"gopkg.in/natefinch/lumberjack.v2"
)

// LogConfig says which log lines are written, how, and where to. The zero value: JSON from info on to stderr.
type LogConfig struct {
	Level  string // debug, info, warn, error, panic or fatal; default info
	Format string // json or console; default json
	// Outputs are "default" or "stderr", "stdout", "systemd/journal" alone, or files, which are appended to.
	Outputs []string
	// Rotation is of the one file among Outputs; nil lets it grow.
	Rotation *Rotation
}

// Log is where a process writes what happens: lines with etcd's keys, of one message no more than anybody reads, see limiter. Its
// level can be changed while it is used. All methods may be called concurrently, Close when nothing is logged any more.
type Log struct {
	*slog.Logger
	limiter *limiter
	out     *outputs

	level      slog.LevelVar // what counts
	mu         sync.Mutex    // guards what follows, and changes of level
	configured slog.Level
	verbose    bool
}

// OpenLog makes a log.
func OpenLog(c LogConfig) (*Log, error) {
	level, err := parseLevel(c.Level)
	if err != nil {
		return nil, err
	}
	format, err := parseFormat(c.Format)
	if err != nil {
		return nil, err
	}
	if err := c.checkOutputs(); err != nil {
		return nil, err
	}
	out, err := c.open()
	if err != nil {
		return nil, err
	}
	l := &Log{out: out, configured: level}
	l.level.Set(level)
	l.limiter = newLimiter(newLineHandler(&l.level, format, out))
	l.Logger = slog.New(l.limiter)
	return l, nil
}

// Close says how many lines were left out, and closes the files.
func (l *Log) Close() error {
	l.limiter.close()
	return l.out.close()
}

// Configure sets the level, by its name in LogConfig; as long as the log is verbose, that which will count when it is not.
func (l *Log) Configure(level string) error {
	to, err := parseLevel(level)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.configured = to
	l.set()
	return nil
}

// SetVerbose has the level be debug, or the configured one again.
func (l *Log) SetVerbose(verbose bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.verbose = verbose
	l.set()
}

// set is called with mu held.
func (l *Log) set() {
	if l.verbose {
		l.level.Set(slog.LevelDebug)
	} else {
		l.level.Set(l.configured)
	}
}

// Level is the name of the level that counts.
func (l *Log) Level() string {
	switch level := l.level.Level(); {
	case level <= slog.LevelDebug:
		return "debug"
	case level <= slog.LevelInfo:
		return "info"
	case level <= slog.LevelWarn:
		return "warn"
	case level <= slog.LevelError:
		return "error"
	}
	return "fatal"
}

// Check tells what NewLogger would refuse before it opens anything. Its error joins all that is wrong.
func (c LogConfig) Check() error {
	_, levelErr := parseLevel(c.Level)
	_, formatErr := parseFormat(c.Format)
	return errors.Join(levelErr, formatErr, c.checkOutputs())
}

const journal = "systemd/journal"

func (c LogConfig) checkOutputs() error {
	files := 0
	for _, output := range c.Outputs {
		switch output {
		case "default", journal:
			if len(c.Outputs) > 1 {
				return fmt.Errorf("--log-outputs has %q among others: give it alone, or use stderr, stdout and files", output)
			}
		case "stderr", "stdout":
		case "":
			return errors.New("--log-outputs has an empty output: use stdout, stderr or a file")
		default:
			files++
		}
	}
	if c.Rotation != nil && files != 1 {
		return fmt.Errorf("--enable-log-rotation needs one file in --log-outputs, which has %d: name one, or leave rotation out", files)
	}
	return nil
}

// CheckOutputs tells which outputs OpenLog could not open. It makes no file.
func (c LogConfig) CheckOutputs() error {
	var wrong Mistakes
	for _, output := range c.Outputs {
		switch output {
		case "default", "stderr", "stdout", "":
		case journal:
			w, err := dialJournal(journalSocket)
			if wrong.Add(err) {
				_ = w.Close() // nothing was written
			}
		default:
			wrong.Add(checkFile("log-outputs", output))
		}
	}
	return wrong.Err()
}

// outputs are where each line goes.
type outputs struct {
	writers []io.Writer
	journal *journalWriter // nil without
	closers []io.Closer
}

func (c LogConfig) open() (o *outputs, err error) {
	o = &outputs{}
	defer func() {
		if err != nil {
			err = errors.Join(err, o.close())
		}
	}()
	for i, output := range c.Outputs {
		if slices.Contains(c.Outputs[:i], output) {
			continue
		}
		switch output {
		case "default", "stderr":
			o.writers = append(o.writers, os.Stderr)
		case "stdout":
			o.writers = append(o.writers, os.Stdout)
		case journal:
			if o.journal, err = dialJournal(journalSocket); err != nil {
				return o, err
			}
			o.closers = append(o.closers, o.journal)
		default:
			f, err := openLogFile(output, c.Rotation)
			if err != nil {
				return o, err
			}
			o.writers, o.closers = append(o.writers, f), append(o.closers, f)
		}
	}
	if len(c.Outputs) == 0 {
		o.writers = append(o.writers, os.Stderr)
	}
	return o, nil
}

func openLogFile(path string, r *Rotation) (io.WriteCloser, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log output: %w: give a file that can be written, or stderr", err)
	}
	if r == nil {
		return f, nil
	}
	f.Close() // it was there to see whether it can be written
	return &lumberjack.Logger{
		Filename: path, MaxSize: r.MaxSize, MaxAge: r.MaxAge, MaxBackups: r.MaxBackups, LocalTime: r.LocalTime, Compress: r.Compress,
	}, nil
}

// write gives a line to every output. One that fails (a full disk) keeps none of the others from having it, and there is
// nobody to tell.
func (o *outputs) write(level slog.Level, line []byte) {
	for _, w := range o.writers {
		_, _ = w.Write(line)
	}
	if o.journal != nil {
		o.journal.write(level, line)
	}
}

func (o *outputs) close() error {
	var errs []error
	for _, c := range o.closers {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

func parseLevel(level string) (slog.Level, error) {
	switch level {
	case "debug":
		return slog.LevelDebug, nil
	case "", "info":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	case "panic", "fatal":
		return slog.LevelError + 4, nil
	}
	return 0, fmt.Errorf("unknown log level %q for --log-level: use debug, info, warn, error, panic or fatal", level)
}
