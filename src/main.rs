//! The `onemirror` command.

use clap::Parser;
use onemirror::cli::Cli;
use std::process::ExitCode;
use tracing::Level;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Lines that oned sorts into the VM's log by their first word.
struct OnedLines;

impl<S, N> FormatEvent<S, N> for OnedLines
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &tracing::Event<'_>,
    ) -> std::fmt::Result {
        let kind = match *event.metadata().level() {
            Level::ERROR => "ERROR",
            Level::WARN => "WARN",
            Level::INFO => "INFO",
            Level::DEBUG | Level::TRACE => "DEBUG",
        };
        let mut line = String::new();
        context.format_fields(Writer::new(&mut line), event)?;
        writeln!(writer, "{kind}: onemirror: {}", onemirror::engine::first_sentence(&line))
    }
}

fn explain(cli: &Cli) {
    let level = match cli.verbosity() {
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("ONEMIRROR_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(format!("onemirror={level}")));
    let lines =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    if cli.speaks_to_oned() {
        lines.event_format(OnedLines).init();
    } else {
        lines.with_target(false).init();
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    explain(&cli);
    std::panic::set_hook(Box::new(|bug| {
        eprintln!("onemirror: this is a bug, and nothing was decided: {bug}");
        std::process::exit(255);
    }));
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(cli.run()),
        Err(error) => {
            eprintln!("onemirror: cannot start: {error}");
            ExitCode::from(255)
        }
    }
}
