//! Stand-in OpenNebula front-end for the lab.
//!
//! It behaves like oned, one_tm and onehem where onemirror touches them. A VM's domain is a process that
//! writes numbered records to its RBD images. Test equipment: no product logic in here, and nothing of it is shipped.

mod control;
mod disks;
mod documents;
mod domain;
mod front_end;
mod hooks;
mod images;
mod lifecycle;
mod log;
mod methods;
mod process;
mod server;
mod snapshots;
mod states;
mod store;
mod template;
#[cfg(test)]
mod tests;
mod transfer;
mod xml;
mod xmlrpc;

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::front_end::{FrontEnd, Settings, lay_out};
use crate::xmlrpc::Value;

/// The version that the stand-in says it is.
pub const VERSION: &str = "7.4.0";

#[derive(Parser)]
#[command(about = "Stand-in OpenNebula front-end for the lab")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a front-end.
    Serve(Serve),
    /// Tell a running front-end what to do wrong: hooks=deliver|lose|repeat[:TIMES]|late:SECONDS, answer_delay=SECONDS,
    /// answer=ok|500|half, servers=NUMBER, domain-crash=VMID, host-silent=ID, host-heard=ID, forget, stop.
    Control {
        /// ONE_LOCATION of the front-end.
        #[arg(long)]
        location: PathBuf,
        /// What to do.
        #[arg(required = true)]
        requests: Vec<String>,
    },
}

#[derive(clap::Args)]
struct Serve {
    /// ONE_LOCATION; made if it does not exist.
    #[arg(long)]
    location: PathBuf,
    /// Port of http://127.0.0.1:PORT/RPC2; 0 takes a free one, see var/.one/one_endpoint.
    #[arg(long)]
    port: u16,
    /// Host name of the front-end.
    #[arg(long)]
    name: String,
    /// Driver actions and hooks to start with, copied to var/remotes if there are none.
    #[arg(long)]
    remotes: Option<PathBuf>,
    /// The script that stands for a domain.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../writer"))]
    writer: PathBuf,
    /// Records that a domain writes per second and disk.
    #[arg(long, default_value_t = 20.0)]
    rate: f64,
    /// Seconds between two looks at the domains.
    #[arg(long, default_value_t = 0.5)]
    monitor_interval: f64,
    /// Seconds after the start until the hosts report first.
    #[arg(long, default_value_t = 0.5)]
    first_monitoring: f64,
    /// Seconds that a domain has to be gone, or to run, before its VM's state follows.
    #[arg(long, default_value_t = 1.0)]
    settle_delay: f64,
}

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
    let result = match Arguments::parse().command {
        Command::Serve(options) => run(serve(options)),
        Command::Control { location, requests } => run(control(location, requests)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab-front-end: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(work: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?
        .block_on(work)
}

fn seconds(value: f64) -> Result<Duration, String> {
    Duration::try_from_secs_f64(value).map_err(|error| format!("{value} s: {error}"))
}

async fn serve(options: Serve) -> Result<(), String> {
    let named = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    std::fs::create_dir_all(&options.location).map_err(|error| named(&options.location, error))?;
    let location =
        std::fs::canonicalize(&options.location).map_err(|error| named(&options.location, error))?;
    lay_out(&location, options.remotes.as_deref()).map_err(|error| named(&location, error))?;
    let session = session(&location.join("var/.one/one_auth"))?;
    let settings = Settings {
        location: location.clone(),
        name: options.name,
        writer: options.writer.canonicalize().unwrap_or(options.writer),
        rate: options.rate,
        monitor_interval: seconds(options.monitor_interval.max(0.01))?,
        first_monitoring: seconds(options.first_monitoring)?,
        settle_delay: seconds(options.settle_delay)?,
    };
    let front_end = FrontEnd::open(settings, session)?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", options.port))
        .await
        .map_err(|error| format!("port {}: {error}", options.port))?;
    let port = listener.local_addr().map_err(|error| error.to_string())?.port();
    let endpoint = location.join("var/.one/one_endpoint");
    std::fs::write(&endpoint, format!("http://127.0.0.1:{port}/RPC2\n"))
        .map_err(|error| named(&endpoint, error))?;
    tracing::info!("listening on http://127.0.0.1:{port}/RPC2");
    tokio::spawn(Arc::clone(&front_end).monitor());
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .map_err(|error| error.to_string())?;
    tokio::select! {
        ended = server::serve(front_end, listener) => ended.map_err(|error| error.to_string()),
        _ = terminate.recv() => Ok(()), // domains live on, as they do without oned
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

/// Reads the session string, making one up the first time.
fn session(path: &Path) -> Result<String, String> {
    let named = |error: std::io::Error| format!("{}: {error}", path.display());
    if !path.exists() {
        let password: [u8; 16] = rand::random();
        let text: String = password.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(named)?;
        std::io::Write::write_all(&mut file, format!("oneadmin:{text}\n").as_bytes()).map_err(named)?;
    }
    Ok(std::fs::read_to_string(path).map_err(named)?.trim_end().to_owned())
}

async fn control(location: PathBuf, requests: Vec<String>) -> Result<(), String> {
    let read = |name: &str| {
        let path = location.join("var/.one").join(name);
        std::fs::read_to_string(&path)
            .map(|text| text.trim().to_owned())
            .map_err(|error| format!("{}: {error}", path.display()))
    };
    let session = read("one_auth")?;
    let endpoint = read("one_endpoint")?;
    let port = endpoint
        .rsplit_once(':')
        .and_then(|(_, rest)| rest.split('/').next())
        .and_then(|port| port.parse().ok())
        .ok_or_else(|| format!("no port in {endpoint}"))?;
    for request in requests {
        request.parse::<control::Request>()?;
        let (key, value) = request.split_once('=').unwrap_or((&request, ""));
        let arguments = [session.as_str(), key, value].map(|text| Value::Text(text.to_owned()));
        match server::post_to(port, &xmlrpc::request("lab.control", &arguments)).await {
            Ok(answer) if answer.contains("<boolean>0</boolean>") || answer.contains("<fault>") => {
                return Err(format!("{request} was refused: {answer}"));
            }
            Ok(_) => {}
            Err(_) if key == "stop" => {} // it stops without an answer
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
