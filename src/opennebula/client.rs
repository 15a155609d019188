//! The calls, over HTTP or HTTPS.
//!
//! Each call has one deadline that covers all of its attempts. It is attempted again only where that is
//! harmless: when the connection was refused (oned never saw the call), and, for calls that change nothing,
//! while a federation of front-ends elects its leader.

use super::document::{Datastore, DocumentError, Hook, Host, Image, MAX_DOCUMENT, Vm};
use super::endpoint::Session;
use super::states::VmState;
use super::xmlrpc::{self, Argument, Value, XmlRpcAnswer};
use crate::text::excerpt;
use backon::{ExponentialBuilder, Retryable as _};
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// VMs per answer. They are some 10 kB each.
const VM_PAGE: usize = 100;
/// Images per answer. They are some 2 kB each.
const IMAGE_PAGE: usize = 500;
/// How often a listing is begun again because it changed while it was read.
const LISTING_ATTEMPTS: usize = 5;
/// Pages of a listing; more is not a front-end but a fault.
const MAX_PAGES: usize = 10_000;
/// How often a refused connection is attempted again: about two seconds, so that a restart of oned is bridged
/// but a front-end that is down is noticed soon.
const REFUSED_RETRIES: usize = 4;
/// Bytes of a CA file.
const MAX_CA_FILE: u64 = 4 * 1024 * 1024;

/// How to reach a front-end.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// `http(s)://host:port/RPC2`.
    pub endpoint: String,
    /// Who asks.
    pub session: Session,
    /// How long one call may take, with all of its attempts.
    pub deadline: Duration,
    /// Certificates (PEM) to trust in addition to those of the system.
    pub ca_file: Option<PathBuf>,
}

/// Why a call failed.
///
/// What oned said is cleaned of control characters and cut.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OneError {
    /// 0x100: wrong user or password.
    #[error("authentication failed: {0}")]
    Authentication(String),
    /// 0x200: this user may not do that.
    #[error("not authorized: {0}")]
    Authorization(String),
    /// 0x400: no such VM, image …
    #[error("no such object: {0}")]
    NoExists(String),
    /// 0x800: not possible in the object's present state.
    #[error("not possible now: {0}")]
    Action(String),
    /// 0x1000: the call was wrong.
    #[error("wrong call: {0}")]
    XmlRpcApi(String),
    /// 0x2000: oned's own trouble, among it "no leader" of a federation.
    #[error("internal error of the front-end: {0}")]
    Internal(String),
    /// 0x4000: could not be made.
    #[error("could not be made: {0}")]
    Allocate(String),
    /// 0x8000: locked by somebody.
    #[error("locked: {0}")]
    Locked(String),
    /// 0x10000: not replicated within the federation.
    #[error("not replicated: {0}")]
    Replication(String),
    /// A fault of the XML-RPC layer, such as an unknown method, or a code that 7.4 does not know.
    #[error("fault {code}: {message}")]
    Fault {
        /// The code.
        code: i64,
        /// What was said.
        message: String,
    },
    /// Somebody answers, but not with a certificate that can be trusted, or without any; nothing was sent.
    #[error("no connection to {endpoint} that can be trusted: {detail}")]
    Untrusted {
        /// The address.
        endpoint: String,
        /// What is wrong with it.
        detail: String,
    },
    /// There was no connection: refused, no route, no such name.
    #[error("can't reach {endpoint}: {detail}")]
    Unreachable {
        /// The address.
        endpoint: String,
        /// What happened.
        detail: String,
    },
    /// The connection broke after the call may have arrived.
    #[error("the connection to {endpoint} broke before the whole answer came: {detail}")]
    Interrupted {
        /// The address.
        endpoint: String,
        /// What happened.
        detail: String,
    },
    /// No answer in time.
    #[error("no answer from {endpoint} within {deadline:?}")]
    Timeout {
        /// The address.
        endpoint: String,
        /// The time it had.
        deadline: Duration,
    },
    /// The answer is not what this version understands; nothing is concluded from it.
    #[error("answer of {endpoint} not understood: {detail}")]
    BadAnswer {
        /// The address.
        endpoint: String,
        /// Where it broke.
        detail: String,
    },
    /// The answer is larger than what is read.
    #[error("answer of {endpoint} is larger than {limit} bytes")]
    TooLarge {
        /// The address.
        endpoint: String,
        /// Bytes.
        limit: usize,
    },
    /// Another HTTP status than 200, and so not oned's XML-RPC.
    #[error("HTTP status {0} instead of an XML-RPC answer; check that the endpoint is oned's (…:2633/RPC2)")]
    Http(u16),
    /// The endpoint or the CA file can't be used; no call was made.
    #[error("{0}")]
    Configuration(String),
}

impl OneError {
    /// Whether nothing is known of the front-end: it could not be asked, or could not answer for itself.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Interrupted { .. } | Self::Timeout { .. } => true,
            // a proxy in front of a dead oned
            Self::Http(status) => *status >= 500,
            _ => false,
        }
    }

    /// Whether servers of one zone that do answer have no leader.
    pub fn is_without_leader(&self) -> bool {
        matches!(self, Self::Internal(message) if is_election(message))
    }

    fn of_code(code: i64, message: String) -> Self {
        match code {
            0x100 => Self::Authentication(message),
            0x200 => Self::Authorization(message),
            0x400 => Self::NoExists(message),
            0x800 => Self::Action(message),
            0x1000 => Self::XmlRpcApi(message),
            0x2000 => Self::Internal(message),
            0x4000 => Self::Allocate(message),
            0x8000 => Self::Locked(message),
            0x10000 => Self::Replication(message),
            code => Self::Fault { code, message },
        }
    }
}

/// By the `Date` that every HTTP server adds (RFC 9110, 6.6.1), in whole seconds.
fn clock_ahead(headers: &reqwest::header::HeaderMap, now: jiff::Timestamp) -> Option<i64> {
    let date = headers.get(reqwest::header::DATE)?.to_str().ok()?;
    let there = jiff::fmt::rfc2822::parse(date).ok()?.timestamp();
    Some(there.as_second() - now.as_second())
}

/// oned's refusals while there is no leader; the call was not carried out.
fn is_election(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    ["no leader", "election mode", "replicating log"].iter().any(|words| message.contains(words))
}

/// What `one.vm.action` can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VmAction {
    /// Boot from POWEROFF, SUSPENDED, STOPPED, UNDEPLOYED.
    Resume,
    /// Kill the guest.
    PoweroffHard,
    /// Let be scheduled.
    Release,
}

impl VmAction {
    /// oned's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Resume => "resume",
            Self::PoweroffHard => "poweroff-hard",
            Self::Release => "release",
        }
    }
}

impl fmt::Display for VmAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What `one.vm.recover` can be asked for. Its deletions are left out on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Recover {
    /// Take the last operation for failed.
    Failure,
    /// Take the last operation for done; driver actions are skipped.
    Success,
    /// Do the last operation again.
    Retry,
}

impl Recover {
    fn number(self) -> i32 {
        match self {
            Self::Failure => 0,
            Self::Success => 1,
            Self::Retry => 2,
        }
    }
}

/// Whether a call changes something.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    Reads,
    Changes,
}

/// A failed attempt.
struct CallAttempt {
    error: OneError,
    /// oned can't have seen the call.
    refused: bool,
}

impl From<OneError> for CallAttempt {
    fn from(error: OneError) -> Self {
        Self { error, refused: false }
    }
}

/// One front-end.
pub struct Client {
    http: reqwest::Client,
    url: reqwest::Url,
    endpoint: String,
    session: Session,
    deadline: Duration,
    max_answer: usize,
    /// Members of a pool per answer, where it is not as usual.
    page: Option<usize>,
    /// By its last answer.
    clock_ahead: Mutex<Option<i64>>,
    #[cfg(test)]
    retried: std::sync::Arc<tokio::sync::Notify>,
}

/// A pool that oned pages.
struct Pool<'a, T> {
    method: &'static str,
    /// Behind those that tell the page.
    further: &'a [Argument<'a>],
    /// Members per answer.
    page: usize,
    members: fn(&str) -> Result<Vec<T>, DocumentError>,
    id: fn(&T) -> i32,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("endpoint", &self.endpoint)
            .field("session", &self.session)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Checks the options; makes no connection yet.
    pub fn new(options: ClientOptions) -> Result<Self, OneError> {
        let ClientOptions { endpoint, session, deadline, ca_file } = options;
        // The address is quoted only once it is known to hold no password.
        let url = reqwest::Url::parse(&endpoint)
            .map_err(|error| OneError::Configuration(format!("the endpoint is not an address: {error}")))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(OneError::Configuration(
                "the endpoint holds a user or password; put them into the auth file".to_owned(),
            ));
        }
        let encrypted = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => {
                return Err(OneError::Configuration(format!(
                    "{}: the endpoint must begin with http:// or https://",
                    excerpt(&endpoint)
                )));
            }
        };
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("onemirror/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .http1_only()
            // A kept connection may be closed by oned just as a call is sent, and then nobody knows whether
            // the call arrived.
            .pool_max_idle_per_host(0)
            // Not read where not needed: it costs more than a call.
            .tls_built_in_root_certs(encrypted);
        if let Some(path) = &ca_file {
            for certificate in read_certificates(path)? {
                builder = builder.add_root_certificate(certificate);
            }
        }
        let http = builder.build().map_err(|error| {
            OneError::Configuration(format!("can't make an HTTP client: {}", chain(&error)))
        })?;
        Ok(Self {
            http,
            url,
            endpoint: excerpt(&endpoint),
            session,
            deadline,
            max_answer: MAX_DOCUMENT,
            page: None,
            clock_ahead: Mutex::default(),
            #[cfg(test)]
            retried: std::sync::Arc::default(),
        })
    }

    /// The address, for messages.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The name of our user.
    pub fn user_name(&self) -> &str {
        self.session.user()
    }

    /// `one.vm.info`.
    pub async fn vm(&self, id: i32) -> Result<Vm, OneError> {
        let text = self.text("one.vm.info", &[Argument::Int(id), Argument::Bool(false)]).await?;
        self.of_id(Vm::from_xml(&text), id, |vm| vm.id)
    }

    /// All VMs but those that are DONE, with their disks (`one.vmpool.infoextended`).
    pub async fn vm_pool(&self) -> Result<Vec<Vm>, OneError> {
        let pool = Pool {
            method: "one.vmpool.infoextended",
            further: &[Argument::Int(-1 /* not DONE */), Argument::Text("")],
            page: self.page.unwrap_or(VM_PAGE),
            members: Vm::pool_from_xml,
            id: |vm: &Vm| vm.id,
        };
        let mut vms = self.pool(&pool).await?;
        vms.retain(|vm| vm.state != VmState::Done);
        Ok(vms)
    }

    /// All images (`one.imagepool.info`).
    pub async fn image_pool(&self) -> Result<Vec<Image>, OneError> {
        let pool = Pool {
            method: "one.imagepool.info",
            further: &[],
            page: self.page.unwrap_or(IMAGE_PAGE),
            members: Image::pool_from_xml,
            id: |image: &Image| image.id,
        };
        self.pool(&pool).await
    }

    /// Everything in a pool, read page by page. oned pages by row number, so what is removed between two pages would hide
    /// something else: each page begins with the last member of the page before, and if it does not, the listing is begun
    /// again.
    async fn pool<T: Send + 'static>(&self, pool: &Pool<'_, T>) -> Result<Vec<T>, OneError> {
        for _ in 0..LISTING_ATTEMPTS {
            if let Some(members) = self.list(pool).await? {
                return Ok(members);
            }
            tracing::debug!(method = pool.method, endpoint = %self.endpoint, "the list changed while it was read; listing again");
        }
        let method = pool.method;
        Err(self.bad_answer(format_args!("{method} changed {LISTING_ATTEMPTS} times while it was read")))
    }

    /// `None`: the list changed meanwhile.
    async fn list<T: Send + 'static>(&self, pool: &Pool<'_, T>) -> Result<Option<Vec<T>>, OneError> {
        let to_int = |number: usize| {
            i32::try_from(number).map_err(|_| self.bad_answer("more members than there are numbers"))
        };
        let size = to_int(pool.page)?;
        let mut members: Vec<T> = Vec::new();
        for _ in 0..MAX_PAGES {
            let start = to_int(members.len().saturating_sub(1))?;
            let mut arguments = vec![
                Argument::Int(-2), // of all users
                Argument::Int(start),
                Argument::Int(-size), // negative: a number of rows, not an id
            ];
            arguments.extend_from_slice(pool.further);
            let text = self.text(pool.method, &arguments).await?;
            let page = self.document(beside(text, pool.members).await)?;
            let is_last = page.len() < pool.page;
            let mut page = page.into_iter();
            if let Some(last) = members.pop() {
                match page.next() {
                    Some(first) if (pool.id)(&first) == (pool.id)(&last) => members.push(first),
                    _ => return Ok(None),
                }
            }
            members.extend(page);
            if is_last {
                let mut ids: Vec<i32> = members.iter().map(pool.id).collect();
                ids.sort_unstable();
                let is_twice = ids.windows(2).any(|pair| pair[0] == pair[1]);
                return Ok((!is_twice).then_some(members));
            }
        }
        Err(self.bad_answer(format_args!("{} has no end", pool.method)))
    }

    /// `one.datastore.info`.
    pub async fn datastore(&self, id: i32) -> Result<Datastore, OneError> {
        let text = self.text("one.datastore.info", &[Argument::Int(id), Argument::Bool(false)]).await?;
        self.of_id(Datastore::from_xml(&text), id, |datastore| datastore.id)
    }

    /// `one.datastorepool.info`.
    pub async fn datastore_pool(&self) -> Result<Vec<Datastore>, OneError> {
        let text = self.text("one.datastorepool.info", &[]).await?;
        self.document(Datastore::pool_from_xml(&text))
    }

    /// The user that the session belongs to (`one.user.info` of -1).
    pub async fn own_user(&self) -> Result<super::User, OneError> {
        let text = self.text("one.user.info", &[Argument::Int(-1), Argument::Bool(false)]).await?;
        self.document(super::User::from_xml(&text))
    }

    /// `one.hostpool.info`.
    pub async fn host_pool(&self) -> Result<Vec<Host>, OneError> {
        let text = self.text("one.hostpool.info", &[]).await?;
        self.document(Host::pool_from_xml(&text))
    }

    /// Adds attributes to a VM's user template, or replaces those of the same name (`one.vm.update`).
    pub async fn vm_update_append(&self, id: i32, template: &str) -> Result<(), OneError> {
        self.change("one.vm.update", &[Argument::Int(id), Argument::Text(template), Argument::Int(1)]).await
    }

    /// `one.vm.action`. Never repeated once oned may have received it.
    pub async fn vm_action(&self, action: VmAction, id: i32) -> Result<(), OneError> {
        self.change("one.vm.action", &[Argument::Text(action.name()), Argument::Int(id)]).await
    }

    /// `one.vm.recover`.
    pub async fn vm_recover(&self, id: i32, operation: Recover) -> Result<(), OneError> {
        self.change("one.vm.recover", &[Argument::Int(id), Argument::Int(operation.number())]).await
    }

    /// Registers an image (`one.image.allocate`) and gives its id. What the datastore holds is not changed where the template
    /// names its source.
    pub async fn image_allocate(&self, template: &str, datastore: i32) -> Result<i32, OneError> {
        let arguments = [Argument::Text(template), Argument::Int(datastore)];
        match self.call("one.image.allocate", &arguments, Effect::Changes).await? {
            Value::Int(id) => i32::try_from(id).map_err(|_| self.bad_answer("an id out of range")),
            _ => Err(self.bad_answer("no id of the new image")),
        }
    }

    /// Makes a hook (`one.hook.allocate`) and gives its id.
    pub async fn hook_allocate(&self, template: &str) -> Result<i32, OneError> {
        let value = self.call("one.hook.allocate", &[Argument::Text(template)], Effect::Changes).await?;
        match value {
            Value::Int(id) => i32::try_from(id).map_err(|_| self.bad_answer("an id out of range")),
            _ => Err(self.bad_answer("no id of the new hook")),
        }
    }

    /// Replaces a hook's template (`one.hook.update`).
    pub async fn hook_update(&self, id: i32, template: &str) -> Result<(), OneError> {
        self.change("one.hook.update", &[Argument::Int(id), Argument::Text(template), Argument::Int(0)]).await
    }

    /// `one.hookpool.info`.
    pub async fn hook_pool(&self) -> Result<Vec<Hook>, OneError> {
        let text = self.text("one.hookpool.info", &[]).await?;
        self.document(Hook::pool_from_xml(&text))
    }

    /// How the hook's last run ended (`one.hook.info`); `None`: it never ran, as far as oned remembers.
    pub async fn last_hook_run(&self, id: i32) -> Result<Option<super::HookRun>, OneError> {
        let text = self.text("one.hook.info", &[Argument::Int(id)]).await?;
        self.document(super::HookRun::last_from_xml(&text))
    }

    /// `one.hook.delete`.
    pub async fn hook_delete(&self, id: i32) -> Result<(), OneError> {
        self.change("one.hook.delete", &[Argument::Int(id)]).await
    }

    /// `one.zonepool.info`.
    pub async fn zone_pool(&self) -> Result<Vec<super::Zone>, OneError> {
        let text = self.text("one.zonepool.info", &[]).await?;
        self.document(super::Zone::pool_from_xml(&text))
    }

    /// `one.system.version`, such as `7.4.0`.
    pub async fn system_version(&self) -> Result<String, OneError> {
        Ok(excerpt(&self.text("one.system.version", &[]).await?))
    }

    /// How far the front-end's clock is ahead of ours by its last answer, in seconds. `None`: it does not say.
    pub fn clock_ahead(&self) -> Option<i64> {
        self.clock_ahead.lock().ok().and_then(|ahead| *ahead)
    }

    fn bad_answer(&self, detail: impl fmt::Display) -> OneError {
        OneError::BadAnswer { endpoint: self.endpoint.clone(), detail: excerpt(&detail.to_string()) }
    }

    fn document<T>(&self, document: Result<T, DocumentError>) -> Result<T, OneError> {
        document.map_err(|error| self.bad_answer(error))
    }

    /// An answer about another object than the one asked for is no answer.
    fn of_id<T>(
        &self,
        document: Result<T, DocumentError>,
        id: i32,
        id_of: impl Fn(&T) -> i32,
    ) -> Result<T, OneError> {
        let document = self.document(document)?;
        if id_of(&document) == id {
            Ok(document)
        } else {
            Err(self.bad_answer(format_args!("asked for {id}, answered {}", id_of(&document))))
        }
    }

    async fn text(&self, method: &'static str, arguments: &[Argument<'_>]) -> Result<String, OneError> {
        match self.call(method, arguments, Effect::Reads).await? {
            Value::Text(text) => Ok(text),
            _ => Err(self.bad_answer(format_args!("{method} gave no text"))),
        }
    }

    async fn change(&self, method: &'static str, arguments: &[Argument<'_>]) -> Result<(), OneError> {
        self.call(method, arguments, Effect::Changes).await.map(drop)
    }

    async fn call(
        &self,
        method: &'static str,
        arguments: &[Argument<'_>],
        effect: Effect,
    ) -> Result<Value, OneError> {
        let with_session: Vec<Argument<'_>> =
            std::iter::once(Argument::Text(self.session.secret())).chain(arguments.iter().cloned()).collect();
        let body = xmlrpc::request(method, &with_session)
            .map_err(|error| OneError::XmlRpcApi(format!("{method}: {error}; nothing was sent")))?;
        let started = Instant::now();
        // What the attempt before the present pause failed with; nothing while an attempt is under way.
        let failed: Mutex<Option<OneError>> = Mutex::new(None);
        let note = |error: Option<OneError>| {
            if let Ok(mut failed) = failed.lock() {
                *failed = error;
            }
        };
        let attempt = || async {
            note(None);
            let outcome = self.attempt(&body).await;
            note(outcome.as_ref().err().map(|failure| failure.error.clone()));
            outcome
        };
        let pauses = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(100))
            .with_max_delay(Duration::from_secs(2))
            .with_jitter()
            .without_max_times();
        let mut refusals = 0;
        let attempts = attempt
            .retry(pauses)
            .sleep(tokio::time::sleep)
            .when(|failure: &CallAttempt| {
                refusals += usize::from(failure.refused);
                let elects = matches!(&failure.error, OneError::Internal(message) if is_election(message));
                (failure.refused && refusals <= REFUSED_RETRIES) || (effect == Effect::Reads && elects)
            })
            .notify(|failure: &CallAttempt, pause: Duration| {
                tracing::debug!(method, endpoint = %self.endpoint, error = %failure.error, ?pause, "attempted again");
                #[cfg(test)]
                self.retried.notify_one();
            });
        let outcome = match tokio::time::timeout(self.deadline, attempts).await {
            Ok(outcome) => outcome.map_err(|failure| failure.error),
            Err(_) => Err(failed.lock().ok().and_then(|mut failed| failed.take()).unwrap_or_else(|| {
                OneError::Timeout { endpoint: self.endpoint.clone(), deadline: self.deadline }
            })),
        };
        tracing::debug!(
            method,
            endpoint = %self.endpoint,
            milliseconds = started.elapsed().as_millis(),
            error = outcome.as_ref().err().map(tracing::field::display),
            "called"
        );
        outcome
    }

    async fn attempt(&self, body: &str) -> Result<Value, CallAttempt> {
        let response = self
            .http
            .post(self.url.clone())
            .header(reqwest::header::CONTENT_TYPE, "text/xml")
            .body(body.to_owned())
            .send()
            .await
            .map_err(|error| self.no_response(error))?;
        if let Ok(mut ahead) = self.clock_ahead.lock() {
            *ahead = clock_ahead(response.headers(), jiff::Timestamp::now());
        }
        let status = response.status();
        if status != reqwest::StatusCode::OK {
            return Err(OneError::Http(status.as_u16()).into());
        }
        let text = self.read(response).await?;
        let failed = |code, message: &str| OneError::of_code(code, self.quote(message));
        match beside(text, xmlrpc::answer).await.map_err(|error| self.bad_answer(error))? {
            XmlRpcAnswer::Success(value) => Ok(value),
            XmlRpcAnswer::Failure { message, code } => Err(failed(code, &message).into()),
            XmlRpcAnswer::Fault { code, message } => {
                Err(OneError::Fault { code, message: self.quote(&message) }.into())
            }
        }
    }

    async fn read(&self, mut response: reqwest::Response) -> Result<String, OneError> {
        let too_large = || OneError::TooLarge { endpoint: self.endpoint.clone(), limit: self.max_answer };
        let mut bytes: Vec<u8> = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.interrupted(error))? {
            if bytes.len() + chunk.len() > self.max_answer {
                return Err(too_large());
            }
            bytes.extend_from_slice(&chunk);
        }
        // oned cuts USER_TEMPLATE/ERROR between bytes, not characters; one such VM must not hide all others. What a
        // decision depends on is ASCII, and a name with a replacement character in it is refused.
        Ok(String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    fn interrupted(&self, error: reqwest::Error) -> OneError {
        OneError::Interrupted { endpoint: self.endpoint.clone(), detail: chain(&error.without_url()) }
    }

    fn no_response(&self, error: reqwest::Error) -> CallAttempt {
        if !error.is_connect() {
            return self.interrupted(error).into();
        }
        let kinds = io_kinds(&error);
        let (endpoint, detail) = (self.endpoint.clone(), chain(&error.without_url()));
        // as which tokio's TLS passes on what it refuses
        if kinds.contains(&std::io::ErrorKind::InvalidData) {
            return OneError::Untrusted { endpoint, detail }.into();
        }
        let refused = kinds.contains(&std::io::ErrorKind::ConnectionRefused);
        CallAttempt { error: OneError::Unreachable { endpoint, detail }, refused }
    }

    /// What the front-end said, without the secret that it was sent, should it echo it.
    fn quote(&self, message: &str) -> String {
        excerpt(&message.replace(self.session.secret(), "(secret)"))
    }
}

/// What is larger is read beside what else is going on. A page of a pool is.
const LARGE: usize = 1 << 18;

/// Reads a text, a large one in a thread of its own.
async fn beside<T: Send + 'static>(text: String, read: impl FnOnce(&str) -> T + Send + 'static) -> T {
    if text.len() < LARGE {
        return read(&text);
    }
    match tokio::task::spawn_blocking(move || read(&text)).await {
        Ok(read) => read,
        // nobody aborts it, so it has panicked
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn read_certificates(path: &Path) -> Result<Vec<reqwest::Certificate>, OneError> {
    let unusable = |detail: String| OneError::Configuration(format!("CA file {}: {detail}", path.display()));
    let mut pem = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_CA_FILE).read_to_end(&mut pem))
        .map_err(|error| unusable(error.to_string()))?;
    let certificates =
        reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| unusable(chain(&error)))?;
    if certificates.is_empty() {
        return Err(unusable("no certificate (PEM) in it".to_owned()));
    }
    Ok(certificates)
}

/// The kinds of the system's errors among the causes. One may hold another, which is not its cause but itself.
fn io_kinds(error: &dyn std::error::Error) -> Vec<std::io::ErrorKind> {
    let (mut kinds, mut cause) = (Vec::new(), error.source());
    while let Some(inner) = cause {
        let mut system = inner.downcast_ref::<std::io::Error>();
        while let Some(error) = system {
            kinds.push(error.kind());
            system = error.get_ref().and_then(|held| held.downcast_ref());
        }
        cause = inner.source();
    }
    kinds
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    excerpt(&text)
}

#[cfg(test)]
mod tests {
    use super::super::xmlrpc::tests::{ANSWERS, answer_of, success};
    use super::*;
    use std::sync::Arc;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpSocket, TcpStream};

    const SECRET: &str = "oneadmin:hunter2hunter2";

    /// What the server in the test does with one call.
    enum Reply {
        /// Status 200 with this body.
        Xml(String),
        /// These bytes, then the connection is closed.
        Raw(Vec<u8>),
        /// Nothing, ever.
        Hang,
    }

    /// A front-end that answers each call as told, and remembers what it was asked.
    struct Server {
        address: String,
        calls: Arc<Mutex<Vec<String>>>,
        task: tokio::task::JoinHandle<()>,
    }

    impl Drop for Server {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    async fn read_call(stream: &mut TcpStream) -> Option<String> {
        let mut bytes = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length: usize = head
                    .lines()
                    .find_map(|line| {
                        line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok()
                    })
                    .unwrap_or(0);
                if body.len() >= length {
                    return Some(text);
                }
            }
            let mut chunk = [0; 4096];
            match stream.read(&mut chunk).await {
                Ok(0) | Err(_) => return None,
                Ok(count) => bytes.extend_from_slice(&chunk[..count]),
            }
        }
    }

    impl Server {
        async fn start(reply: impl FnMut(&str) -> Reply + Send + 'static) -> Self {
            Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), reply)
        }

        fn on(listener: TcpListener, mut reply: impl FnMut(&str) -> Reply + Send + 'static) -> Self {
            let address = listener.local_addr().unwrap().to_string();
            let calls = Arc::new(Mutex::new(Vec::new()));
            let seen = Arc::clone(&calls);
            let task = tokio::spawn(async move {
                let mut hung = Vec::new();
                while let Ok((mut stream, _)) = listener.accept().await {
                    let Some(call) = read_call(&mut stream).await else { continue };
                    seen.lock().unwrap().push(call.clone());
                    match reply(&call) {
                        Reply::Xml(body) => {
                            let head = format!(
                                "HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: {}\r\n\r\n",
                                body.len()
                            );
                            let _ = stream.write_all(head.as_bytes()).await;
                            let _ = stream.write_all(body.as_bytes()).await;
                        }
                        Reply::Raw(bytes) => {
                            let _ = stream.write_all(&bytes).await;
                        }
                        Reply::Hang => hung.push(stream),
                    }
                }
            });
            Self { address, calls, task }
        }

        fn client(&self) -> Client {
            client(&self.address, Duration::from_secs(20))
        }

        fn calls(&self) -> Vec<String> {
            self.calls.lock().unwrap().clone()
        }
    }

    fn client(address: &str, deadline: Duration) -> Client {
        Client::new(ClientOptions {
            endpoint: format!("http://{address}/RPC2"),
            session: Session::new(SECRET).unwrap(),
            deadline,
            ca_file: None,
        })
        .unwrap()
    }

    fn failure(code: i32, message: &str) -> String {
        answer_of(&format!(
            "<value><boolean>0</boolean></value><value><string>{message}</string></value><value><i4>{code}</i4></value>"
        ))
    }

    /// A front-end that always answers the same.
    async fn always(body: &str) -> Server {
        let body = body.to_owned();
        Server::start(move |_| Reply::Xml(body.clone())).await
    }

    /// An address that refuses connections until this listens: nobody else can be given it meanwhile.
    fn refusing() -> (TcpSocket, String) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap().to_string();
        (socket, address)
    }

    /// Whether one of that many calls fails as expected. The deadline may strike while an attempt is under way: then what
    /// became of that one is not known, and the call is told as one without answer.
    async fn told_within(
        calls: usize,
        call: impl AsyncFn() -> OneError,
        expected: fn(&OneError) -> bool,
    ) -> bool {
        for _ in 0..calls {
            let error = call().await;
            if expected(&error) {
                return true;
            }
            assert!(matches!(error, OneError::Timeout { .. }), "{error}");
        }
        false
    }

    #[tokio::test]
    async fn reads_what_a_real_front_end_answered() {
        let server = always(ANSWERS[6]).await;
        let vm = server.client().vm(2).await.unwrap();
        assert_eq!((vm.id, vm.state_name().as_str(), vm.disks.len()), (2, "RUNNING", 1));
        let call = &server.calls()[0];
        assert!(call.starts_with("POST /RPC2 HTTP/1.1\r\n"), "{call}");
        assert!(call.contains(
            "<methodName>one.vm.info</methodName><params><param><value><string>oneadmin:hunter2hunter2</string>\
             </value></param><param><value><i4>2</i4></value></param><param><value><boolean>0</boolean></value></param>"
        ));
        // An answer about another VM is not one.
        assert!(matches!(server.client().vm(3).await, Err(OneError::BadAnswer { .. })));

        assert_eq!(always(ANSWERS[1]).await.client().system_version().await.unwrap(), "7.4.0");
        assert_eq!(always(ANSWERS[0]).await.client().image_pool().await.unwrap()[0].source, "one/one-0");
        assert_eq!(always(ANSWERS[8]).await.client().vm_pool().await.unwrap()[0].id, 2);
        always(ANSWERS[7]).await.client().vm_update_append(2, "A=\"b\"").await.unwrap();
        assert_eq!(always(ANSWERS[7]).await.client().hook_allocate("NAME=x").await.unwrap(), 2);
    }

    #[tokio::test]
    async fn the_calls_are_those_that_oned_knows() {
        let server = always(ANSWERS[7]).await;
        let client = server.client();
        client.vm_action(VmAction::PoweroffHard, 5).await.unwrap();
        client.vm_recover(5, Recover::Retry).await.unwrap();
        client.hook_update(6, "T").await.unwrap();
        client.hook_delete(6).await.unwrap();
        client.vm_update_append(5, "<&>").await.unwrap();
        let calls: Vec<String> = server
            .calls()
            .iter()
            .map(|call| {
                let body = call.split_once("<methodName>").unwrap().1.replace("<param><value>", " ");
                let body = body.replace("</value></param>", "").replace(SECRET, "S");
                body.split_once("</params>").unwrap().0.to_owned()
            })
            .collect();
        assert_eq!(
            calls,
            [
                "one.vm.action</methodName><params> <string>S</string> <string>poweroff-hard</string> <i4>5</i4>",
                "one.vm.recover</methodName><params> <string>S</string> <i4>5</i4> <i4>2</i4>",
                "one.hook.update</methodName><params> <string>S</string> <i4>6</i4> <string>T</string> <i4>0</i4>",
                "one.hook.delete</methodName><params> <string>S</string> <i4>6</i4>",
                "one.vm.update</methodName><params> <string>S</string> <i4>5</i4> <string>&lt;&amp;&gt;</string> <i4>1</i4>",
            ]
        );
    }

    #[tokio::test]
    async fn what_oned_refuses_is_told_apart() {
        let server = always(ANSWERS[4]).await;
        let error = server.client().vm(2).await.unwrap_err();
        assert!(
            matches!(&error, OneError::Authentication(text) if text.contains("couldn't be authenticated"))
        );
        assert!(!error.is_unreachable());
        assert!(matches!(always(ANSWERS[5]).await.client().vm(999).await, Err(OneError::NoExists(_))));
        let wrong_state = always(ANSWERS[3]).await;
        assert!(matches!(
            wrong_state.client().vm_action(VmAction::Resume, 2).await,
            Err(OneError::Action(_))
        ));
        let unknown = always(ANSWERS[2]).await;
        assert!(matches!(unknown.client().vm(2).await, Err(OneError::Fault { code: -506, .. })));
        for code in [0x200, 0x1000, 0x4000, 0x8000, 0x10000, 0x20000] {
            let error = always(&failure(code, "x")).await.client().vm(1).await.unwrap_err();
            let expected = OneError::of_code(i64::from(code), "x".into());
            assert_eq!(error, expected);
        }
    }

    #[tokio::test]
    async fn no_error_shows_the_secret() {
        let echo = failure(0x100, &format!("{SECRET} is wrong\u{1}{}", "x".repeat(2000)));
        let server = always(&echo).await;
        let client = server.client();
        let error = client.vm(2).await.unwrap_err();
        let text = format!("{error} {error:?} {client:?}");
        assert!(!text.contains("hunter2") && text.contains("(secret) is wrong x"), "{text}");
        assert!(error.to_string().chars().count() < 400);
        for endpoint in ["http://oneadmin:hunter2@h/RPC2", "hunter2", "ftp://h/RPC2", "http://"] {
            let options = ClientOptions {
                endpoint: endpoint.into(),
                session: Session::new(SECRET).unwrap(),
                deadline: Duration::from_secs(1),
                ca_file: None,
            };
            assert!(!format!("{options:?}").contains(SECRET));
            let error = Client::new(options).unwrap_err();
            assert!(matches!(error, OneError::Configuration(_)));
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_refused_connection_is_attempted_again() {
        let (socket, address) = refusing();
        let client = client(&address, Duration::from_secs(20));
        let retried = Arc::clone(&client.retried);
        let start_late = async {
            retried.notified().await;
            Server::on(socket.listen(16).unwrap(), |_| Reply::Xml(ANSWERS[7].to_owned()))
        };
        // A call that changes something may be repeated too: oned has not seen the first one.
        let both = async { tokio::join!(client.vm_action(VmAction::Resume, 2), start_late) };
        let (outcome, server) = tokio::time::timeout(Duration::from_secs(30), both).await.unwrap();
        outcome.unwrap();
        assert_eq!(server.calls().len(), 1);
    }

    #[tokio::test]
    async fn a_call_that_was_received_after_a_refusal_is_not_told_as_refused() {
        let (socket, address) = refusing();
        let client = client(&address, Duration::from_secs(2));
        let retried = Arc::clone(&client.retried);
        let start_late = async {
            retried.notified().await;
            Server::on(socket.listen(16).unwrap(), |_| Reply::Hang)
        };
        let both = async { tokio::join!(client.vm_action(VmAction::Resume, 2), start_late) };
        let (outcome, server) = tokio::time::timeout(Duration::from_secs(30), both).await.unwrap();
        let error = outcome.unwrap_err();
        assert_eq!(server.calls().len(), 1);
        assert!(matches!(error, OneError::Timeout { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_front_end_that_is_down_is_noticed_before_the_deadline() {
        let (_socket, address) = refusing();
        let client = client(&address, Duration::from_secs(60));
        let started = Instant::now();
        let error = client.vm(2).await.unwrap_err();
        assert!(
            matches!(&error, OneError::Unreachable { detail, .. } if detail.contains("refused")),
            "{error}"
        );
        assert!(error.is_unreachable());
        assert!(started.elapsed() < Duration::from_secs(20));
    }

    #[tokio::test]
    async fn the_deadline_covers_all_attempts() {
        let (_socket, address) = refusing();
        let vm = async || {
            let client = client(&address, Duration::from_millis(150));
            // The pauses alone are longer. On a busy machine the call, asked first, still comes first.
            let call = tokio::time::timeout(Duration::from_secs(1), client.vm(2));
            call.await.expect("attempts go on after the deadline").unwrap_err()
        };
        assert!(told_within(20, vm, |error| matches!(error, OneError::Unreachable { .. })).await);
    }

    #[tokio::test]
    async fn a_hung_front_end_meets_the_deadline() {
        let server = Server::start(|_| Reply::Hang).await;
        let client = client(&server.address, Duration::from_secs(1));
        let started = Instant::now();
        let error = client.vm_action(VmAction::Resume, 2).await.unwrap_err();
        assert!(matches!(error, OneError::Timeout { .. }), "{error}");
        assert!(error.is_unreachable());
        assert!(started.elapsed() < Duration::from_secs(5));
        assert_eq!(server.calls().len(), 1);
    }

    #[tokio::test]
    async fn half_an_answer_is_none_and_is_not_asked_for_again() {
        let whole = ANSWERS[6];
        let half = &whole[..whole.len() / 2];
        let short = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{half}", whole.len());
        let open = format!("HTTP/1.0 200 OK\r\n\r\n{half}");
        let nothing = String::new();
        for (reply, interrupted) in [(short, true), (open, false), (nothing, true)] {
            let server = Server::start(move |_| Reply::Raw(reply.clone().into_bytes())).await;
            let error = server.client().vm(2).await.unwrap_err();
            assert_eq!(matches!(error, OneError::Interrupted { .. }), interrupted, "{error}");
            assert_eq!(matches!(error, OneError::BadAnswer { .. }), !interrupted, "{error}");
            let error = server.client().vm_action(VmAction::Resume, 2).await.unwrap_err();
            assert!(matches!(error, OneError::Interrupted { .. } | OneError::BadAnswer { .. }), "{error}");
            assert_eq!(server.calls().len(), 2);
        }
    }

    #[tokio::test]
    async fn other_statuses_are_no_answers() {
        for (status, unreachable) in [("500 Oops", true), ("503 Later", true), ("404 No", false)] {
            let server = Server::start(move |_| {
                Reply::Raw(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").into_bytes())
            })
            .await;
            let error = server.client().vm(2).await.unwrap_err();
            assert!(matches!(error, OneError::Http(_)), "{error}");
            assert_eq!(error.is_unreachable(), unreachable);
            assert_eq!(server.calls().len(), 1);
        }
    }

    #[tokio::test]
    async fn redirects_are_not_followed() {
        let target = always(ANSWERS[6]).await;
        let location = format!("http://{}/RPC2", target.address);
        let server = Server::start(move |_| {
            let head = format!("HTTP/1.1 307 There\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n");
            Reply::Raw(head.into_bytes())
        })
        .await;
        assert_eq!(server.client().vm(2).await, Err(OneError::Http(307)));
        assert!(target.calls().is_empty());
    }

    #[tokio::test]
    async fn too_large_an_answer_is_not_read() {
        let server = always(ANSWERS[6]).await;
        let mut client = server.client();
        client.max_answer = ANSWERS[6].len();
        assert!(client.vm(2).await.is_ok());
        client.max_answer -= 1;
        assert!(matches!(client.vm(2).await, Err(OneError::TooLarge { .. })));
    }

    #[tokio::test]
    async fn what_is_not_xml_rpc_is_not_understood() {
        let entity = "<!DOCTYPE methodResponse [<!ENTITY a SYSTEM \"file:///etc/passwd\">]>\
            <methodResponse><params><param><value>&a;</value></param></params></methodResponse>";
        let wrong_type = answer_of("<value><boolean>1</boolean></value><value><i4>2</i4></value>");
        let broken = success("<VM><ID>2</ID>");
        for body in ["", "<html/>", "{}", entity, wrong_type.as_str(), broken.as_str()] {
            let error = always(body).await.client().vm(2).await.unwrap_err();
            assert!(matches!(error, OneError::BadAnswer { .. }), "{body}: {error}");
        }
        let body = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\xff\xfe".to_vec();
        let server = Server::start(move |_| Reply::Raw(body.clone())).await;
        assert!(matches!(server.client().vm(2).await, Err(OneError::BadAnswer { .. })));
    }

    #[tokio::test]
    async fn an_election_is_waited_for_by_reads_only() {
        let messages = [
            "[one.vm.info] Cannot process request, no leader found",
            "[one.vm.info] Cannot process request, oned cluster in election mode",
            "[one.vm.info] Cannot process request, oned cluster is replicating log",
        ];
        let mut count = 0;
        let server = Server::start(move |_| {
            count += 1;
            match messages.get(count - 1) {
                Some(message) => Reply::Xml(failure(0x2000, message)),
                None => Reply::Xml(ANSWERS[6].to_owned()),
            }
        })
        .await;
        assert_eq!(server.client().vm(2).await.unwrap().id, 2);
        assert_eq!(server.calls().len(), 4);

        let server = always(&failure(0x2000, messages[1])).await;
        let error = server.client().vm_action(VmAction::Resume, 2).await.unwrap_err();
        assert!(error.is_without_leader(), "{error}");
        // its servers do answer
        assert!(!error.is_unreachable());
        assert_eq!(server.calls().len(), 1);
        // An election without end ends at the deadline, and is told as what it is.
        let vm = async || client(&server.address, Duration::from_millis(400)).vm(2).await.unwrap_err();
        assert!(told_within(20, vm, |error| matches!(error, OneError::Internal(_))).await);

        let server = always(&failure(0x2000, "[one.vm.info] Internal error")).await;
        let error = server.client().vm(2).await.unwrap_err();
        assert!(!error.is_unreachable());
        assert_eq!(server.calls().len(), 1);
    }

    fn pool_of(ids: &[i32]) -> String {
        let vms: String = ids
            .iter()
            .map(|id| {
                format!(
                    "<VM><ID>{id}</ID><UID>0</UID><STATE>3</STATE><LCM_STATE>3</LCM_STATE><TEMPLATE/></VM>"
                )
            })
            .collect();
        success(&format!("<VM_POOL>{vms}</VM_POOL>"))
    }

    /// The `<i4>` arguments of a call.
    fn numbers(call: &str) -> Vec<i32> {
        call.split("<i4>").skip(1).map(|rest| rest.split('<').next().unwrap().parse().unwrap()).collect()
    }

    /// Pages by row number, as oned does; `ends` says which VM ends before which call.
    async fn paging_server(count: i32, ends: &'static [(usize, i32)]) -> Server {
        let mut ids: Vec<i32> = (0..count).collect();
        let mut number = 0;
        Server::start(move |call| {
            ids.retain(|id| !ends.contains(&(number, *id)));
            number += 1;
            let [-2, start, size, -1] = numbers(call)[..] else { panic!("{call}") };
            let start = usize::try_from(start).unwrap().min(ids.len());
            let end = (start + usize::try_from(-size).unwrap()).min(ids.len());
            Reply::Xml(pool_of(&ids[start..end]))
        })
        .await
    }

    async fn listed(server: &Server) -> Result<Vec<i32>, OneError> {
        let mut client = server.client();
        client.page = Some(4);
        Ok(client.vm_pool().await?.iter().map(|vm| vm.id).collect())
    }

    #[tokio::test]
    async fn a_pool_is_read_page_by_page() {
        for count in [0, 1, 3, 4, 5, 7, 8, 10, 11] {
            let server = paging_server(count, &[]).await;
            assert_eq!(listed(&server).await.unwrap(), (0..count).collect::<Vec<_>>());
        }
        let server = paging_server(8, &[]).await;
        listed(&server).await.unwrap();
        let starts: Vec<i32> = server.calls().iter().map(|call| numbers(call)[1]).collect();
        assert_eq!(starts, [0, 3, 6]);
    }

    #[tokio::test]
    async fn a_vm_that_ends_while_listing_hides_no_other() {
        // Before the second page VM 1 ends: by row numbers alone VM 4 would never be seen.
        let server = paging_server(8, &[(1, 1)]).await;
        assert_eq!(listed(&server).await.unwrap(), [0, 2, 3, 4, 5, 6, 7]);
        // The last VM of a page itself ends.
        let server = paging_server(8, &[(1, 3)]).await;
        assert_eq!(listed(&server).await.unwrap(), [0, 1, 2, 4, 5, 6, 7]);
        // Without end: no listing rather than half a one.
        let server = paging_server(12, &[(1, 0), (3, 1), (5, 2), (7, 3), (9, 4)]).await;
        assert!(matches!(listed(&server).await, Err(OneError::BadAnswer { .. })));
    }

    #[tokio::test]
    async fn what_xml_cannot_carry_is_not_sent() {
        let server = always(ANSWERS[7]).await;
        let error = server.client().vm_update_append(2, "A=\"\u{1b}\"").await.unwrap_err();
        assert!(matches!(error, OneError::XmlRpcApi(_)));
        assert!(server.calls().is_empty());
    }

    #[tokio::test]
    async fn a_certificate_that_is_missing_or_none_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let with = |endpoint: &str, ca_file| {
            Client::new(ClientOptions {
                endpoint: endpoint.into(),
                session: Session::new(SECRET).unwrap(),
                deadline: Duration::from_secs(5),
                ca_file,
            })
        };
        for text in [None, Some(""), Some("no certificate")] {
            if let Some(text) = text {
                std::fs::write(&path, text).unwrap();
            }
            let error = with("https://localhost/RPC2", Some(path.clone())).unwrap_err();
            assert!(matches!(&error, OneError::Configuration(text) if text.contains("ca.pem")), "{error}");
        }
        // Plain HTTP where TLS is expected is nobody to be trusted, and no reason to fall back.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accept = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
            let mut first = [0; 1];
            stream.read_exact(&mut first).await.unwrap();
            first[0]
        };
        let client = with(&format!("https://{address}/RPC2"), None).unwrap();
        let (error, first) = tokio::join!(client.vm(2), accept);
        let error = error.unwrap_err();
        assert_eq!(first, 0x16, "a TLS handshake, not a call");
        assert!(matches!(error, OneError::Untrusted { .. }), "{error}");
    }
}
