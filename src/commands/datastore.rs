//! Actions of the datastore driver: what `oneimage delete` and the snapshots of images do to images that are mirrored.

use super::driver::DriverCall;
use super::driver::answer::{Answer, Called, refuse, refuse_error, refuse_image, switched_off};
use super::tm::connect;
use crate::audit::{Entry, Outcome};
use crate::ceph::Ceph as _;
use crate::config::{Config, ConfigError};
use crate::opennebula::DriverAction;
use crate::operations::removal;
use crate::sites::{RunError, Sites, VmImage, look};
use base64::Engine as _;
use onemirror_protocol::{Here, ImageSpec, Role, Unfit};
use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;

/// The largest input that is read, in bytes.
const INPUT_LIMIT: u64 = 16 << 20;

/// An action of the datastore driver that onemirror stands in front of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::EnumString)]
#[strum(serialize_all = "snake_case")]
enum DatastoreAction {
    /// The image goes.
    Rm,
    /// A snapshot of it goes.
    SnapDelete,
    /// It becomes what it was at a snapshot: another image of the same name.
    SnapRevert,
    /// The same, and all of its snapshots go.
    SnapFlatten,
}

/// Answers a call of `one_datastore`. Returns only if the stock action is not to run.
pub(super) async fn run(config_path: &Path, called: &DriverCall) -> ExitCode {
    let DriverCall { stock, action, arguments } = called;
    let mut subject = Entry::new("", &format!("datastore {action}"), Outcome::Refused);
    let mut input = Vec::new();
    let answer = match std::io::stdin().lock().take(INPUT_LIMIT + 1).read_to_end(&mut input) {
        Ok(_) => answer(config_path, action, &input, &mut subject).await,
        Err(error) => refuse(&Unfit::CallNotRead { action: action.clone(), error: error.to_string() }),
    };
    Called { stock, arguments, input: Some(&input) }.give(answer, subject)
}

async fn answer(config_path: &Path, action: &str, input: &[u8], subject: &mut Entry) -> Answer {
    if let Some(answer) = switched_off(subject) {
        return answer;
    }
    let Ok(action) = action.parse::<DatastoreAction>() else {
        return refuse(&Unfit::NoSuchAction { action: action.to_owned() });
    };
    let asked = match read(input) {
        Ok(asked) => asked,
        Err(error) => return refuse(&Unfit::CallNotUnderstood { error }),
    };
    // what has no such name is no image that could be mirrored
    let Ok(image) = asked.image.source.parse::<ImageSpec>() else { return Answer::Stock };
    subject.image = Some(image.to_string());
    match Config::load(config_path) {
        Ok(config) => {
            subject.site = config.site.name.clone();
            with_config(config, action, &asked, image, subject).await
        }
        Err(error) => without_config(&error, &asked, &image).await,
    }
}

/// The document that oned sends, in base64.
fn read(input: &[u8]) -> Result<DriverAction, String> {
    if input.len() as u64 > INPUT_LIMIT {
        return Err(format!("what the driver is told is larger than {INPUT_LIMIT} bytes"));
    }
    let text: Vec<u8> = input.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let document = base64::engine::general_purpose::STANDARD
        .decode(text)
        .map_err(|error| format!("what the driver is told is not understood: {error}"))?;
    // oned cuts texts between bytes, not characters
    DriverAction::from_xml(&String::from_utf8_lossy(&document))
        .map_err(|error| format!("what the driver is told is not understood: {error}"))
}

async fn with_config(
    config: Config,
    action: DatastoreAction,
    asked: &DriverAction,
    image: ImageSpec,
    subject: &Entry,
) -> Answer {
    let sites = match Sites::new(config, &subject.event) {
        Ok(sites) => sites,
        Err(error) => return refuse_error(&error),
    };
    let look = async {
        let image = removal::image_in(&sites, &asked.datastore, image).await?;
        match action {
            DatastoreAction::Rm => remove(&sites, asked, &image).await,
            DatastoreAction::SnapDelete | DatastoreAction::SnapRevert | DatastoreAction::SnapFlatten => {
                change(&sites, action, &image).await
            }
        }
    };
    look.await.unwrap_or_else(|error: RunError| refuse_image(&error))
}

/// `oneimage delete`: the registration can go without its image. To end in ERROR would leave the operator with no other way
/// than to delete the copy by hand.
async fn remove(sites: &Sites, asked: &DriverAction, image: &VmImage) -> Result<Answer, RunError> {
    let registered = removal::registrations(sites, &BTreeSet::from([image.spec().clone()])).await?;
    let other = registered.into_values().flatten().find(|id| *id != asked.image.id);
    Ok(match removal::kept(sites, image, other).await? {
        None => Answer::Stock,
        Some(kept) => Answer::Instead(format!("only its registration here goes: {kept}")),
    })
}

/// Snapshots of an image that no VM uses.
async fn change(sites: &Sites, action: DatastoreAction, image: &VmImage) -> Result<Answer, RunError> {
    let Here::Mirrored(copy) = look::look_here(image).await? else { return Ok(Answer::Stock) };
    if copy.role != Role::Primary {
        return Ok(refuse(&removal::not_writable(sites, image.spec())));
    }
    if action != DatastoreAction::SnapDelete {
        if let Some(kept) = removal::kept(sites, image, None).await? {
            return Ok(refuse(&Unfit::AnotherImage { why: kept.why.to_string() }));
        }
        tracing::warn!("{}", removal::becomes_another(sites, image.spec()));
    }
    Ok(Answer::Stock)
}

/// A configuration that is missing or broken must not touch an image that is not mirrored.
async fn without_config(error: &ConfigError, asked: &DriverAction, image: &ImageSpec) -> Answer {
    match connect(&asked.datastore).info(image).await {
        Ok(Some(info)) if info.mirroring.is_some() => {
            refuse(&Unfit::NoConfiguration { image: image.clone(), error: error.to_string() })
        }
        Ok(_) => Answer::Stock,
        Err(trouble) => {
            refuse(&Unfit::ImageMirroringUnknown { image: image.clone(), error: trouble.to_string() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_oned_sends() {
        let image = include_str!("../../tests/fixtures/opennebula/image.nonpersistent.site-a.xml");
        let datastore = include_str!("../../tests/fixtures/opennebula/datastore.image.site-a.xml");
        let document = format!("<DS_DRIVER_ACTION_DATA>{image}{datastore}</DS_DRIVER_ACTION_DATA>");
        let mut text = base64::engine::general_purpose::STANDARD.encode(document);
        text.insert(60, '\n');
        let asked = read(text.as_bytes()).unwrap();
        assert!(asked.image.source.starts_with("one/one-") && asked.datastore.is_ceph());
        assert!(read(b"PFg+").unwrap_err().contains("not understood"));
        assert!(read(b"%").is_err());
    }

    #[test]
    fn every_guarded_action_is_known() {
        use crate::actions::{Driver, ROWS, Treatment};
        for row in ROWS.iter().filter(|row| row.driver == Driver::Datastore) {
            let known = row.name.parse::<DatastoreAction>().is_ok();
            assert_eq!(known, row.treatment == Treatment::Guarded, "{}", row.name);
        }
    }
}
