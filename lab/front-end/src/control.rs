//! What a test can tell the front-end to do wrong.

use std::str::FromStr;
use std::time::Duration;

/// The settings in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// What becomes of hooks.
    pub hooks: Delivery,
    /// How long every answer waits.
    pub answer_delay: Duration,
    /// What is answered.
    pub answer: Answering,
    /// The servers of its zone that high availability has.
    pub servers: u32,
}

/// What becomes of a hook event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    /// Run once, at once.
    #[default]
    Deliver,
    /// Not at all, as while onehem is down.
    Lose,
    /// That many times, at once.
    Repeat(u32),
    /// Once, after that time.
    Late(Duration),
}

/// How calls are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answering {
    /// As they should.
    #[default]
    Ok,
    /// HTTP status 500 without a word; the call has its effect.
    ServerError,
    /// Half of the body, then the connection ends; the call has its effect.
    Half,
}

/// What a control request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Other settings.
    Hooks(Delivery),
    /// Other settings.
    AnswerDelay(Duration),
    /// Other settings.
    Answer(Answering),
    /// Other settings.
    Servers(u32),
    /// End at once, as if killed.
    Stop,
    /// Kill the domain of that VM.
    DomainCrash(i64),
    /// That host does not report any more: ERROR, its running VMs UNKNOWN. Its domains run on.
    HostSilent(i64),
    /// It does again.
    HostHeard(i64),
    /// Every domain is ended, and no VM and no image was ever here. Ids count on, and what is in Ceph stays there.
    Forget,
}

impl Control {
    /// Takes over a setting; what is done at once is none.
    pub fn set(&mut self, request: Request) {
        match request {
            Request::Hooks(hooks) => self.hooks = hooks,
            Request::AnswerDelay(delay) => self.answer_delay = delay,
            Request::Answer(answer) => self.answer = answer,
            Request::Servers(servers) => self.servers = servers,
            Request::Stop
            | Request::DomainCrash(_)
            | Request::HostSilent(_)
            | Request::HostHeard(_)
            | Request::Forget => {}
        }
    }
}

impl FromStr for Request {
    type Err = String;

    /// Reads `KEY=VALUE`, `forget` or `stop`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        Ok(match (key, value) {
            ("hooks", "deliver") => Self::Hooks(Delivery::Deliver),
            ("hooks", "lose") => Self::Hooks(Delivery::Lose),
            ("hooks", "repeat") => Self::Hooks(Delivery::Repeat(2)),
            ("hooks", times) if times.starts_with("repeat:") => {
                let times = &times["repeat:".len()..];
                let times = times.parse().map_err(|_| format!("{times:?} is no number of times"))?;
                Self::Hooks(Delivery::Repeat(times))
            }
            ("hooks", late) if late.starts_with("late:") => {
                Self::Hooks(Delivery::Late(seconds(&late["late:".len()..])?))
            }
            ("answer_delay", value) => Self::AnswerDelay(seconds(value)?),
            ("answer", "ok") => Self::Answer(Answering::Ok),
            ("answer", "500") => Self::Answer(Answering::ServerError),
            ("answer", "half") => Self::Answer(Answering::Half),
            ("servers", number) => {
                Self::Servers(number.parse().map_err(|_| format!("{number:?} is no number of servers"))?)
            }
            ("stop", _) => Self::Stop,
            ("forget", _) => Self::Forget,
            ("domain-crash", id) => Self::DomainCrash(identity(key, id)?),
            ("host-silent", id) => Self::HostSilent(identity(key, id)?),
            ("host-heard", id) => Self::HostHeard(identity(key, id)?),
            _ => {
                return Err(format!(
                    "{text:?} is none of hooks=deliver|lose|repeat[:TIMES]|late:SECONDS, answer_delay=SECONDS, \
                     answer=ok|500|half, servers=NUMBER, domain-crash=VMID, host-silent=ID, host-heard=ID, forget, stop"
                ));
            }
        })
    }
}

fn identity(key: &str, text: &str) -> Result<i64, String> {
    text.parse().map_err(|_| format!("{key} needs an id, not {text:?}"))
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| format!("{text:?} is no number of seconds"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_key_and_names_them_when_wrong() {
        let late = "hooks=late:1.5".parse();
        assert_eq!(late, Ok(Request::Hooks(Delivery::Late(Duration::from_millis(1500)))));
        assert_eq!("hooks=repeat".parse(), Ok(Request::Hooks(Delivery::Repeat(2))));
        assert_eq!("hooks=repeat:10".parse(), Ok(Request::Hooks(Delivery::Repeat(10))));
        assert_eq!("answer=half".parse(), Ok(Request::Answer(Answering::Half)));
        assert_eq!("domain-crash=3".parse(), Ok(Request::DomainCrash(3)));
        assert_eq!("host-silent=0".parse(), Ok(Request::HostSilent(0)));
        assert_eq!("forget".parse(), Ok(Request::Forget));
        assert_eq!("host-heard=0".parse(), Ok(Request::HostHeard(0)));
        assert_eq!("servers=3".parse(), Ok(Request::Servers(3)));
        for bad in ["hooks=often", "hooks=repeat:", "answer_delay=-1", "domain-crash=x", "servers=-1", "nope"]
        {
            assert!(bad.parse::<Request>().is_err(), "{bad}");
        }
    }
}
