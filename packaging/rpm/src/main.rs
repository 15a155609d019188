//! Writes onemirror's RPM package: the files that `[package.metadata.deb]` of Cargo.toml names, under the names that Red
//! Hat's systems have for them, and the same code behind its scripts.
//!
//! usage: onemirror-rpm REPOSITORY OUTPUT.rpm

use anyhow::{Context as _, Result, bail};
use rpm::{BuildConfig, CompressionType, Dependency, FileOptions, PackageBuilder, Scriptlet, ScriptletFlags};
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Where zsh and fish look on Debian, and where on Red Hat's systems.
const OTHER_PLACES: [(&str, &str); 2] = [
    ("usr/share/zsh/vendor-completions/", "usr/share/zsh/site-functions/"),
    ("usr/share/fish/vendor_completions.d/", "usr/share/fish/vendor_completions.d/"),
];
/// Folders that are gone with the last package that has something in them.
const FOLDERS: [&str; 5] = [
    "/usr/share/bash-completion/completions",
    "/usr/share/doc/onemirror",
    "/usr/share/doc/onemirror/docs",
    "/usr/share/fish/vendor_completions.d",
    "/usr/share/zsh/site-functions",
];
/// Whatever package installs or upgrades files there: wrappers are to stand before them again.
const DRIVERS: [&str; 2] = ["/var/lib/one/remotes/tm/ceph/", "/var/lib/one/remotes/datastore/ceph/"];

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(repository), Some(output), None) = (arguments.next(), arguments.next(), arguments.next())
    else {
        bail!("usage: onemirror-rpm REPOSITORY OUTPUT.rpm");
    };
    let manifest = std::fs::read_to_string(repository.join("Cargo.toml")).context("Cargo.toml")?;
    let manifest: Table = manifest.parse().context("Cargo.toml")?;
    let package = &manifest["package"];
    let text = |value: Option<&Value>, what: &str| -> Result<String> {
        Ok(value.and_then(Value::as_str).with_context(|| format!("Cargo.toml: {what}"))?.to_owned())
    };
    let of_workspace = &manifest["workspace"]["package"];
    let summary = text(package.get("description"), "package.description")?;
    let version = text(of_workspace.get("version"), "workspace.package.version")?;
    let license = text(of_workspace.get("license"), "workspace.package.license")?;
    let deb = &package["metadata"]["deb"];
    let mut builder = PackageBuilder::new("onemirror", &version, &license, "x86_64", &summary);
    builder
        // what every rpm since RHEL 8 reads
        .using_config(BuildConfig::v4().compression(CompressionType::Gzip))
        .description(text(deb.get("extended-description"), "extended-description")?)
        .requires(Dependency::greater_eq("glibc", "2.31"));
    for name in ["ceph-common", "openssh-clients", "logrotate", "systemd"] {
        builder.recommends(Dependency::any(name));
    }
    for asset in deb["assets"].as_array().context("Cargo.toml: assets")? {
        let [source, target, mode] = asset.as_array().map(Vec::as_slice).unwrap_or_default() else {
            bail!("an asset is not of three words: {asset}");
        };
        let (source, target) = (text(Some(source), "source")?, text(Some(target), "target")?);
        let mode = u16::from_str_radix(&text(Some(mode), "mode")?, 8).context("mode")?;
        add(&mut builder, &repository, &source, &target, mode)?;
    }
    for folder in FOLDERS {
        builder.with_dir_entry(FileOptions::dir(folder).permissions(0o755)).context(folder)?;
    }
    let script = |name: &str| -> Result<Scriptlet> {
        let path = repository.join("packaging/rpm").join(name);
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(Scriptlet::new(text).flags(ScriptletFlags::empty()).prog(vec!["/bin/sh"]))
    };
    builder.post_install_script(script("post.sh")?).pre_uninstall_script(script("preun.sh")?);
    for driver in DRIVERS {
        builder.trans_file_trigger_in(driver, None, script("trigger.sh")?);
    }
    builder.build().context("build")?.write_file(&output).with_context(|| output.display().to_string())?;
    Ok(())
}

fn add(builder: &mut PackageBuilder, repository: &Path, source: &str, target: &str, mode: u16) -> Result<()> {
    let target = OTHER_PLACES
        .iter()
        .find_map(|(debian, other)| target.strip_prefix(debian).map(|rest| format!("{other}{rest}")))
        .unwrap_or_else(|| target.to_owned());
    let pattern = repository.join(source);
    let mut found = 0;
    for path in glob::glob(pattern.to_str().context("the repository's path is not UTF-8")?)? {
        let path = path?;
        let name = path.file_name().and_then(|name| name.to_str()).context("a file's name is not UTF-8")?;
        let destination =
            if target.ends_with('/') { format!("/{target}{name}") } else { format!("/{target}") };
        let options = FileOptions::new(&destination).permissions(mode);
        let options = if destination.starts_with("/etc/") { options.config().noreplace() } else { options };
        builder.with_file(&path, options).with_context(|| path.display().to_string())?;
        found += 1;
    }
    if found == 0 {
        bail!("nothing at {source}; run ./package");
    }
    Ok(())
}
