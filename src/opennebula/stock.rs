//! What the stock `ceph` scripts work on when they are given an image: not only on that one. No I/O.
//!
//! As `rbd_top_parent`, `rbd_rm_r` and `rbd_rename_rm` of OpenNebula's `ceph_utils.sh` have it, 6.10 to 7.4. A deletion
//! climbs from the image to its parents for as long as a parent's name holds the image's own, cut behind the first
//! four numbers of `one-2-39-0`; then it deletes that parent, its snapshots, and all that was cloned from them.

use onemirror_protocol::ImageSpec;

/// Whether a deletion that has come to an image with this name goes on to this parent. `volume` is the image that was to
/// be deleted. Where the script's pattern is not certain to mean what it says, yes: too much is looked at then.
pub fn climbs_to(volume: &ImageSpec, parent: &ImageSpec) -> bool {
    let (volume, parent) = (volume.to_string(), parent.to_string());
    let pattern = without_snapshots(&volume);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_' | ':');
    !pattern.chars().all(is_plain) || parent.contains(pattern)
}

/// Cuts what follows the first `word-2-39-0`, where any of the numbers may be empty.
fn without_snapshots(name: &str) -> &str {
    let ends = name.match_indices('-').filter_map(|(first, _)| end_of_numbers(name, first));
    // a word begins behind the dash before it, so the leftmost match is that of the first dash that fits
    ends.min().map_or(name, |end| name.get(..end).unwrap_or(name))
}

/// The end of `-2-39-0` that begins at this dash.
fn end_of_numbers(name: &str, dash: usize) -> Option<usize> {
    let mut rest = name.get(dash..)?;
    for _ in 0..3 {
        rest = rest.strip_prefix('-')?.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    Some(name.len() - rest.len())
}

/// Whether `left` is what a revert to a disk snapshot has made of `image`: its name, and the numbers of its snapshots,
/// such as `one-7-0:1`.
pub fn is_left_by_revert(left: &ImageSpec, image: &ImageSpec) -> bool {
    let numbers = left.image().strip_prefix(image.image()).and_then(|rest| rest.strip_prefix('-'));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    image.pool_spec() == left.pool_spec() && numbers.is_some_and(|numbers| numbers.split(':').all(is_number))
}

/// The image that a revert to a disk snapshot has left behind, where this one is a clone of that very snapshot: `one-7` of
/// `one-7-0:1@1`. `parent` is `pool[/namespace]/image@snapshot`. No other clone that OpenNebula makes has a shorter name than
/// its parent.
pub fn left_behind(image: &ImageSpec, parent: &str) -> Option<ImageSpec> {
    let (parent, snapshot) = parent.rsplit_once('@')?;
    let parent = parent.parse().ok().filter(|parent| is_left_by_revert(parent, image))?;
    let numbers = parent.image().rsplit('-').next()?;
    numbers.split(':').any(|number| number == snapshot).then_some(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> ImageSpec {
        text.parse().unwrap()
    }

    /// What `sed` made of these names with the script's own expression.
    #[test]
    fn snapshots_are_cut_as_the_script_cuts_them() {
        for (name, cut) in [
            ("one/one-2-39-0", "one/one-2-39-0"),
            ("one/one-2-39-0-0:1:2", "one/one-2-39-0"),
            ("one/one-0-0-0-5-0", "one/one-0-0-0"),
            ("one/one-7", "one/one-7"),
            ("one/one-7-0", "one/one-7-0"),
            ("one/one-sys-3-1", "one/one-sys-3-1"),
            ("one/one-sys-3-1-5-0", "one/one-sys-3-1-5"),
            ("one/base-of-b-4-0", "one/base-of-b-4-0"),
            ("one-pool/one-2-39-0-4", "one-pool/one-2-39-0"),
            ("one/a---x", "one/a---"),
        ] {
            assert_eq!(without_snapshots(name), cut, "{name}");
        }
    }

    #[test]
    fn a_deletion_climbs_by_name_alone() {
        // a disk that was reverted to a snapshot, and the image that it came from
        assert!(climbs_to(&spec("one/one-2-39-0"), &spec("one/one-2-39-0-0:1")));
        assert!(!climbs_to(&spec("one/one-2-39-0"), &spec("one/one-2")));
        // a clone of an image that was failed over under the name of somebody's clone
        assert!(climbs_to(&spec("one/one-0-0-0-5-0"), &spec("one/one-0-0-0")));
        assert!(!climbs_to(&spec("one/one-0-0-0"), &spec("one/one-0")));
        assert!(climbs_to(&spec("one/one-7"), &spec("one/one-71")));
        assert!(climbs_to(&spec("one/a.b"), &spec("one/x")));
    }

    #[test]
    fn what_a_revert_sets_aside_is_known() {
        assert!(is_left_by_revert(&spec("one/one-7-0:1"), &spec("one/one-7")));
        assert!(is_left_by_revert(&spec("one/one-0-2-0-3"), &spec("one/one-0-2-0")));
        for other in ["one/one-7", "one/one-7-2-0", "one/one-71", "two/one-7-0", "one/one-7-", "one/one-7-a"]
        {
            assert!(!is_left_by_revert(&spec(other), &spec("one/one-7")), "{other}");
        }
    }

    #[test]
    fn only_a_clone_of_its_own_snapshot_has_left_something_behind() {
        let left = |image: &str, parent: &str| left_behind(&spec(image), parent).map(|left| left.to_string());
        assert_eq!(left("one/one-7", "one/one-7-0:1@1").as_deref(), Some("one/one-7-0:1"));
        assert_eq!(left("one/one-0-2-0", "one/one-0-2-0-3@3").as_deref(), Some("one/one-0-2-0-3"));
        for (image, parent) in [
            // another snapshot than those that the revert has left there
            ("one/one-7", "one/one-7-0:1@2"),
            ("one/one-7", "one/one-7-0@snap"),
            // a VM's clone of a base, and one of an image that was reverted
            ("one/one-7-3-0", "one/one-7@snap"),
            ("one/one-7-3-0", "one/one-7-0@0"),
            // somebody else's image
            ("one/one-8", "one/one-7-0@0"),
            ("two/one-7", "one/one-7-0@0"),
            ("one/one-7", "one/one-7-3-0@0"),
            ("one/one-7", "one/one-7@0"),
        ] {
            assert_eq!(left(image, parent), None, "{image} of {parent}");
        }
    }
}
