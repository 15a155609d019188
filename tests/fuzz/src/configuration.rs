//! `onemirror.conf`.

use super::{assert_error, assert_shown};
use onemirror::config::{Config, ConfiguredRunOn};
use std::path::Path;

/// What is accepted can be acted on; what is refused is explained on lines that can be shown.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Config::parse(text, Path::new("onemirror.conf")) {
        Ok(config) => {
            assert_ne!(config.site.name, config.peer.name);
            for name in [&config.site.name, &config.peer.name] {
                // part of every token
                let token = format!("1:{name}:open").parse::<onemirror_protocol::Token>();
                assert!(token.is_ok_and(|token| token.is_open_by(name)), "{name:?}");
            }
            let hosts = [Some(&config.site.ceph.run_on), config.peer.ceph.as_ref().map(|ceph| &ceph.run_on)];
            for run_on in hosts.into_iter().flatten() {
                if let ConfiguredRunOn::Hosts(hosts) = run_on {
                    assert!(!hosts.is_empty());
                    assert!(
                        hosts
                            .iter()
                            .all(|host| !host.starts_with('-') && !host.contains(char::is_whitespace))
                    );
                }
            }
            if let Some(ceph) = &config.peer.ceph {
                assert_ne!(ceph.run_on, ConfiguredRunOn::Datastore);
            }
            // a scheme may be written in capitals
            assert!(config.peer.endpoint.to_ascii_lowercase().starts_with("http"));
            // a word of the configuration that is printed somewhere
            for word in [&config.site.name, &config.peer.name, &config.peer.endpoint] {
                assert_shown(word);
            }
            for path in [Some(&config.peer.auth), config.site.auth.as_ref(), config.peer.ca_file.as_ref()]
                .into_iter()
                .flatten()
            {
                assert_shown(&path.to_string_lossy());
            }
        }
        Err(error) => {
            error.to_string().lines().for_each(assert_shown);
            assert_error(&error);
        }
    }
}
