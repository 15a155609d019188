//! What is wrong with a configuration, and what to change.

use std::path::{Path, PathBuf};

/// Why a configuration is not used. Every message ends with what to type or which line to correct.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is no such file.
    #[error(
        "{}: no configuration; copy the sample onemirror.conf there and fill it in, or name another file \
         with --config",
        path.display()
    )]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The file cannot be opened or read.
    #[error("{path}: cannot be read: {source}; as root: chgrp oneadmin {path} && chmod 640 {path}", path = .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Somebody else could have written the file.
    #[error("{}: not used: {why}; {}", path.display(), why.remedy(path))]
    NotTrusted {
        /// The file.
        path: PathBuf,
        /// What makes it so.
        why: Distrust,
    },
    /// The file is larger than any configuration.
    #[error("{}: larger than {} bytes, not a configuration; name the right file with --config", path.display(), super::SIZE_LIMIT)]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Not TOML.
    #[error("{}, line {line}: {message}; correct line {line}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What the parser expected.
        message: String,
    },
    /// A key that has no meaning here.
    #[error("{}, line {line}: unknown key {key}; {}", path.display(), remedy(*line, nearest.as_deref(), allowed))]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// With its table: `site.rolle`.
        key: String,
        /// The most similar key of that table, if any is similar.
        nearest: Option<String>,
        /// All keys of that table.
        allowed: Vec<String>,
    },
    /// A key that must be there.
    #[error("{}{}: {key} is missing; add {example}{}", path.display(), at(*line), below(*line))]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// Where its table begins, counted from 1; absent if there is no such table.
        line: Option<usize>,
        /// With its table: `peer.auth`.
        key: String,
        /// What to write.
        example: &'static str,
    },
    /// A value that is not allowed.
    #[error("{}, line {line}: {key}: {message}; correct line {line}", path.display())]
    WrongValue {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// With its table: `policy.sync_timeout`.
        key: String,
        /// What is allowed.
        message: String,
    },
}

/// Why a file is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    /// A folder, device or pipe.
    #[error("not a regular file")]
    NotAFile,
    /// It belongs to somebody else.
    #[error("it belongs to user {owner}, who is neither root nor the user running this ({current_user})")]
    Owner {
        /// User id of the owner.
        owner: u32,
        /// User id of this process.
        current_user: u32,
    },
    /// Everybody may write it.
    #[error("everybody may write it")]
    WorldWritable,
}

impl Distrust {
    fn remedy(self, path: &Path) -> String {
        let path = path.display();
        match self {
            Self::NotAFile => "name the right one with --config".into(),
            Self::Owner { .. } => {
                format!("run this as its owner, or check what it says and: chown root {path}")
            }
            Self::WorldWritable => format!("check what it says, then: chmod o-w {path}"),
        }
    }
}

fn remedy(line: usize, nearest: Option<&str>, allowed: &[String]) -> String {
    match nearest {
        Some(nearest) => format!("did you mean {nearest}? Correct line {line}"),
        None if allowed.is_empty() => format!("remove line {line}"),
        None => format!("remove line {line} or use one of {}", allowed.join(", ")),
    }
}

fn at(line: Option<usize>) -> String {
    line.map(|line| format!(", line {line}")).unwrap_or_default()
}

fn below(line: Option<usize>) -> String {
    line.map(|line| format!(" below line {line}")).unwrap_or_default()
}
