//! The `onemirror` command.

use clap::Parser;
use onemirror::commands::Cli;
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
        writeln!(writer, "{kind}: onemirror: {}", onemirror::sites::first_sentence(&line))
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

/// The session's password and the peer's key are in this process's memory: no core dump, no look by other processes of
/// the same user. It ends at `exec`, so the stock action is as it always was.
fn keep_memory_private() {
    let behavior = rustix::process::DumpableBehavior::NotDumpable;
    if let Err(error) = rustix::process::set_dumpable_behavior(behavior) {
        tracing::warn!("a core dump of this process could hold a password: {error}");
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    explain(&cli);
    keep_memory_private();
    std::panic::set_hook(Box::new(|bug| {
        eprintln!("onemirror: this is a bug, and nothing was decided: {bug}");
        std::process::exit(255);
    }));
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let status = runtime.block_on(cli.run());
            // a name that is still looked up keeps nobody waiting
            runtime.shutdown_background();
            status
        }
        Err(error) => {
            eprintln!("onemirror: cannot start: {error}");
            ExitCode::from(255)
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_process_with_secrets_leaves_no_core_dump() {
        use rustix::process::{DumpableBehavior, dumpable_behavior};
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::Dumpable);
        super::keep_memory_private();
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
    }
}
