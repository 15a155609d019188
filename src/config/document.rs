//! From TOML to a checked [`Config`]. Pure.

use super::{
    Config, ConfigError, ConfiguredRole, ConfiguredRunOn, PeerCeph, PeerConfig, PeerUnreachablePolicy,
    Policy, ReleaseOn, SiteCeph, SiteConfig,
};
use crate::text::{self, is_obeyed};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IntoDeserializer, SeqAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Shorter than any answer of a cluster or front-end.
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(100);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);
/// More hosts than any bridge list.
const MOST_HOSTS: usize = 64;

// What may be written. Everything is optional here, so that a missing key gets a message of its own.

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a configuration")]
struct Document {
    site: Option<Spanned<SiteTable>>,
    peer: Option<Spanned<PeerTable>>,
    policy: Option<PolicyTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table [site]")]
struct SiteTable {
    name: Option<Spanned<SiteName>>,
    role: Option<Word<ConfiguredRole>>,
    endpoint: Option<Spanned<Endpoint>>,
    auth: Option<AbsolutePath>,
    ceph: Option<SiteCephTable>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table [site.ceph]")]
struct SiteCephTable {
    conf: Option<AbsolutePath>,
    user: Option<CephUser>,
    run_on: Option<ConfiguredRunOn>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table [peer]")]
struct PeerTable {
    name: Option<Spanned<SiteName>>,
    endpoint: Option<Spanned<Endpoint>>,
    auth: Option<AbsolutePath>,
    ca_file: Option<Spanned<AbsolutePath>>,
    ceph: Option<Spanned<PeerCephTable>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table [peer.ceph]")]
struct PeerCephTable {
    conf: Option<Spanned<AbsolutePath>>,
    user: Option<CephUser>,
    run_on: Option<Spanned<ConfiguredRunOn>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table [policy]")]
struct PolicyTable {
    sync_timeout: Option<Timeout>,
    command_timeout: Option<Timeout>,
    release_timeout: Option<Timeout>,
    peer_unreachable: Option<Word<PeerUnreachablePolicy>>,
    release_on: Option<Vec<Word<ReleaseOn>>>,
    resume_on_peer: Option<bool>,
    drop_lost_after: Option<Keep>,
    librbd: Option<bool>,
    librbd_stays: Option<Stay>,
}

// Values. Their messages never repeat what was written: a password put where its file belongs must not end up
// in a log.

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct SiteName(String);

impl TryFrom<String> for SiteName {
    type Error = &'static str;

    // Ceph takes any text. A handoff token separates its parts by ':', `client@cluster` names a peer the old way.
    fn try_from(name: String) -> Result<Self, Self::Error> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
        if !name.is_empty()
            && name.len() <= 64
            && name.chars().all(allowed)
            && !name.starts_with(['-', '.', '+'])
        {
            Ok(Self(name))
        } else {
            Err(
                "must be a mirroring site name of 1 to 64 letters, digits, '-', '_', '.', '+', the first a letter, \
                 digit or '_'",
            )
        }
    }
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Endpoint(String);

impl TryFrom<String> for Endpoint {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const SHAPE: &str = "must be an address such as \"https://one-b.example.org:2633/RPC2\"";
        let url = reqwest::Url::parse(&text).map_err(|_| SHAPE)?;
        if !matches!(url.scheme(), "http" | "https")
            || !url.has_host()
            || text.chars().any(|c| is_obeyed(c) || c == ' ')
        {
            return Err(SHAPE);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must not hold a user or password; they belong in the file that auth names");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(SHAPE);
        }
        Ok(Self(text))
    }
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct AbsolutePath(PathBuf);

impl TryFrom<String> for AbsolutePath {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        // Ceph's tools split a list of files at commas and take a trailing slash for a folder.
        if text.starts_with('/') && !text.ends_with('/') && !text.chars().any(|c| is_obeyed(c) || c == ',') {
            Ok(Self(text.into()))
        } else {
            Err("must be the absolute path of a file, beginning with '/'")
        }
    }
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct CephUser(String);

impl TryFrom<String> for CephUser {
    type Error = &'static str;

    fn try_from(user: String) -> Result<Self, Self::Error> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.@+".contains(c);
        if user.starts_with("client.") {
            Err("must be written without \"client.\"")
        } else if !user.is_empty() && user.len() <= 128 && !user.starts_with('-') && user.chars().all(allowed)
        {
            Ok(Self(user))
        } else {
            Err("must be the name of a Ceph user such as \"libvirt\"")
        }
    }
}

/// One of the words that an enum knows; serde's own visitor for those words its type errors for programmers.
struct Word<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Word<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WordVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for WordVisitor<T> {
            type Value = Word<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a word in quotes")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Word<T>, E> {
                T::deserialize(text.into_deserializer()).map(Word)
            }
        }

        deserializer.deserialize_str(WordVisitor(PhantomData))
    }
}

/// How many days lost copies are kept; `None`: until an operator drops them.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Keep(Option<u32>);

impl TryFrom<String> for Keep {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const SHAPE: &str = "must be \"never\" or a number of days such as \"30d\"";
        if text == "never" {
            return Ok(Self(None));
        }
        let days = text.strip_suffix('d').and_then(|days| days.parse::<u32>().ok());
        match days {
            Some(days) if days > 0 => Ok(Self(Some(days))),
            _ => Err(SHAPE),
        }
    }
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Stay(Option<Duration>);

impl TryFrom<String> for Stay {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const SHAPE: &str = "must be \"never\" or a duration from \"1s\" to \"1h\", such as \"60s\"";
        if text == "never" {
            return Ok(Self(None));
        }
        let duration = humantime_serde::re::humantime::parse_duration(&text).map_err(|_| SHAPE)?;
        let is_sensible = (Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&duration);
        is_sensible.then_some(Self(Some(duration))).ok_or(SHAPE)
    }
}

struct Timeout(Duration);

impl<'de> Deserialize<'de> for Timeout {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TimeoutVisitor;

        impl Visitor<'_> for TimeoutVisitor {
            type Value = Timeout;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration with its unit, in quotes, such as \"120s\"")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Timeout, E> {
                match humantime_serde::re::humantime::parse_duration(text) {
                    Ok(duration) if (SHORTEST_TIMEOUT..=LONGEST_TIMEOUT).contains(&duration) => {
                        Ok(Timeout(duration))
                    }
                    Ok(_) => Err(E::custom("must be from \"100ms\" to \"1day\"")),
                    Err(_) => Err(E::custom("must be a duration with its unit, such as \"120s\" or \"2m\"")),
                }
            }
        }

        deserializer.deserialize_str(TimeoutVisitor)
    }
}

impl<'de> Deserialize<'de> for ConfiguredRunOn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RunOnVisitor;

        impl<'de> Visitor<'de> for RunOnVisitor {
            type Value = ConfiguredRunOn;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"datastore\", \"local\" or a list of hosts such as [\"host1\", \"host2\"]")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ConfiguredRunOn, E> {
                match text {
                    "datastore" => Ok(ConfiguredRunOn::Datastore),
                    "local" => Ok(ConfiguredRunOn::Local),
                    _ => Err(E::custom(
                        "must be \"datastore\", \"local\" or a list of hosts such as [\"host1\", \"host2\"]",
                    )),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<ConfiguredRunOn, A::Error> {
                let mut hosts = Vec::new();
                while let Some(SshDestination(host)) = sequence.next_element()? {
                    if hosts.len() == MOST_HOSTS {
                        return Err(A::Error::custom(format_args!(
                            "must not list more than {MOST_HOSTS} hosts"
                        )));
                    }
                    hosts.push(host);
                }
                if hosts.is_empty() {
                    return Err(A::Error::custom("must list at least one host; for none write \"local\""));
                }
                Ok(ConfiguredRunOn::Hosts(hosts))
            }
        }

        deserializer.deserialize_any(RunOnVisitor)
    }
}

struct SshDestination(String);

impl<'de> Deserialize<'de> for SshDestination {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // By a visitor and not by `try_from`: so the error points to this host's line and not to the list's.
        struct HostVisitor;

        impl Visitor<'_> for HostVisitor {
            type Value = SshDestination;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a host such as \"host1\" or \"oneadmin@host1\"")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<SshDestination, E> {
                match text {
                    "local" | "datastore" => Err(E::custom(
                        "must be written without brackets: run_on = \"local\" or run_on = \"datastore\"",
                    )),
                    text if is_ssh_destination(text) => Ok(SshDestination(text.into())),
                    _ => Err(E::custom("must hold host names (letters, digits, '.', '-', '_') or user@host")),
                }
            }
        }

        deserializer.deserialize_str(HostVisitor)
    }
}

/// Whether ssh takes this for `host` or `user@host`, and nothing else (such as an option).
pub(super) fn is_ssh_destination(text: &str) -> bool {
    let is_word = |word: &str| {
        word.len() <= 253
            && word.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && word.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    let is_host = |host: &str| is_word(host) || host.parse::<std::net::Ipv6Addr>().is_ok();
    match text.split_once('@') {
        Some((user, host)) => is_word(user) && is_host(host),
        None => is_host(text),
    }
}

/// Parses and checks a whole configuration.
pub(super) fn parse(text: &str, origin: &Path) -> Result<Config, ConfigError> {
    let context = Context { text, origin };
    let tree = DeTable::parse(text).map_err(|error| context.syntax(&error))?;
    context.only_tables(tree.get_ref())?;
    let document: Document = toml::from_str(text).map_err(|error| context.explain(&error, tree.get_ref()))?;

    let site = context.table(document.site, "site", "that table with name and role")?;
    let peer = context.table(document.peer, "peer", "that table with name, endpoint and auth")?;
    let site = context.site(site)?;
    let peer = context.peer(peer, &site)?;
    Ok(Config { site, peer, policy: policy(document.policy.unwrap_or_default()) })
}

fn policy(table: PolicyTable) -> Policy {
    let default = Policy::default();
    let duration = |timeout: Option<Timeout>, default| timeout.map_or(default, |Timeout(duration)| duration);
    Policy {
        sync_timeout: duration(table.sync_timeout, default.sync_timeout),
        command_timeout: duration(table.command_timeout, default.command_timeout),
        release_timeout: duration(table.release_timeout, default.release_timeout),
        peer_unreachable: table.peer_unreachable.map_or(default.peer_unreachable, |word| word.0),
        release_on: table.release_on.map(|events| events.into_iter().map(|word| word.0).collect()),
        resume_on_peer: table.resume_on_peer.unwrap_or(default.resume_on_peer),
        drop_lost_after: table.drop_lost_after.map_or(default.drop_lost_after, |Keep(days)| days),
        librbd: table.librbd.unwrap_or(default.librbd),
        librbd_stays: table.librbd_stays.map_or(default.librbd_stays, |Stay(duration)| duration),
    }
}

struct Context<'a> {
    text: &'a str,
    origin: &'a Path,
}

impl Context<'_> {
    fn line(&self, offset: usize) -> usize {
        1 + self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
    }

    /// Refuses `policy = ["1s"]` and `[[policy]]`: serde would take the values by position.
    fn only_tables(&self, tree: &DeTable<'_>) -> Result<(), ConfigError> {
        let values =
            ["site", "peer", "policy"].into_iter().filter_map(|key| Some((key.to_owned(), tree.get(key)?)));
        for (key, value) in values {
            let Some(table) = value.get_ref().as_table() else {
                return Err(self.wrong(value.span(), &key, &format!("must be a table, [{key}]")));
            };
            if let Some(ceph) = table.get("ceph").filter(|ceph| !ceph.get_ref().is_table()) {
                let key = format!("{key}.ceph");
                return Err(self.wrong(ceph.span(), &key, &format!("must be a table, [{key}]")));
            }
        }
        Ok(())
    }

    fn table<T>(
        &self,
        table: Option<Spanned<T>>,
        key: &str,
        example: &'static str,
    ) -> Result<(T, usize), ConfigError> {
        let table = table.ok_or_else(|| self.missing(None, &format!("[{key}]"), example))?;
        let line = self.line(table.span().start);
        Ok((table.into_inner(), line))
    }

    fn site(&self, (table, line): (SiteTable, usize)) -> Result<SiteConfig, ConfigError> {
        let ceph = table.ceph.unwrap_or_default();
        Ok(SiteConfig {
            name: table
                .name
                .map(|name| name.into_inner().0)
                .ok_or_else(|| self.missing(Some(line), "site.name", "name = \"site-a\""))?,
            role: table.role.map(|word| word.0).ok_or_else(|| {
                self.missing(Some(line), "site.role", "role = \"home\" or role = \"recovery\"")
            })?,
            endpoint: table.endpoint.map(|endpoint| endpoint.into_inner().0),
            auth: table.auth.map(|path| path.0),
            ceph: SiteCeph {
                conf: ceph.conf.map(|path| path.0),
                user: ceph.user.map(|user| user.0),
                run_on: ceph.run_on.unwrap_or_default(),
            },
        })
    }

    fn peer(&self, (table, line): (PeerTable, usize), site: &SiteConfig) -> Result<PeerConfig, ConfigError> {
        let name = table.name.ok_or_else(|| self.missing(Some(line), "peer.name", "name = \"site-b\""))?;
        if name.get_ref().0 == site.name {
            return Err(self.wrong(name.span(), "peer.name", "must not be the name of this site, site.name"));
        }
        let endpoint = table.endpoint.ok_or_else(|| {
            self.missing(Some(line), "peer.endpoint", "endpoint = \"https://one-b.example.org:2633/RPC2\"")
        })?;
        if site.endpoint.as_deref().is_some_and(|own| is_same_url(own, &endpoint.get_ref().0)) {
            return Err(self.wrong(
                endpoint.span(),
                "peer.endpoint",
                "must not be the endpoint of this site, site.endpoint",
            ));
        }
        let auth = table.auth.ok_or_else(|| {
            self.missing(Some(line), "peer.auth", "auth = \"/etc/one/onemirror.peer_auth\"")
        })?;
        let is_https = reqwest::Url::parse(&endpoint.get_ref().0).is_ok_and(|url| url.scheme() == "https");
        if let Some(file) = table.ca_file.as_ref().filter(|_| !is_https) {
            return Err(self.wrong(
                file.span(),
                "peer.ca_file",
                "has no effect unless peer.endpoint begins with https://",
            ));
        }
        Ok(PeerConfig {
            name: name.into_inner().0,
            endpoint: endpoint.into_inner().0,
            auth: auth.0,
            ca_file: table.ca_file.map(|file| file.into_inner().0),
            ceph: table.ceph.map(|ceph| self.peer_ceph(ceph, &site.ceph)).transpose()?,
        })
    }

    fn peer_ceph(&self, table: Spanned<PeerCephTable>, own: &SiteCeph) -> Result<PeerCeph, ConfigError> {
        let line = self.line(table.span().start);
        let table = table.into_inner();
        let conf = table
            .conf
            .ok_or_else(|| self.missing(Some(line), "peer.ceph.conf", "conf = \"/etc/ceph/site-b.conf\""))?;
        let user = table
            .user
            .ok_or_else(|| self.missing(Some(line), "peer.ceph.user", "user = \"rbd-mirror-peer\""))?;
        let run_on = match table.run_on {
            None => ConfiguredRunOn::Local,
            Some(run_on) if *run_on.get_ref() == ConfiguredRunOn::Datastore => {
                return Err(self.wrong(
                    run_on.span(),
                    "peer.ceph.run_on",
                    "must be \"local\" or a list of hosts such as [\"host1\", \"host2\"]",
                ));
            }
            Some(run_on) => run_on.into_inner(),
        };
        // One cluster under two names would look like a peer that always agrees.
        if own.conf.as_ref() == Some(&conf.get_ref().0)
            && own.run_on == ConfiguredRunOn::Local
            && run_on == ConfiguredRunOn::Local
        {
            return Err(self.wrong(
                conf.span(),
                "peer.ceph.conf",
                "must not be the cluster of this site, site.ceph.conf",
            ));
        }
        Ok(PeerCeph { conf: conf.into_inner().0, user: user.0, run_on })
    }

    fn missing(&self, line: Option<usize>, key: &str, example: &'static str) -> ConfigError {
        ConfigError::MissingKey { path: self.origin.into(), line, key: key.into(), example }
    }

    fn wrong(&self, span: Range<usize>, key: &str, message: &str) -> ConfigError {
        ConfigError::WrongValue {
            path: self.origin.into(),
            line: self.line(span.start),
            key: key.into(),
            message: message.into(),
        }
    }

    fn syntax(&self, error: &toml::de::Error) -> ConfigError {
        let offset = error.span().map_or(0, |span| span.start);
        ConfigError::Syntax {
            path: self.origin.into(),
            line: self.line(offset),
            message: printable(error.message()),
        }
    }

    /// Tells an unknown key from a wrong value, and names it by where the error points.
    fn explain(&self, error: &toml::de::Error, tree: &DeTable<'_>) -> ConfigError {
        let Some(span) = error.span() else { return self.syntax(error) };
        let Some(found) = find(tree, span.start) else { return self.syntax(error) };
        let path = self.origin.into();
        let line = self.line(span.start);
        let key = printable(&found.key);
        // serde's wording for deny_unknown_fields; in any other wording the message itself still says it all.
        let Some(rest) = error.message().strip_prefix("unknown field ") else {
            return ConfigError::WrongValue { path, line, key, message: printable(error.message()) };
        };
        let allowed = rest
            .rsplit_once(", expected ")
            .map(|(_, expected)| expected.split('`').skip(1).step_by(2).map(String::from).collect::<Vec<_>>())
            .unwrap_or_default();
        let nearest = nearest(&found.own_key, &allowed);
        ConfigError::UnknownKey { path, line, key, nearest, allowed }
    }
}

struct Found {
    /// With its tables, `site.ceph.user`.
    key: String,
    /// The last part.
    own_key: String,
}

/// The innermost key whose name or value lies at this offset.
fn find(table: &DeTable<'_>, offset: usize) -> Option<Found> {
    fn inside(value: &Spanned<DeValue<'_>>, offset: usize) -> Option<Found> {
        match value.get_ref() {
            DeValue::Table(table) => find(table, offset),
            DeValue::Array(array) => array.iter().find_map(|value| inside(value, offset)),
            _ => None,
        }
    }
    // A table's own span is that of its header, so its keys are looked through first, wherever they lie.
    let below = table.iter().find_map(|(key, value)| {
        let found = inside(value, offset)?;
        Some(Found { key: format!("{}.{}", key.get_ref(), found.key), own_key: found.own_key })
    });
    below.or_else(|| {
        table
            .iter()
            .find(|(key, value)| key.span().contains(&offset) || value.span().contains(&offset))
            .map(|(key, _)| Found { key: key.get_ref().to_string(), own_key: key.get_ref().to_string() })
    })
}

fn nearest(key: &str, allowed: &[String]) -> Option<String> {
    let key = key.to_lowercase().replace('-', "_");
    allowed
        .iter()
        .map(|candidate| (strsim::jaro_winkler(&key, candidate), candidate))
        .filter(|(similarity, _)| *similarity > 0.75)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate.clone())
}

fn is_same_url(a: &str, b: &str) -> bool {
    match (reqwest::Url::parse(a), reqwest::Url::parse(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}

/// A message of the parser, which may repeat what is written in the file.
fn printable(message: &str) -> String {
    text::printable(text::cut(message, 300))
}
