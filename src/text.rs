//! Texts of unknown origin, made fit for a terminal, a log and a limit.

/// Most characters that are shown of what another program says.
const EXCERPT: usize = 300;

/// Whether a terminal or an editor would obey this character instead of showing it: control characters (ESC, C1
/// and line ends among them), directional overrides, Unicode's own line ends, and what shows nothing and joins or parts
/// its neighbours.
pub fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// One line that can be shown: what would be obeyed becomes a space.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if is_obeyed(c) { ' ' } else { c }).collect()
}

/// The beginning of what another program said, to be shown: words with one space between them.
pub fn excerpt(text: &str) -> String {
    let shown = printable(&text.chars().take(4 * EXCERPT).collect::<String>());
    let mut words = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = words.char_indices().nth(EXCERPT) {
        words.truncate(end);
        words.push('…');
    }
    words
}

/// The beginning of a text, of at most this many bytes and of whole characters.
pub fn cut(text: &str, limit: usize) -> &str {
    let end = (0..=limit.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    &text[..end]
}

/// JSON that means the same and can be shown: JSON itself lets DEL, C1 and directional overrides stand.
pub fn printable_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for c in json.chars() {
        // A line end outside of a JSON text is layout; inside it is never raw.
        if is_obeyed(c) && c != '\n' {
            shown.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            shown.push(c);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_is_left_to_obey() {
        let text = "a\u{1b}[31mb\u{1b}]0;title\u{7}\tc\nd\u{9b}2J\u{7f}\u{202e}e\u{2028}f\u{0}";
        assert_eq!(printable(text), "a [31mb ]0;title  c d 2J  e f ");
        assert_eq!(excerpt(text), "a [31mb ]0;title c d 2J e f");
        assert_eq!(printable("one/one-7 \u{e4}\u{4e2d}"), "one/one-7 \u{e4}\u{4e2d}");
    }

    #[test]
    fn an_excerpt_is_short_and_says_that_it_is_one() {
        assert_eq!(excerpt(&"\u{e4}".repeat(EXCERPT)).chars().count(), EXCERPT);
        let shown = excerpt(&"\u{e4} ".repeat(1000));
        assert!(shown.chars().count() == EXCERPT + 1 && shown.ends_with('…'), "{shown}");
    }

    #[test]
    fn cuts_between_characters() {
        assert_eq!(cut("a\u{e4}b", 2), "a");
        assert_eq!(cut("a\u{e4}b", 3), "a\u{e4}");
        assert_eq!((cut("ab", 2), cut("ab", 9), cut("", 0), cut("\u{e4}", 0)), ("ab", "ab", "", ""));
    }

    proptest! {
        #[test]
        fn shown_json_means_the_same(text in any::<String>()) {
            let json = serde_json::to_string_pretty(&[&text]).unwrap();
            let shown = printable_json(&json);
            prop_assert!(!shown.contains(|c| is_obeyed(c) && c != '\n'));
            prop_assert_eq!(serde_json::from_str::<[String; 1]>(&shown).unwrap(), [text]);
        }
    }
}
