//! Image names, tokens and marks, and texts that are shown.

use super::{assert_error, assert_image, assert_shown};
use onemirror::opennebula::disks::named_by;
use onemirror::text;
use onemirror_protocol::{ImageSpec, Mark, Token, Written, forced_mark, written_for};

/// Any of them, from any text.
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match text.parse::<ImageSpec>() {
        Ok(image) => {
            assert_image(&image);
            assert_eq!(image.to_string(), text);
            if let Some(named) = named_by(&image) {
                assert!(named.vm_id >= 0 && named.disk_id >= 0);
                assert!(image.image().ends_with(&format!("-{}-{}", named.vm_id, named.disk_id)));
            }
        }
        Err(error) => assert_error(&error),
    }
    match text.parse::<Token>() {
        Ok(token) => {
            assert_eq!(token.to_string(), text);
            assert_shown(&token.to_string());
            let next = Token::open_after(Some(&token), &token.site);
            assert!(next.sequence >= token.sequence && next.is_open_by(&token.site) && !next.is_closed());
            assert_eq!(next.to_string().parse::<Token>(), Ok(next));
        }
        Err(error) => assert_error(&error),
    }
    match text.parse::<Mark>() {
        Ok(mark) => assert_eq!(mark.to_string().parse::<Mark>(), Ok(mark)),
        Err(error) => assert_error(&error),
    }
    match text.parse::<Written<Token>>() {
        Ok(Written::Unbound(token)) => assert_eq!(token.to_string(), text),
        Ok(Written::For(token, image)) => assert_eq!(written_for(&token, &image), text),
        Ok(Written::Newer) => {}
        Err(error) => assert_error(&error),
    }
    if let Some(Written::Unbound(mark) | Written::For(mark, _)) = forced_mark(&text) {
        assert!(mark.vm >= 0);
    }
    assert_shown(&text::printable(&text));
    assert!(text::cut(&text, 40).len() <= 40);
    let json = serde_json::to_string(&text).expect("a text is JSON");
    let shown = text::printable_json(&json);
    assert!(!shown.contains(|c| text::is_obeyed(c) && c != '\n'));
    assert_eq!(serde_json::from_str::<String>(&shown).expect("still JSON"), text);
}
