package main

import "weir/cmd/internal/process"

// logFlags are what is logged, and where.
type logFlags struct {
	logger, level, format, outputs string
	rotate                         bool
	rotation                       string
}

func (l *logFlags) define(f *process.Flags) {
	f.StringVar(&l.logger, "logger", "zap", "Form of log lines: only 'zap', which is that of etcd.")
	f.StringVar(&l.level, "log-level", "info", "Log level: debug, info, warn, error, panic, or fatal.")
	f.StringVar(&l.format, "log-format", "json", "Log format: json, console.")
	f.StringVar(&l.outputs, "log-outputs", "default", "Where logs go: 'stdout', 'stderr' (default), 'systemd/journal', or files, separated by commas.")
	f.BoolVar(&l.rotate, "enable-log-rotation", false, "Put the one file in --log-outputs aside when it is full.")
	f.StringVar(&l.rotation, "log-rotation-config-json", process.DefaultRotation, "Limits of log files: MaxSize(MB), MaxAge(days, 0 is no limit), MaxBackups(0 is no limit), LocalTime, Compress(gzip).")
}

func (l *logFlags) apply(_ *process.Flags, o *options) error {
	var wrong process.Mistakes
	if l.logger != "zap" {
		wrong.Addf("--logger has only one value, zap: leave it out")
	}
	o.log = process.LogConfig{Level: l.level, Format: l.format, Outputs: splitList(l.outputs)}
	if l.rotate {
		rotation, err := process.ParseRotation(l.rotation)
		wrong.Add(err)
		o.log.Rotation = rotation
	}
	wrong.Add(o.log.Check())
	o.api.Pprof = o.api.Pprof || l.level == "debug" // as at etcd
	return wrong.Err()
}
