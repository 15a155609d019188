//! Writes man pages, shell completions, units and the like, as onemirror's packages hold them.
//!
//! usage: onemirror-generate FOLDER     (it is made if it is not there)

use clap::CommandFactory as _;
use clap_complete::Shell;
use onemirror::commands::Cli;
use onemirror::setup::artifacts::{Content, FrontEndUser, TIMER, artifacts};
use onemirror::setup::layout::Layout;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(folder), None) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: onemirror-generate FOLDER");
        return ExitCode::from(2);
    };
    match generate(&folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("onemirror-generate: {}: {error}", folder.display());
            ExitCode::FAILURE
        }
    }
}

fn generate(folder: &Path) -> std::io::Result<()> {
    let make = |name: &str| {
        let path = folder.join(name);
        std::fs::create_dir_all(&path).map(|()| path)
    };
    let mut command = Cli::command();
    clap_mangen::generate_to(command.clone(), make("man")?)?;
    for (shell, name) in [(Shell::Bash, "bash"), (Shell::Zsh, "zsh"), (Shell::Fish, "fish")] {
        clap_complete::generate_to(shell, &mut command, "onemirror", make(name)?)?;
    }
    let layout = Layout::of_system();
    let user = FrontEndUser { name: "oneadmin".into(), group: "oneadmin".into() };
    let systemd = make("systemd")?;
    for artifact in artifacts(&layout, &user) {
        let Content::Text(text) = &artifact.content else { continue };
        if artifact.path == layout.logrotate {
            std::fs::write(folder.join("logrotate"), text)?;
        } else if is_unit(&artifact.path) {
            std::fs::write(systemd.join(artifact.path.file_name().unwrap_or_default()), text)?;
        }
    }
    Ok(())
}

fn is_unit(path: &Path) -> bool {
    path.with_extension("").file_name() == Path::new(TIMER).with_extension("").file_name()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_gets_a_page_for_each_command_and_its_units() {
        let folder = tempfile::tempdir().unwrap();
        generate(folder.path()).unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        for command in
            ["onemirror", "onemirror-doctor", "onemirror-failover", "onemirror-list", "onemirror-setup"]
        {
            assert!(read(&format!("man/{command}.1")).contains(".SH NAME"), "{command}");
        }
        assert!(!folder.path().join("man/onemirror-tm.1").exists(), "nobody types that");
        assert!(read("bash/onemirror.bash").contains("doctor"));
        assert!(read("zsh/_onemirror").contains("doctor") && read("fish/onemirror.fish").contains("doctor"));
        assert!(read("systemd/onemirror-reconcile.service").contains("User=oneadmin\n"));
        assert!(
            read("systemd/onemirror-reconcile.service")
                .contains("ExecStart=\"/usr/bin/onemirror\" reconcile\n")
        );
        assert!(read("systemd/onemirror-reconcile.timer").contains("[Timer]"));
        assert!(read("logrotate").starts_with("/var/log/one/onemirror.log {"));
    }
}
