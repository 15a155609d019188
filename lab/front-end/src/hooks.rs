//! Hooks as onehem runs them: asynchronous, ten at a time, in no order.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::json;
use tokio::sync::Semaphore;

use crate::control::Delivery;
use crate::process;
use crate::states::{HostState, LcmState, VmState};
use crate::store::Hook;
use crate::template::Template;

/// How many hooks of the whole cloud run at a time.
const CONCURRENCY: usize = 10;
/// How many runs of one hook are told.
const LOG_RETENTION: usize = 20;

/// A state that an object came into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateEvent {
    /// `VM/ACTIVE/RUNNING`, `HOST/MONITORED/`.
    pub key: String,
    /// The object's id, for the log.
    pub object: i64,
    /// The object's document, indented.
    pub document: String,
}

/// The event of a VM in that state.
pub fn vm_key(state: VmState, lcm_state: LcmState) -> String {
    format!("VM/{}/{}", state.name(), lcm_state.name())
}

/// The event of a host in that state.
pub fn host_key(state: HostState) -> String {
    format!("HOST/{}/", state.name())
}

/// Makes a hook of its template; the error is a sentence as oned words it.
pub fn define(id: i64, mut template: Template) -> Result<Hook, String> {
    let mut take = |name: &str| -> Option<String> {
        let value = template.get(name).map(str::to_owned);
        template.remove(name);
        value
    };
    let name = take("NAME").ok_or("No NAME in template for Hook.")?;
    let kind = take("TYPE").map(|kind| kind.to_lowercase());
    let on = take("ON").map(|on| on.to_uppercase());
    let kind = kind
        .filter(|kind| kind == "state" || kind == "api")
        .ok_or("No TYPE or invalid one in template for Hook.")?;
    if template.get("COMMAND").is_none() {
        return Err("No COMMAND in template for Hook.".to_owned());
    }
    if kind == "state" {
        let resource = template.get("RESOURCE").unwrap_or_default().to_uppercase();
        match resource.as_str() {
            "VM" => {
                let (state, lcm_state) = vm_states(&on.unwrap_or_default(), &template)?;
                template.set("STATE", state.name());
                template.set("LCM_STATE", lcm_state.name());
            }
            "HOST" => {
                let state = template.get("STATE").unwrap_or_default().to_uppercase();
                HostState::from_name(&state).ok_or_else(|| format!("Invalid STATE: {state}"))?;
                template.set("STATE", state);
            }
            // the stand-in sends no events for these
            "IMAGE" | "NET" => {}
            _ => return Err(format!("Invalid resource type: {resource}")),
        }
        template.set("RESOURCE", resource);
    }
    template.set_default("REMOTE", "NO");
    Ok(Hook { id, name, kind, template })
}

fn vm_states(on: &str, template: &Template) -> Result<(VmState, LcmState), String> {
    Ok(match on {
        "PROLOG" => (VmState::Active, LcmState::Prolog),
        "RUNNING" => (VmState::Active, LcmState::Running),
        "SHUTDOWN" => (VmState::Active, LcmState::Epilog),
        "STOP" => (VmState::Stopped, LcmState::LcmInit),
        "DONE" => (VmState::Done, LcmState::LcmInit),
        "UNKNOWN" => (VmState::Active, LcmState::Unknown),
        "CUSTOM" => {
            let state = template.get("STATE").unwrap_or_default().to_uppercase();
            let lcm_state = template.get("LCM_STATE").unwrap_or_default().to_uppercase();
            (
                VmState::from_name(&state).ok_or_else(|| format!("Wrong STATE: {state}"))?,
                LcmState::from_name(&lcm_state).ok_or_else(|| format!("Wrong LCM_STATE: {lcm_state}"))?,
            )
        }
        // oned spells it so
        _ => return Err(format!("Unkown state condition: {on}")),
    })
}

/// Whether the hook waits for that event.
pub fn waits_for(hook: &Hook, event: &StateEvent) -> bool {
    let get = |name| hook.template.get(name).unwrap_or_default();
    hook.kind == "state" && event.key == format!("{}/{}/{}", get("RESOURCE"), get("STATE"), get("LCM_STATE"))
}

/// The hook's `ARGUMENTS` with `$TEMPLATE` filled in: base64 without line ends.
pub fn arguments(hook: &Hook, document: &str) -> String {
    let words: Vec<String> = hook
        .template
        .get("ARGUMENTS")
        .unwrap_or_default()
        .split_whitespace()
        .map(|word| match word {
            "$TEMPLATE" => base64::engine::general_purpose::STANDARD.encode(document),
            "$API" => String::new(),
            other => other.to_owned(),
        })
        .collect();
    words.join(" ").trim().to_owned()
}

/// A hook's run, as the log tells.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Execution {
    /// The hook.
    pub id: i64,
    /// When it ended, in Unix seconds.
    pub timestamp: i64,
    /// Its exit status; absent for one that was lost.
    pub exit: Option<i32>,
    /// What it printed.
    #[serde(default)]
    pub stdout: String,
    /// What it complained.
    #[serde(default)]
    pub stderr: String,
}

fn log_file(location: &Path) -> PathBuf {
    location.join("var/hooks.log")
}

/// The last runs of a hook, oldest first: as many as oned keeps by default (LOG_RETENTION).
pub fn executions(location: &Path, id: i64) -> Vec<Execution> {
    let log = std::fs::read_to_string(log_file(location)).unwrap_or_default();
    let mut runs: Vec<Execution> = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Execution>(line).ok())
        .filter(|run| run.id == id && run.exit.is_some())
        .collect();
    runs.drain(..runs.len().saturating_sub(LOG_RETENTION));
    runs
}

/// Runs hooks.
#[derive(Clone)]
pub struct Runner {
    location: PathBuf,
    slots: Arc<Semaphore>,
}

impl Runner {
    /// For the front-end at that `ONE_LOCATION`.
    pub fn new(location: &Path) -> Self {
        Self { location: location.to_owned(), slots: Arc::new(Semaphore::new(CONCURRENCY)) }
    }

    /// Sends an event to a hook, as told; returns at once.
    pub fn deliver(&self, hook: &Hook, event: &StateEvent, delivery: Delivery) {
        let (times, delay) = match delivery {
            Delivery::Deliver => (1, Duration::ZERO),
            Delivery::Repeat(times) => (times, Duration::ZERO),
            Delivery::Late(delay) => (1, delay),
            Delivery::Lose => {
                self.log(hook, event, json!({ "lost": true }));
                return;
            }
        };
        for _ in 0..times {
            let (runner, hook, event) = (self.clone(), hook.clone(), event.clone());
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                let Ok(_slot) = runner.slots.acquire().await else { return };
                runner.run(&hook, &event).await;
            });
        }
    }

    async fn run(&self, hook: &Hook, event: &StateEvent) {
        let get = |name| hook.template.get(name).unwrap_or_default();
        let arguments = arguments(hook, &event.document);
        let on_stdin = ["yes", "true"].contains(&get("ARGUMENTS_STDIN").to_lowercase().as_str());
        let mut command = get("COMMAND").to_owned();
        if !command.starts_with('/') {
            command = format!("{}/{command}", self.location.join("var/remotes/hooks").display());
        }
        if !on_stdin && !arguments.is_empty() {
            command.push(' ');
            command.push_str(&arguments);
        }
        let stdin = if on_stdin { arguments.as_str() } else { "" };
        let timeout = get("TIMEOUT").parse().ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
        let began = Instant::now();
        let outcome = process::run(&command, stdin, &self.location, timeout).await;
        self.log(
            hook,
            event,
            json!({
                "exit": outcome.code,
                "stdout": outcome.stdout,
                "stderr": outcome.stderr,
                "milliseconds": u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            }),
        );
    }

    fn log(&self, hook: &Hook, event: &StateEvent, mut what: serde_json::Value) {
        what["time"] = json!(crate::log::date());
        what["timestamp"] = json!(jiff::Timestamp::now().as_second());
        what["hook"] = json!(hook.name);
        what["id"] = json!(hook.id);
        what["event"] = json!(event.key);
        what["object"] = json!(event.object);
        let path = log_file(&self.location);
        let written = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|mut file| file.write_all(format!("{what}\n").as_bytes()));
        if let Err(error) = written {
            tracing::warn!("{}: {error}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xml;

    fn event() -> StateEvent {
        StateEvent {
            key: vm_key(VmState::Active, LcmState::Running),
            object: 2,
            document: "<VM>\n  <ID>2</ID>\n</VM>".into(),
        }
    }

    fn hook(extra: &str) -> Hook {
        let text = format!(
            "NAME=h\nTYPE=state\nRESOURCE=VM\nON=RUNNING\nARGUMENTS=\"$TEMPLATE\"\nARGUMENTS_STDIN=YES\n{extra}"
        );
        define(0, Template::parse(&text).unwrap()).unwrap()
    }

    #[test]
    fn a_definition_becomes_what_the_capture_shows() {
        let text = "NAME=rec-ACTIVE-BOOT_POWEROFF\nTYPE=state\nRESOURCE=VM\nON=CUSTOM\nSTATE=ACTIVE\nLCM_STATE=BOOT_POWEROFF\nCOMMAND=\"rec ACTIVE-BOOT_POWEROFF\"\nARGUMENTS=\"$TEMPLATE\"\nARGUMENTS_STDIN=YES";
        let hook = define(0, Template::parse(text).unwrap()).unwrap();
        let captured =
            xml::parse(include_str!("../../../tests/fixtures/opennebula/hook.site-b.xml")).unwrap();
        assert_eq!(crate::documents::hook(&hook, Some(&[])).pretty(), captured.pretty());
    }

    #[test]
    fn wrong_definitions_are_refused() {
        for text in [
            "TYPE=state",
            "NAME=h\nTYPE=odd\nCOMMAND=x",
            "NAME=h\nTYPE=state\nRESOURCE=VM\nON=RUNNING",
            "NAME=h\nTYPE=state\nRESOURCE=VM\nCOMMAND=x",
            "NAME=h\nTYPE=state\nRESOURCE=VM\nCOMMAND=x\nON=CUSTOM\nSTATE=ACTIVE\nLCM_STATE=NOPE",
            "NAME=h\nTYPE=state\nRESOURCE=SHOE\nCOMMAND=x",
        ] {
            assert!(define(0, Template::parse(text).unwrap()).is_err(), "{text}");
        }
    }

    #[test]
    fn waits_for_its_state_only() {
        let hook = hook("COMMAND=x");
        assert!(waits_for(&hook, &event()));
        let other = StateEvent { key: vm_key(VmState::Active, LcmState::Boot), ..event() };
        assert!(!waits_for(&hook, &other));
        let text = "NAME=m\nTYPE=state\nRESOURCE=HOST\nSTATE=MONITORED\nCOMMAND=x";
        let on_host = define(0, Template::parse(text).unwrap()).unwrap();
        assert!(waits_for(&on_host, &StateEvent { key: host_key(HostState::Monitored), ..event() }));
    }

    async fn run(extra: &str, delivery: Delivery) -> Vec<serde_json::Value> {
        let location = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(location.path().join("var/remotes/hooks")).unwrap();
        let runner = Runner::new(location.path());
        runner.deliver(&hook(extra), &event(), delivery);
        let wanted = if let Delivery::Repeat(times) = delivery { times as usize } else { 1 };
        loop {
            let log = std::fs::read_to_string(location.path().join("var/hooks.log")).unwrap_or_default();
            if log.lines().count() == wanted {
                return log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn hands_the_document_over_and_logs_the_outcome() {
        let log = run("COMMAND=\"/usr/bin/base64 -d\"", Delivery::Deliver).await;
        assert_eq!(log[0]["stdout"], event().document);
        let log = run("COMMAND=\"/bin/echo -n\"", Delivery::Deliver).await;
        assert_eq!(log[0]["stdout"], "", "what goes to stdin is no argument");
        let log = run("COMMAND=\"/bin/sleep 9\"\nTIMEOUT=1", Delivery::Deliver).await;
        assert_eq!(log[0]["exit"], 255);
    }

    #[tokio::test]
    async fn loses_and_repeats_as_told() {
        let log = run("COMMAND=\"/bin/true\"", Delivery::Lose).await;
        assert_eq!(log[0]["lost"], true);
        assert_eq!(run("COMMAND=\"/bin/true\"", Delivery::Repeat(10)).await.len(), 10);
        let began = Instant::now();
        run("COMMAND=\"/bin/true\"", Delivery::Late(Duration::from_millis(200))).await;
        assert!(began.elapsed() >= Duration::from_millis(200));
    }
}
