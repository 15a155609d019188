#![allow(clippy::too_many_lines, reason = "a table is as long as it is")]

use super::*;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;

const SAMPLE: &str = include_str!("../../etc/onemirror.conf");

const SMALLEST: &str = r#"
[site]
name = "site-b"
role = "recovery"
[peer]
name = "site-a"
endpoint = "http://one-a:2633/RPC2"
auth = "/etc/one/onemirror.peer_auth"
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("onemirror.conf"))
}

fn error(text: &str) -> String {
    parse(text).expect_err(text).to_string()
}

/// The sample with this text in place of that one, which must be there.
fn sample_with(old: &str, new: &str) -> String {
    assert!(SAMPLE.contains(old), "{old}");
    SAMPLE.replacen(old, new, 1)
}

#[test]
fn the_sample_parses() {
    insta::assert_debug_snapshot!(parse(SAMPLE).unwrap(), @r#"
    Config {
        site: SiteConfig {
            name: "site-a",
            role: Home,
            endpoint: None,
            auth: None,
            ceph: SiteCeph {
                conf: None,
                user: None,
                run_on: Datastore,
            },
        },
        peer: PeerConfig {
            name: "site-b",
            endpoint: "https://one-b.example.org:2633/RPC2",
            auth: "/etc/one/onemirror.peer_auth",
            ca_file: None,
            ceph: Some(
                PeerCeph {
                    conf: "/etc/ceph/site-b.conf",
                    user: "rbd-mirror-peer",
                    run_on: Local,
                },
            ),
        },
        policy: Policy {
            sync_timeout: 120s,
            command_timeout: 30s,
            release_timeout: 45s,
            peer_unreachable: RefuseAfterReboot,
            release_on: None,
            resume_on_peer: true,
            drop_lost_after: None,
            librbd: false,
            librbd_stays: Some(
                60s,
            ),
        },
    }
    "#);
}

#[test]
fn the_smallest_configuration_has_the_documented_defaults() {
    let config = parse(SMALLEST).unwrap();
    assert_eq!(config.policy, Policy::default());
    assert_eq!(config.site.ceph, SiteCeph::default());
    assert_eq!((config.site.endpoint, config.site.auth, config.peer.ceph), (None, None, None));
}

/// Lines such as `#run_on = "datastore"`, as the sample's head explains.
fn with_shown_defaults() -> (String, usize) {
    let mut shown = 0;
    let lines = SAMPLE.lines().map(|line| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase()) && rest.contains(" = ") => {
            shown += 1;
            rest
        }
        _ => line,
    });
    (lines.collect::<Vec<_>>().join("\n"), shown)
}

#[test]
fn defaults_shown_in_the_sample_are_the_real_ones() {
    let (text, shown) = with_shown_defaults();
    assert_eq!(shown, 11);
    let (mut written, unwritten) = (parse(&text).unwrap(), parse(SAMPLE).unwrap());
    for event in [ReleaseOn::Terminate, ReleaseOn::Poweroff, ReleaseOn::Undeploy] {
        assert_eq!(written.releases_on(event), unwritten.releases_on(event), "{event:?}");
    }
    written.policy.release_on = None;
    assert_eq!(written, unwritten);
}

#[test]
fn the_sample_shows_every_key() {
    for table in ["site", "site.ceph", "peer", "peer.ceph", "policy"] {
        let probed = sample_with(&format!("[{table}]\n"), &format!("[{table}]\nno_such_key = 1\n"));
        let Err(ConfigError::UnknownKey { allowed, .. }) = parse(&probed) else { panic!("{table}") };
        assert!(!allowed.is_empty());
        let start = SAMPLE.find(&format!("[{table}]\n")).unwrap();
        let section = SAMPLE[start + 1..].split("\n[").next().unwrap();
        let shown: BTreeSet<&str> = section
            .lines()
            .filter_map(|line| line.trim_start_matches(['#', ' ']).split_once(" = ").map(|(key, _)| key))
            .collect();
        for key in allowed.iter().filter(|key| *key != "ceph") {
            assert!(shown.contains(key.as_str()), "{table}.{key}");
        }
    }
}

#[test]
fn a_terminate_hands_over_unless_something_else_is_written() {
    let recovery = parse(SMALLEST).unwrap();
    assert!(recovery.releases_on(ReleaseOn::Terminate));
    assert!(!recovery.releases_on(ReleaseOn::Poweroff));
    let home = parse(&SMALLEST.replace("recovery", "home")).unwrap();
    assert!(home.releases_on(ReleaseOn::Terminate));
    let written = parse(&format!("{SMALLEST}[policy]\nrelease_on = [\"poweroff\", \"undeploy\"]\n")).unwrap();
    assert!(!written.releases_on(ReleaseOn::Terminate));
    assert!(written.releases_on(ReleaseOn::Poweroff) && written.releases_on(ReleaseOn::Undeploy));
    let never = parse(&format!("{SMALLEST}[policy]\nrelease_on = []\n")).unwrap();
    assert!(!never.releases_on(ReleaseOn::Terminate));
}

#[test]
fn run_on_takes_all_three_forms() {
    let with = |value: &str| {
        parse(&sample_with("#run_on = \"datastore\"", &format!("run_on = {value}"))).unwrap().site.ceph.run_on
    };
    assert_eq!(with("\"datastore\""), ConfiguredRunOn::Datastore);
    assert_eq!(with("\"local\""), ConfiguredRunOn::Local);
    assert_eq!(
        with("[\"host-1.example.org\",\n  \"oneadmin@10.0.0.2\", \"fd00::2\"]"),
        ConfiguredRunOn::Hosts(vec![
            "host-1.example.org".into(),
            "oneadmin@10.0.0.2".into(),
            "fd00::2".into()
        ])
    );
}

#[test]
fn hosts_are_never_options_or_shell() {
    for host in [
        "",
        "-oProxyCommand=id",
        "a b",
        "a;id",
        "$(id)",
        "a\n",
        "@a",
        "a@",
        "a@b@c",
        "-a@b",
        "a@-b",
        "a:22",
        "a/b",
        "ssh://a",
        "h\u{f6}st",
        "\u{1b}[2J",
    ] {
        assert!(!document::is_ssh_destination(host), "{host:?}");
    }
    for host in ["host1", "host-1", "h.example.org", "oneadmin@h", "_x", "10.0.0.1", "root@fd00::2"] {
        assert!(document::is_ssh_destination(host), "{host:?}");
    }
}

#[test]
fn unknown_keys_are_named_with_line_and_the_nearest() {
    let errors = [
        error(&sample_with("role =", "rolle =")),
        error(&sample_with("#sync_timeout =", "sync-timeout =")),
        error(&sample_with("#run_on = \"local\"", "runon = \"local\"")),
        error(&sample_with("[policy]", "[polisy]\nsync_timeout = \"1s\"\n[policy]")),
        error(&sample_with("[policy]", "[policy]\nzzz = 1")),
        error(&sample_with("[policy]", "[peer.ssh]\nkey = \"k\"\n[policy]")),
        error("site.name = \"a\"\nsite.nme = \"b\"\n"),
        error("peer = { nam = \"site-b\" }\n"),
    ];
    insta::assert_snapshot!(errors.join("\n"), @r#"
    onemirror.conf, line 14: unknown key site.rolle; did you mean role? Correct line 14
    onemirror.conf, line 49: unknown key policy.sync-timeout; did you mean sync_timeout? Correct line 49
    onemirror.conf, line 45: unknown key peer.ceph.runon; did you mean run_on? Correct line 45
    onemirror.conf, line 47: unknown key polisy; did you mean policy? Correct line 47
    onemirror.conf, line 48: unknown key policy.zzz; remove line 48 or use one of sync_timeout, command_timeout, release_timeout, peer_unreachable, release_on, resume_on_peer, drop_lost_after, librbd, librbd_stays
    onemirror.conf, line 47: unknown key peer.ssh; remove line 47 or use one of name, endpoint, auth, ca_file, ceph
    onemirror.conf, line 2: unknown key site.nme; did you mean name? Correct line 2
    onemirror.conf, line 1: unknown key peer.nam; did you mean name? Correct line 1
    "#);
}

#[test]
fn missing_keys_are_named_with_what_to_write() {
    let without = |key: &str| {
        let lines: Vec<&str> = SAMPLE.lines().filter(|line| !line.starts_with(key)).collect();
        error(&lines.join("\n"))
    };
    let errors = [
        error(""),
        error("[site]\nname = \"a\"\nrole = \"home\"\n"),
        without("role ="),
        without("endpoint ="),
        without("auth ="),
        without("conf ="),
        without("user ="),
        error("\n[site]\nrole = \"home\"\n[peer]\n"),
        error("[site]\nname = \"a\"\nrole = \"home\"\n\n[peer]\n"),
    ];
    insta::assert_snapshot!(errors.join("\n"), @r#"
    onemirror.conf: [site] is missing; add that table with name and role
    onemirror.conf: [peer] is missing; add that table with name, endpoint and auth
    onemirror.conf, line 8: site.role is missing; add role = "home" or role = "recovery" below line 8
    onemirror.conf, line 29: peer.endpoint is missing; add endpoint = "https://one-b.example.org:2633/RPC2" below line 29
    onemirror.conf, line 29: peer.auth is missing; add auth = "/etc/one/onemirror.peer_auth" below line 29
    onemirror.conf, line 38: peer.ceph.conf is missing; add conf = "/etc/ceph/site-b.conf" below line 38
    onemirror.conf, line 38: peer.ceph.user is missing; add user = "rbd-mirror-peer" below line 38
    onemirror.conf, line 2: site.name is missing; add name = "site-a" below line 2
    onemirror.conf, line 5: peer.name is missing; add name = "site-b" below line 5
    "#);
}

#[test]
fn wrong_values_are_named_with_what_is_allowed() {
    let errors = [
        error(&sample_with("role = \"home\"", "role = \"primary\"")),
        error(&sample_with("role = \"home\"", "role = 1")),
        error(&sample_with("name = \"site-a\"", "name = \"site:a\"")),
        error(&sample_with("name = \"site-a\"", "name = \"\"")),
        error(&sample_with("name = \"site-a\"", "name = \"-a\"")),
        error(&sample_with("name = \"site-b\"", "name = \"site-a\"")),
        error(&sample_with("https://one-b.example.org", "ftp://one-b.example.org")),
        error(&sample_with("https://one-b", "https://oneadmin:sesame@one-b")),
        error(&sample_with("\"https://one-b.example.org:2633/RPC2\"", "\"one-b\"")),
        error(&sample_with("[site.ceph]", "endpoint = \"https://one-b.example.org:2633/RPC2\"\n[site.ceph]")),
        error(&sample_with("\"/etc/one/onemirror.peer_auth\"", "\"oneadmin:sesame\"")),
        error(&sample_with("[peer.ceph]", "ca_file = \"ca.pem\"\n[peer.ceph]")),
        error(
            &sample_with("[peer.ceph]", "ca_file = \"/ca.pem\"\n[peer.ceph]").replace("https://", "http://"),
        ),
        error(&sample_with("\"rbd-mirror-peer\"", "\"client.rbd-mirror-peer\"")),
        error(&sample_with("\"rbd-mirror-peer\"", "\"--keyring\"")),
        error(&sample_with("#run_on = \"datastore\"", "run_on = \"everywhere\"")),
        error(&sample_with("#run_on = \"datastore\"", "run_on = []")),
        error(&sample_with("#run_on = \"datastore\"", "run_on = 7")),
        error(&sample_with("#run_on = \"datastore\"", "run_on = [\"local\"]")),
        error(&sample_with(
            "#run_on = \"datastore\"",
            "run_on = [\n  \"host1\",\n  \"-oProxyCommand=id\",\n]",
        )),
        error(&sample_with("#run_on = \"local\"", "run_on = \"datastore\"")),
        error(&sample_with(
            "#run_on = \"datastore\"",
            "run_on = \"local\"\nconf = \"/etc/ceph/site-b.conf\"",
        )),
        error(&sample_with("#sync_timeout = \"120s\"", "sync_timeout = \"0s\"")),
        error(&sample_with("#sync_timeout = \"120s\"", "sync_timeout = \"2days\"")),
        error(&sample_with("#sync_timeout = \"120s\"", "sync_timeout = \"soon\"")),
        error(&sample_with("#sync_timeout = \"120s\"", "sync_timeout = 120")),
        error(
            &sample_with("\"refuse-after-reboot\"\n# The events", "\"never\"\n# The events")
                .replace("#peer_unr", "peer_unr"),
        ),
        error(&sample_with("#release_on = [\"terminate\"]", "release_on = [\"terminate\", \"reboot\"]")),
        error(&sample_with("#release_on = [\"terminate\"]", "release_on = \"terminate\"")),
        error(&sample_with("#resume_on_peer = true", "resume_on_peer = \"yes\"")),
        error("site = 1\n"),
        error(&format!("policy = [\"1s\"]\n{SMALLEST}")),
        error(&format!("{SMALLEST}[[policy]]\n")),
        error(&format!("{SMALLEST}ceph = \"/etc/ceph/site-a.conf\"\n")),
    ];
    insta::assert_snapshot!(errors.join("\n"), @r#"
    onemirror.conf, line 14: site.role: unknown variant `primary`, expected `home` or `recovery`; correct line 14
    onemirror.conf, line 14: site.role: invalid type: integer `1`, expected a word in quotes; correct line 14
    onemirror.conf, line 11: site.name: must be a mirroring site name of 1 to 64 letters, digits, '-', '_', '.', '+', the first a letter, digit or '_'; correct line 11
    onemirror.conf, line 11: site.name: must be a mirroring site name of 1 to 64 letters, digits, '-', '_', '.', '+', the first a letter, digit or '_'; correct line 11
    onemirror.conf, line 11: site.name: must be a mirroring site name of 1 to 64 letters, digits, '-', '_', '.', '+', the first a letter, digit or '_'; correct line 11
    onemirror.conf, line 31: peer.name: must not be the name of this site, site.name; correct line 31
    onemirror.conf, line 32: peer.endpoint: must be an address such as "https://one-b.example.org:2633/RPC2"; correct line 32
    onemirror.conf, line 32: peer.endpoint: must not hold a user or password; they belong in the file that auth names; correct line 32
    onemirror.conf, line 32: peer.endpoint: must be an address such as "https://one-b.example.org:2633/RPC2"; correct line 32
    onemirror.conf, line 33: peer.endpoint: must not be the endpoint of this site, site.endpoint; correct line 33
    onemirror.conf, line 34: peer.auth: must be the absolute path of a file, beginning with '/'; correct line 34
    onemirror.conf, line 38: peer.ca_file: must be the absolute path of a file, beginning with '/'; correct line 38
    onemirror.conf, line 38: peer.ca_file: has no effect unless peer.endpoint begins with https://; correct line 38
    onemirror.conf, line 43: peer.ceph.user: must be written without "client."; correct line 43
    onemirror.conf, line 43: peer.ceph.user: must be the name of a Ceph user such as "libvirt"; correct line 43
    onemirror.conf, line 27: site.ceph.run_on: must be "datastore", "local" or a list of hosts such as ["host1", "host2"]; correct line 27
    onemirror.conf, line 27: site.ceph.run_on: must list at least one host; for none write "local"; correct line 27
    onemirror.conf, line 27: site.ceph.run_on: invalid type: integer `7`, expected "datastore", "local" or a list of hosts such as ["host1", "host2"]; correct line 27
    onemirror.conf, line 27: site.ceph.run_on: must be written without brackets: run_on = "local" or run_on = "datastore"; correct line 27
    onemirror.conf, line 29: site.ceph.run_on: must hold host names (letters, digits, '.', '-', '_') or user@host; correct line 29
    onemirror.conf, line 45: peer.ceph.run_on: must be "local" or a list of hosts such as ["host1", "host2"]; correct line 45
    onemirror.conf, line 43: peer.ceph.conf: must not be the cluster of this site, site.ceph.conf; correct line 43
    onemirror.conf, line 49: policy.sync_timeout: must be from "100ms" to "1day"; correct line 49
    onemirror.conf, line 49: policy.sync_timeout: must be from "100ms" to "1day"; correct line 49
    onemirror.conf, line 49: policy.sync_timeout: must be a duration with its unit, such as "120s" or "2m"; correct line 49
    onemirror.conf, line 49: policy.sync_timeout: invalid type: integer `120`, expected a duration with its unit, in quotes, such as "120s"; correct line 49
    onemirror.conf, line 57: policy.peer_unreachable: unknown variant `never`, expected one of `allow`, `refuse`, `refuse-after-reboot`; correct line 57
    onemirror.conf, line 60: policy.release_on: unknown variant `reboot`, expected one of `terminate`, `poweroff`, `undeploy`; correct line 60
    onemirror.conf, line 60: policy.release_on: invalid type: string "terminate", expected a sequence; correct line 60
    onemirror.conf, line 62: policy.resume_on_peer: invalid type: string "yes", expected a boolean; correct line 62
    onemirror.conf, line 1: site: must be a table, [site]; correct line 1
    onemirror.conf, line 1: policy: must be a table, [policy]; correct line 1
    onemirror.conf, line 9: policy: must be a table, [policy]; correct line 9
    onemirror.conf, line 9: peer.ceph: must be a table, [peer.ceph]; correct line 9
    "#);
}

#[test]
fn what_is_not_toml_is_named_by_line() {
    let errors = [
        error(&sample_with("name = \"site-a\"", "name = site-a")),
        error(&sample_with("name = \"site-a\"", "name = \"site-a")),
        error(&sample_with("[peer]", "[peer")),
        error(&sample_with("[peer]", "[site]")),
        error(&sample_with("role = \"home\"", "role = \"home\"\nrole = \"recovery\"")),
        error(&sample_with("auth = \"/etc/one/onemirror.peer_auth\"", "auth = oneadmin:sesame")),
        error("\u{1b}[2J"),
    ];
    insta::assert_snapshot!(errors.join("\n"), @r#"
    onemirror.conf, line 11: string values must be quoted, expected literal string; correct line 11
    onemirror.conf, line 11: invalid basic string, expected `"`; correct line 11
    onemirror.conf, line 29: unclosed table, expected `]`; correct line 29
    onemirror.conf, line 29: duplicate key; correct line 29
    onemirror.conf, line 15: duplicate key; correct line 15
    onemirror.conf, line 34: string values must be quoted, expected literal string; correct line 34
    onemirror.conf, line 1: key with no value, expected `=`; correct line 1
    "#);
}

#[test]
fn no_error_repeats_a_secret_or_moves_the_cursor() {
    for text in [
        sample_with("\"/etc/one/onemirror.peer_auth\"", "\"oneadmin:sesame\""),
        sample_with("\"/etc/one/onemirror.peer_auth\"", "oneadmin:sesame"),
        sample_with("\"/etc/one/onemirror.peer_auth\"", "[\"oneadmin:sesame\"]"),
        sample_with("\"/etc/one/onemirror.peer_auth\"", "{ password = \"sesame\" }"),
        sample_with("https://one-b", "https://oneadmin:sesame@one-b"),
        sample_with("\nauth =", "\npassword = \"sesame\"\nauth ="),
        sample_with("role = \"home\"", "role = \"\\u001b[2J\""),
        sample_with("role = \"home\"", "\"\\u001b[2J\" = 1"),
    ] {
        let error = parse(&text).unwrap_err();
        for printed in [error.to_string(), format!("{error:?}")] {
            assert!(!printed.contains("sesame"), "{printed}");
            assert!(!printed.contains('\u{1b}'), "{printed:?}");
        }
    }
}

mod files {
    use super::*;

    fn written(text: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("onemirror.conf");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (folder, path)
    }

    /// The message, with the temporary folder's name taken out.
    fn load_error(folder: &Path, path: &Path) -> String {
        Config::load(path).unwrap_err().to_string().replace(&folder.display().to_string(), "/etc/one")
    }

    #[test]
    fn a_good_file_is_read() {
        let (_folder, path) = written(SAMPLE.as_bytes(), 0o640);
        assert_eq!(Config::load(&path).unwrap(), parse(SAMPLE).unwrap());
    }

    #[test]
    fn a_missing_file_is_an_error_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("onemirror.conf");
        assert!(matches!(Config::load(&path), Err(ConfigError::Missing { .. })));
        insta::assert_snapshot!(load_error(folder.path(), &path), @"/etc/one/onemirror.conf: no configuration; copy the sample onemirror.conf there and fill it in, or name another file with --config");
    }

    #[test]
    fn a_file_that_everybody_may_write_is_refused() {
        let (folder, path) = written(SAMPLE.as_bytes(), 0o646);
        insta::assert_snapshot!(load_error(folder.path(), &path), @"/etc/one/onemirror.conf: not used: everybody may write it; check what it says, then: chmod o-w /etc/one/onemirror.conf");
    }

    #[test]
    fn only_files_of_root_or_the_current_user_count() {
        assert_eq!(distrust(true, 0o640, 0, 9869), None);
        assert_eq!(distrust(true, 0o640, 9869, 9869), None);
        assert_eq!(distrust(true, 0o660, 0, 9869), None);
        let other = distrust(true, 0o640, 1000, 9869);
        assert_eq!(other, Some(Distrust::Owner { owner: 1000, current_user: 9869 }));
        // Root does not take orders from others either.
        assert!(distrust(true, 0o640, 1000, 0).is_some());
        assert_eq!(distrust(false, 0o640, 0, 0), Some(Distrust::NotAFile));
        let error = ConfigError::NotTrusted { path: "/etc/one/onemirror.conf".into(), why: other.unwrap() };
        insta::assert_snapshot!(error.to_string(), @"/etc/one/onemirror.conf: not used: it belongs to user 1000, who is neither root nor the user running this (9869); run this as its owner, or check what it says and: chown root /etc/one/onemirror.conf");
    }

    #[test]
    fn folders_and_pipes_are_refused_without_waiting() {
        let folder = tempfile::tempdir().unwrap();
        insta::assert_snapshot!(load_error(folder.path(), folder.path()), @"/etc/one: not used: not a regular file; name the right one with --config");
        let pipe = folder.path().join("onemirror.conf");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        insta::assert_snapshot!(load_error(folder.path(), &pipe), @"/etc/one/onemirror.conf: not used: not a regular file; name the right one with --config");
    }

    #[test]
    fn a_huge_file_is_refused() {
        let (folder, path) = written(&vec![b'#'; usize::try_from(SIZE_LIMIT).unwrap() + 1], 0o600);
        insta::assert_snapshot!(load_error(folder.path(), &path), @"/etc/one/onemirror.conf: larger than 1048576 bytes, not a configuration; name the right file with --config");
        let (_folder, path) = written(&vec![b'#'; usize::try_from(SIZE_LIMIT).unwrap()], 0o600);
        assert!(matches!(Config::load(&path), Err(ConfigError::MissingKey { .. })));
    }

    #[test]
    fn other_encodings_are_refused_by_line() {
        let (folder, path) = written(b"[site]\nname = \"\xe4\"\n", 0o600);
        insta::assert_snapshot!(load_error(folder.path(), &path), @"/etc/one/onemirror.conf, line 2: not UTF-8 text; correct line 2");
    }

    #[test]
    fn an_unreadable_file_says_how_to_make_it_readable() {
        let error = ConfigError::Unreadable {
            path: "/etc/one/onemirror.conf".into(),
            source: std::io::ErrorKind::PermissionDenied.into(),
        };
        insta::assert_snapshot!(error.to_string(), @"/etc/one/onemirror.conf: cannot be read: permission denied; as root: chgrp oneadmin /etc/one/onemirror.conf && chmod 640 /etc/one/onemirror.conf");
    }
}

mod places {
    use super::*;

    fn variables(set: &[(&str, &str)]) -> impl Fn(&str) -> Option<OsString> {
        let set: Vec<_> = set.iter().map(|(name, value)| (name.to_string(), OsString::from(value))).collect();
        move |name| set.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
    }

    #[test]
    fn the_configuration_is_looked_for_in_order() {
        let all = [("ONEMIRROR_CONF", "/x/y.conf"), ("ONE_LOCATION", "/srv/one")];
        assert_eq!(locate_in(Some(Path::new("z.conf")), variables(&all)), Path::new("z.conf"));
        assert_eq!(locate_in(None, variables(&all)), Path::new("/x/y.conf"));
        assert_eq!(locate_in(None, variables(&all[1..])), Path::new("/srv/one/etc/onemirror.conf"));
        assert_eq!(locate_in(None, variables(&[])), Path::new("/etc/one/onemirror.conf"));
        let empty = [("ONEMIRROR_CONF", ""), ("ONE_LOCATION", "")];
        assert_eq!(locate_in(None, variables(&empty)), Path::new("/etc/one/onemirror.conf"));
    }

    #[test]
    fn state_and_audit_log_follow_one_location() {
        let set = Some(std::ffi::OsString::from("/srv/one"));
        assert_eq!(state_dir_in(set.clone()), Path::new("/srv/one/var/onemirror"));
        assert_eq!(audit_log_path_in(set), Path::new("/srv/one/var/onemirror.log"));
        assert_eq!(state_dir_in(None), Path::new("/var/lib/one/onemirror"));
        assert_eq!(audit_log_path_in(Some("".into())), Path::new("/var/log/one/onemirror.log"));
    }
}

mod damaged {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever a slip of the editor leaves: an answer with a line, never a panic.
        #[test]
        fn is_answered(at in 0..SAMPLE.len(), removed in 0usize..40, inserted in "[\\PC\n]{0,6}") {
            let mut bytes = SAMPLE.as_bytes().to_vec();
            bytes.splice(at..(at + removed).min(bytes.len()), inserted.bytes());
            let text = String::from_utf8_lossy(&bytes);
            if let Err(error) = parse(&text) {
                let printed = error.to_string();
                prop_assert!(printed.starts_with("onemirror.conf"), "{}", printed);
                prop_assert_eq!(printed.lines().count(), 1);
            }
        }
    }
}

/// Addresses and files are named in errors, lists and logs.
#[test]
fn nothing_that_a_terminal_obeys_is_accepted_in_an_address_or_a_file() {
    for (sample, word) in
        [("\"https://one-b", "\"https://one-b\\u202e"), ("auth = \"/etc/one", "auth = \"/etc/\\u2066one")]
    {
        let refused = error(&sample_with(sample, word));
        assert!(refused.contains("must be ") && !refused.contains(crate::text::is_obeyed), "{refused}");
    }
}
