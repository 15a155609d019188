//! Advice as data: commands to type, something to wait for, or a decision to make. No I/O.
//!
//! `Display` gives the plain sentence that an operator reads, JSON the same in parts: what is typed is a text of its own, so
//! that the tests can type exactly what a refusal says, where it says it. `docs/advice.md` lists every command and the test
//! that types it.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use serde::Serialize;

/// What to do: one way, or several that the conditions before them tell apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Advice(Vec<Way>);

/// One way.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Way {
    /// Under which condition, or to what end: `if site-b is lost for good`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// What then.
    #[serde(flatten)]
    pub act: Act,
}

/// What an operator does.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Act {
    /// Types commands, one after the other, each only if the one before it succeeded.
    Type {
        /// Where.
        #[serde(flatten)]
        place: Place,
        /// What.
        commands: Vec<Command>,
    },
    /// Waits, or has somebody else do his part.
    Wait {
        /// For what.
        text: String,
    },
    /// Decides what nobody else can.
    Decide {
        /// What.
        text: String,
    },
}

/// Where a command is typed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case", tag = "at", content = "site")]
pub enum Place {
    /// On the site that gives the advice.
    Here,
    /// On the other one, by its name.
    There(String),
}

/// One command, whole.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Command {
    /// As it is typed.
    pub command: String,
    /// What the one before it has to have come to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub once: Option<Once>,
}

/// What a command waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Once {
    /// The VM that the one before it started runs.
    Runs,
    /// The VM that the one before it changed is POWEROFF again.
    Off,
}

impl Advice {
    /// A command that is typed there.
    pub fn command(place: Place, command: impl Into<String>) -> Self {
        Self::commands(place, [command.into()])
    }

    /// Several commands, one after the other.
    pub fn commands(place: Place, commands: impl IntoIterator<Item = String>) -> Self {
        let commands = commands.into_iter().map(|command| Command { command, once: None }).collect();
        Self::of(Act::Type { place, commands })
    }

    /// Something that has to happen first.
    pub fn wait(text: impl Into<String>) -> Self {
        Self::of(Act::Wait { text: text.into() })
    }

    /// A decision.
    pub fn decide(text: impl Into<String>) -> Self {
        Self::of(Act::Decide { text: text.into() })
    }

    fn of(act: Act) -> Self {
        Self(vec![Way { when: None, act }])
    }

    /// The same under a condition, or to an end.
    #[must_use]
    pub fn when(mut self, condition: impl Into<String>) -> Self {
        if let Some(first) = self.0.first_mut() {
            first.when = Some(condition.into());
        }
        self
    }

    /// One more command at the end of the last ones, once the VM runs.
    #[must_use]
    pub fn once_it_runs(self, command: String) -> Self {
        self.once(Once::Runs, command)
    }

    /// One more command at the end of the last ones, once the VM is off again.
    #[must_use]
    pub fn once_it_is_off(self, command: String) -> Self {
        self.once(Once::Off, command)
    }

    fn once(mut self, once: Once, command: String) -> Self {
        if let Some(Way { act: Act::Type { commands, .. }, .. }) = self.0.last_mut() {
            commands.push(Command { command, once: Some(once) });
        }
        self
    }

    /// And another way.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// The ways, in their order.
    pub fn ways(&self) -> &[Way] {
        &self.0
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let elsewhere = |way: &Way| matches!(way.act, Act::Type { place: Place::There(_), .. });
        // where one command is for the other site, it has to be said which are not
        let tell_here = self.0.iter().any(elsewhere);
        for (place, way) in self.0.iter().enumerate() {
            if place > 0 {
                f.write_str("; ")?;
            }
            way.write(f, tell_here)?;
        }
        Ok(())
    }
}

impl Way {
    fn write(&self, f: &mut fmt::Formatter<'_>, tell_here: bool) -> fmt::Result {
        match &self.act {
            Act::Type { place, commands } => {
                let place = match place {
                    Place::Here => tell_here.then(|| "here".to_owned()),
                    Place::There(site) => Some(format!("on {site}")),
                };
                let before: Vec<String> = self.when.clone().into_iter().chain(place).collect();
                if !before.is_empty() {
                    write!(f, "{}: ", before.join(", "))?;
                }
                for (place, Command { command, once }) in commands.iter().enumerate() {
                    match once {
                        _ if place == 0 => {}
                        Some(Once::Runs) => f.write_str(", and once it runs: ")?,
                        Some(Once::Off) => f.write_str(", and once the VM is POWEROFF: ")?,
                        None => f.write_str(" && ")?,
                    }
                    f.write_str(command)?;
                }
                Ok(())
            }
            Act::Wait { text } | Act::Decide { text } => match &self.when {
                Some(when) => write!(f, "{when}: {text}"),
                None => f.write_str(text),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString as _;

    fn there() -> Place {
        Place::There("site-b".into())
    }

    #[test]
    fn advice_is_a_sentence_and_its_commands_are_texts_of_their_own() {
        let advice = Advice::command(there(), "onevm resume 3")
            .once_it_runs("onevm poweroff 3".into())
            .and(Advice::command(Place::Here, "onemirror failover 7 --force").when("if site-b is lost"))
            .and(Advice::wait("bring site-b back"));
        assert_eq!(
            advice.to_string(),
            "on site-b: onevm resume 3, and once it runs: onevm poweroff 3; if site-b is lost, here: onemirror failover 7 --force; bring site-b back"
        );
        insta::assert_snapshot!(serde_json::to_string(&advice).unwrap(), @r#"[{"kind":"type","at":"there","site":"site-b","commands":[{"command":"onevm resume 3"},{"command":"onevm poweroff 3","once":"runs"}]},{"when":"if site-b is lost","kind":"type","at":"here","commands":[{"command":"onemirror failover 7 --force"}]},{"kind":"wait","text":"bring site-b back"}]"#);
    }

    #[test]
    fn where_all_is_typed_here_no_site_is_named() {
        let advice = Advice::commands(Place::Here, ["a 1".to_owned(), "b 2".to_owned()]);
        assert_eq!(advice.to_string(), "a 1 && b 2");
        assert_eq!(advice.when("to keep it").to_string(), "to keep it: a 1 && b 2");
        assert_eq!(Advice::decide("which copy to keep").to_string(), "which copy to keep");
    }
}
