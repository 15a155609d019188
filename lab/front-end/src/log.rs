//! The log files that oned and its drivers write.

use std::io::Write;
use std::path::{Path, PathBuf};

/// How bad a line is; the letter stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// `E`
    Error,
    /// `W`
    Warning,
    /// `I`
    Info,
    /// `D`
    Debug,
}

impl Severity {
    fn letter(self) -> char {
        match self {
            Self::Error => 'E',
            Self::Warning => 'W',
            Self::Info => 'I',
            Self::Debug => 'D',
        }
    }

    fn from_prefix(prefix: &str) -> Option<Self> {
        Some(match prefix {
            "ERROR" => Self::Error,
            "WARN" => Self::Warning,
            "INFO" => Self::Info,
            "DEBUG" => Self::Debug,
            _ => return None,
        })
    }
}

/// Today as ctime prints it.
pub fn date() -> String {
    jiff::Zoned::now().strftime("%a %b %e %H:%M:%S %Y").to_string()
}

/// Seconds since 1970.
pub fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// The folder of a VM's files on the front-end.
pub fn vm_directory(location: &Path, vm: i64) -> PathBuf {
    location.join("var/vms").join(vm.to_string())
}

/// Adds lines to a VM's log.
pub fn vm(location: &Path, vm: i64, module: &str, severity: Severity, text: &str) {
    append(&vm_directory(location, vm).join("vm.log"), module, severity, text);
}

/// Adds lines to the log of oned itself.
pub fn oned(location: &Path, module: &str, severity: Severity, text: &str) {
    append(&location.join("var/oned.log"), module, severity, text);
}

fn append(path: &Path, module: &str, severity: Severity, text: &str) {
    let date = date();
    let lines: String = text
        .trim()
        .lines()
        .map(|line| format!("{date} [Z0][{module}][{}]: {}\n", severity.letter(), line.trim()))
        .collect();
    let written = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|mut file| file.write_all(lines.as_bytes()));
    if let Err(error) = written {
        tracing::warn!("{}: {error}", path.display());
    }
}

/// A driver's standard error taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DriverErrors {
    /// Lines `ERROR: …` and the like: severity, the id that followed, the rest.
    pub logged: Vec<(Severity, Option<i64>, String)>,
    /// All other lines, one behind the other without anything between.
    pub reason: String,
}

/// Takes a driver's standard error apart as OpenNebula 7 does.
pub fn driver_errors(stderr: &str) -> DriverErrors {
    let mut errors = DriverErrors::default();
    for line in stderr.lines().map(str::trim) {
        let split = line.split_once(':').and_then(|(prefix, rest)| {
            let severity = Severity::from_prefix(prefix)?;
            rest.starts_with(char::is_whitespace).then_some((severity, rest.trim_start()))
        });
        match split {
            Some((severity, rest)) => {
                let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
                let (number, message) = rest.split_at(digits);
                errors.logged.push((severity, number.parse().ok(), message.trim().to_owned()));
            }
            None => errors.reason.push_str(line),
        }
    }
    errors
}

/// Logs a whole driver output for a VM, as a failed command is logged: unmarked lines count as information.
pub fn driver_output(location: &Path, id: i64, module: &str, text: &str) {
    for line in text.trim().lines() {
        let marked = line.split_once(':').and_then(|(prefix, rest)| {
            let severity = Severity::from_prefix(prefix).filter(|severity| *severity != Severity::Warning)?;
            Some((severity, rest))
        });
        let (severity, rest) = marked.unwrap_or((Severity::Info, line));
        vm(location, id, module, severity, rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_error_is_taken_apart_as_in_version_7() {
        let errors = driver_errors(
            "ERROR: onemirror: rule x\nINFO: details\none-0-2-0 is primary\n on site-b; not booting\nERROR: 12 gone\nERROR:no blank\n",
        );
        assert_eq!(errors.reason, "one-0-2-0 is primaryon site-b; not bootingERROR:no blank");
        assert_eq!(
            errors.logged,
            [
                (Severity::Error, None, "onemirror: rule x".to_owned()),
                (Severity::Info, None, "details".to_owned()),
                (Severity::Error, Some(12), "gone".to_owned()),
            ]
        );
    }
}
