//! Finding the front-end and the credentials, as every `one*` command does.
//!
//! The order is that of OpenNebula's own client library: what is configured, the environment, the file in the
//! home folder, the file of `oneadmin`, the default. `ONE_LOCATION` plays no part in it, there or here.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

const DEFAULT_ENDPOINT: &str = "http://localhost:2633/RPC2";
const ONEADMIN_FOLDER: &str = "/var/lib/one/.one";
/// Bytes; a session or an endpoint is one line.
const MAX_FILE: u64 = 64 * 1024;

/// A user and its password or token, `user:password`: what every call begins with.
///
/// Its Debug form hides it, and it has no Display form.
#[derive(Clone, PartialEq, Eq)]
pub struct Session(String);

impl Session {
    /// Takes `user:password`; trailing white space is cut off.
    pub fn new(text: &str) -> Result<Self, EndpointError> {
        let line = text.lines().next().unwrap_or_default().trim_end();
        match line.split_once(':') {
            Some((user, password))
                if !user.is_empty() && !password.is_empty() && !line.chars().any(char::is_control) =>
            {
                Ok(Self(line.to_owned()))
            }
            _ => Err(EndpointError::NotASession),
        }
    }

    /// The user's name, which is no secret.
    pub fn user(&self) -> &str {
        self.0.split_once(':').map_or("", |(user, _)| user)
    }

    pub(super) fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({:?}, (secret))", self.user())
    }
}

/// Why there are no credentials. Never quotes the file.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// None of the places has a file.
    #[error(
        "no credentials found: set ONE_AUTH to a file, or make ~/.one/one_auth or /var/lib/one/.one/one_auth (mode 600) with one line user:password"
    )]
    NoAuthFile,
    /// Others could read the secret.
    #[error("{path} can be read or changed by others (mode {mode:04o}): chmod 600 {path}", path = .path.display())]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file can't be read.
    #[error("can't read the credentials in {path}: {source}", path = .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A folder, a device, or too large for one line.
    #[error("{path} is not a file with one line user:password", path = .path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// The text has no `user:password`.
    #[error("the credentials are not of the form user:password")]
    NotASession,
}

/// Where to look, so that tests need not change the environment of the whole process.
struct ShellEnvironment {
    /// `$ONE_XMLRPC`.
    one_xmlrpc: Option<String>,
    /// `$ONE_AUTH`.
    one_auth: Option<PathBuf>,
    /// `$HOME/.one`.
    home_folder: Option<PathBuf>,
    oneadmin_folder: PathBuf,
}

impl ShellEnvironment {
    fn of_this_process() -> Self {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            one_xmlrpc: set("ONE_XMLRPC").and_then(|value| value.into_string().ok()),
            one_auth: set("ONE_AUTH").map(Into::into),
            home_folder: set("HOME").map(|home| Path::new(&home).join(".one")),
            oneadmin_folder: ONEADMIN_FOLDER.into(),
        }
    }

    fn files(&self, name: &str) -> impl Iterator<Item = PathBuf> {
        let name = name.to_owned();
        [self.home_folder.clone(), Some(self.oneadmin_folder.clone())]
            .into_iter()
            .flatten()
            .map(move |folder| folder.join(&name))
    }

    fn endpoint(&self, configured: Option<&str>) -> String {
        let given = configured.map(str::to_owned).or_else(|| self.one_xmlrpc.clone());
        // The first file that exists counts, as it does for the one* commands.
        let found = given.or_else(|| {
            self.files("one_endpoint").find(|path| path.exists()).and_then(|path| read_small(&path).ok())
        });
        match found.as_deref().map(str::trim) {
            Some(endpoint) if !endpoint.is_empty() => endpoint.to_owned(),
            _ => DEFAULT_ENDPOINT.to_owned(),
        }
    }

    fn auth_file(&self, configured: Option<&Path>) -> Result<PathBuf, EndpointError> {
        if let Some(path) = configured {
            return Ok(path.to_owned());
        }
        self.one_auth
            .clone()
            .into_iter()
            .chain(self.files("one_auth"))
            .find(|path| path.is_file())
            .ok_or(EndpointError::NoAuthFile)
    }
}

fn read_small(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}

/// The address of oned: `configured`, else `$ONE_XMLRPC`, `~/.one/one_endpoint`,
/// `/var/lib/one/.one/one_endpoint`, `http://localhost:2633/RPC2`.
pub fn discover_endpoint(configured: Option<&str>) -> String {
    ShellEnvironment::of_this_process().endpoint(configured)
}

/// The file with the credentials: `configured`, else the first that exists of `$ONE_AUTH`, `~/.one/one_auth`,
/// `/var/lib/one/.one/one_auth`.
pub fn discover_auth_file(configured: Option<&Path>) -> Result<PathBuf, EndpointError> {
    ShellEnvironment::of_this_process().auth_file(configured)
}

/// Reads the credentials from the first line of a file that only its owner can read.
pub fn read_session(path: &Path) -> Result<Session, EndpointError> {
    let unreadable = |source| EndpointError::Unreadable { path: path.to_owned(), source };
    // Looked at before it is opened, because opening a FIFO would wait, and again when open, because it may
    // have been replaced.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(EndpointError::NotAFile { path: path.to_owned() });
    }
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() || metadata.len() > MAX_FILE {
        return Err(EndpointError::NotAFile { path: path.to_owned() });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(EndpointError::TooOpen { path: path.to_owned(), mode });
    }
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text).map_err(unreadable)?;
    Session::new(&text).map_err(|_| EndpointError::NotAFile { path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    fn write(path: &Path, text: &str, mode: u32) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn the_endpoint_is_found_in_the_order_of_the_one_commands() {
        let folder = tempfile::tempdir().unwrap();
        let (home, oneadmin) = (folder.path().join("home/.one"), folder.path().join("one/.one"));
        let mut environment = ShellEnvironment {
            one_xmlrpc: None,
            one_auth: None,
            home_folder: Some(home.clone()),
            oneadmin_folder: oneadmin.clone(),
        };
        assert_eq!(environment.endpoint(None), "http://localhost:2633/RPC2");
        write(&oneadmin.join("one_endpoint"), "http://oneadmin/RPC2\n", 0o644);
        assert_eq!(environment.endpoint(None), "http://oneadmin/RPC2");
        write(&home.join("one_endpoint"), "http://home/RPC2 \n", 0o644);
        assert_eq!(environment.endpoint(None), "http://home/RPC2");
        environment.one_xmlrpc = Some("http://environment/RPC2".into());
        assert_eq!(environment.endpoint(None), "http://environment/RPC2");
        assert_eq!(environment.endpoint(Some("https://configured/RPC2")), "https://configured/RPC2");
    }

    #[test]
    fn the_credentials_are_found_in_the_order_of_the_one_commands() {
        let folder = tempfile::tempdir().unwrap();
        let (home, oneadmin) = (folder.path().join("home/.one"), folder.path().join("one/.one"));
        let mut environment = ShellEnvironment {
            one_xmlrpc: None,
            one_auth: Some(folder.path().join("missing")),
            home_folder: Some(home.clone()),
            oneadmin_folder: oneadmin.clone(),
        };
        assert!(matches!(environment.auth_file(None), Err(EndpointError::NoAuthFile)));
        write(&oneadmin.join("one_auth"), "a:b", 0o600);
        assert_eq!(environment.auth_file(None).unwrap(), oneadmin.join("one_auth"));
        write(&home.join("one_auth"), "a:b", 0o600);
        assert_eq!(environment.auth_file(None).unwrap(), home.join("one_auth"));
        let named = folder.path().join("named");
        write(&named, "a:b", 0o600);
        environment.one_auth = Some(named.clone());
        assert_eq!(environment.auth_file(None).unwrap(), named);
        // What is configured counts even if it is missing: no other credentials are tried in its place.
        let missing = folder.path().join("configured");
        assert_eq!(environment.auth_file(Some(&missing)).unwrap(), missing);
    }

    #[test]
    fn a_session_file_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("one_auth");
        for mode in [0o600, 0o400, 0o700] {
            write(&path, "oneadmin:hunter2 \nsecond line\n", mode);
            let session = read_session(&path).unwrap();
            assert_eq!((session.secret(), session.user()), ("oneadmin:hunter2", "oneadmin"));
            fs::remove_file(&path).unwrap();
        }
        for mode in [0o640, 0o604, 0o660, 0o601, 0o620] {
            write(&path, "oneadmin:hunter2", mode);
            let error = read_session(&path).unwrap_err();
            assert!(matches!(error, EndpointError::TooOpen { mode: found, .. } if found == mode));
            let text = error.to_string();
            assert!(
                text.contains(&format!("chmod 600 {}", path.display())) && !text.contains("hunter2"),
                "{text}"
            );
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn what_is_no_session_is_refused_without_quoting_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("one_auth");
        for text in ["", "\n", "hunter2", ":hunter2", "hunter2:", "a:hunter2\u{1b}[2J", "\na:hunter2"] {
            write(&path, text, 0o600);
            let error = read_session(&path).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
        write(&path, &format!("a:{}", "x".repeat(70_000)), 0o600);
        assert!(matches!(read_session(&path), Err(EndpointError::NotAFile { .. })));
        assert!(matches!(read_session(folder.path()), Err(EndpointError::NotAFile { .. })));
        assert!(matches!(read_session(&folder.path().join("no")), Err(EndpointError::Unreadable { .. })));
        fs::write(&path, b"a:\xff\xfe").unwrap();
        assert!(read_session(&path).is_err());
    }

    #[test]
    fn the_secret_is_not_in_the_debug_form() {
        let session = Session::new("oneadmin:hunter2").unwrap();
        assert_eq!(format!("{session:?}"), "Session(\"oneadmin\", (secret))");
    }
}
