//! `onemirror rehome VM`.

use super::table::{json, print};
use super::{CommandError, warn_if_off};
use crate::operations::{NewHome, rehome};
use crate::sites::{Sites, images};
use onemirror_protocol::ImageSpec;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct RehomeArguments {
    /// The VM's id here
    #[arg(required_unless_present = "image")]
    vm: Option<i32>,
    /// An image by itself, as POOL/IMAGE; one that is primary on neither site becomes primary here
    #[arg(long, value_name = "IMAGE", conflicts_with = "vm")]
    image: Option<ImageSpec>,
    /// The site that it belongs to from now on, this one or its peer [default: this one]
    #[arg(long, value_name = "SITE")]
    to: Option<String>,
    /// JSON instead of text
    #[arg(short, long)]
    json: bool,
}

pub(super) async fn run(sites: &Sites, arguments: &RehomeArguments) -> Result<(), CommandError> {
    warn_if_off();
    let site = arguments.to.as_deref().unwrap_or(sites.here.name());
    if site != sites.here.name() && site != sites.there.name() {
        let (here, there) = (sites.here.name(), sites.there.name());
        return Err(CommandError::Usage(format!("--to {site}: the two sites are {here} and {there}")));
    }
    let images = match (&arguments.image, arguments.vm) {
        (Some(image), _) => vec![rehome::unused_image(sites, image).await?],
        (None, Some(vm)) => images::vm_images(sites, vm).await?.images,
        (None, None) => Vec::new(),
    };
    let homes = rehome::rehome(sites, arguments.vm, &images, site).await?;
    if arguments.json {
        return Ok(print(&json(&homes)?)?);
    }
    let tell = |home: &NewHome| {
        let what_else = match home {
            NewHome { is_taken_up: true, .. } => ", and is primary here now",
            NewHome { is_kept: true, .. } => ", and is not handed over any more: its VM there is not started",
            _ => "",
        };
        format!("{}: belongs to {}{what_else}\n", home.image, home.site)
    };
    let text: String = homes.iter().map(tell).collect();
    Ok(print(&text)?)
}
