//! What onemirror has to say to an action of a driver, and how oned is told.

use crate::audit::{AuditLog, Entry, Outcome};
use crate::ceph::CephError;
use crate::config;
use crate::sites::{RunError, first_sentence};
use crate::state;
use onemirror_protocol::{Code, Unfit};
use std::ffi::OsString;
use std::io::{Seek as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

/// What onemirror has to say to an action.
pub(crate) enum Answer {
    /// The stock action does its work.
    Stock,
    /// The work is done, or must not be done: the stock action is left out, successfully.
    Instead(String),
    /// The stock action ran already and failed; it has said why.
    Failed(i32),
    /// The action fails with one plain sentence.
    Refused {
        sentence: String,
        /// The operation has written it into the audit log already.
        noted: bool,
    },
}

/// What an operator who has switched onemirror off gets. It is asked before anything that could go wrong: it is what is
/// left to them then.
pub(crate) fn switched_off(subject: &Entry) -> Option<Answer> {
    match state::emergency_off(&config::state_dir()) {
        Ok(None) => None,
        Ok(Some(off)) => {
            let reason = Some(format!("switched off: {}", off.reason));
            note(Entry { outcome: Outcome::Skipped, reason, ..subject.clone() });
            Some(Answer::Stock)
        }
        Err(error) => {
            tracing::warn!("{error}");
            None
        }
    }
}

/// A refusal that is not in the audit log yet.
pub(crate) fn refuse(unfit: &Unfit) -> Answer {
    Answer::Refused { sentence: format!("{} {unfit}", unfit.code()), noted: false }
}

/// The same of an error, by its own code.
pub(crate) fn refuse_error(error: &RunError) -> Answer {
    Answer::Refused { sentence: format!("{} {error}", error.code()), noted: false }
}

/// The same of what Ceph said.
pub(crate) fn refuse_ceph(error: &CephError) -> Answer {
    Answer::Refused { sentence: format!("{} {error}", Code::CEPH), noted: false }
}

/// A refusal of an operation, which has written it into the audit log.
pub(crate) fn refuse_as_noted(vm: i32, error: &RunError) -> Answer {
    Answer::Refused { sentence: error.for_oned(vm), noted: true }
}

/// The same of an image, whatever VM uses it.
pub(crate) fn refuse_image(error: &RunError) -> Answer {
    Answer::Refused { sentence: format!("{} {error}", error.code()), noted: true }
}

/// A call of a driver's action.
pub(crate) struct Called<'a> {
    /// The action that onemirror stands in front of.
    pub stock: &'a Path,
    /// Its arguments.
    pub arguments: &'a [OsString],
    /// What it finds on its standard input, where onemirror has read that.
    pub input: Option<&'a [u8]>,
}

impl Called<'_> {
    /// Tells oned; becomes the stock action where that is the answer. `subject` is what the audit log says of a refusal.
    pub(crate) fn give(&self, answer: Answer, subject: Entry) -> ExitCode {
        match answer {
            Answer::Stock => self.become_stock(),
            Answer::Failed(status) => ExitCode::from(u8::try_from(status).unwrap_or(1)),
            Answer::Instead(why) if why.is_empty() => ExitCode::SUCCESS,
            Answer::Instead(why) => {
                tell_instead(&why, subject);
                ExitCode::SUCCESS
            }
            Answer::Refused { sentence, noted } => {
                if !noted {
                    note(Entry { outcome: Outcome::Refused, reason: Some(sentence.clone()), ..subject });
                }
                // nothing else: OpenNebula 6 would show all lines as one, and cut the last
                eprintln!("{}", first_sentence(&sentence));
                ExitCode::FAILURE
            }
        }
    }

    /// Replaces this process by the stock action: argv, stdin, stdout, stderr and exit status are its own.
    fn become_stock(&self) -> ExitCode {
        let mut command = Command::new(self.stock);
        command.args(self.arguments);
        let error = match self.input.map(readable).transpose() {
            Ok(input) => {
                if let Some(input) = input {
                    command.stdin(input);
                }
                command.exec()
            }
            Err(error) => error,
        };
        let gone =
            Unfit::StockActionGone { action: self.stock.display().to_string(), error: error.to_string() };
        eprintln!("{} {gone}", gone.code());
        ExitCode::FAILURE
    }
}

/// Memory that reads as a file, so that what was read once can be read again.
fn readable(input: &[u8]) -> std::io::Result<Stdio> {
    let mut file = std::fs::File::from(rustix::fs::memfd_create("input", rustix::fs::MemfdFlags::CLOEXEC)?);
    file.write_all(input)?;
    file.rewind()?;
    Ok(file.into())
}

/// Why the stock action was left out: in the audit log, and in the log of the VM that it is about, if it is about one.
fn tell_instead(why: &str, subject: Entry) {
    let why = first_sentence(why);
    // OpenNebula 7 takes the number behind INFO for the VM in whose log the rest belongs, and ends if there is no such VM;
    // OpenNebula 6 throws away what an action says that went well
    let vm = subject.vm.map(|vm| format!("{vm} ")).unwrap_or_default();
    eprintln!("INFO: {vm}onemirror: {why}");
    note(Entry { outcome: Outcome::Skipped, reason: Some(why), ..subject });
}

/// One line in the audit log for what is answered without a run.
pub(crate) fn note(entry: Entry) {
    // the log warns by itself, once
    let _ = AuditLog::open(&config::audit_log_path()).record(&entry);
}
