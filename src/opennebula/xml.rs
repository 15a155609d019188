//! A strict look at an XML text before anything is believed of it.
//!
//! serde over quick-xml does not mind a wrong root element or text behind it; this does.

use crate::text::excerpt;
use quick_xml::Reader;
use quick_xml::events::{BytesRef, Event};
use std::borrow::Cow;

/// Deeper nesting than any answer of oned has (a host with NUMA nodes: 7).
const MAX_DEPTH: usize = 48;

/// Why a text is not what oned writes; says where, never what (it may be secret).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XmlError {
    #[error("not well-formed at byte {at}: {detail}")]
    Malformed { at: u64, detail: String },
    #[error("ends before its last element is closed")]
    Truncated,
    #[error("a document type or processing instruction at byte {at}, which oned never sends")]
    Forbidden { at: u64 },
    #[error("an unknown entity at byte {at}")]
    UnknownEntity { at: u64 },
    #[error("nested more than {MAX_DEPTH} deep")]
    TooDeep,
    #[error("begins with {found:?} instead of {expected:?}")]
    WrongRoot { expected: &'static str, found: String },
    #[error("text or a second element outside of the first element, at byte {at}")]
    NotOneElement { at: u64 },
    #[error("more than {limit} elements")]
    TooManyElements { limit: usize },
}

/// What [`walk`] meets.
pub(super) enum Piece<'a> {
    Open(&'a str),
    Text(Cow<'a, str>),
    Close,
}

/// Visits a whole document whose outermost element must be `root`.
///
/// Refuses document types, processing instructions, entities other than the five predefined ones, deep
/// nesting, and everything that is not exactly one complete element.
pub(super) fn walk(
    text: &str,
    root: &'static str,
    mut visit: impl FnMut(Piece<'_>) -> Result<(), XmlError>,
) -> Result<(), XmlError> {
    let mut reader = Reader::from_str(text);
    let config = reader.config_mut();
    config.check_end_names = true;
    config.check_comments = true;
    config.allow_unmatched_ends = false;
    config.allow_dangling_amp = false;
    config.expand_empty_elements = true;
    let mut depth = 0usize;
    let mut seen_root = false;
    loop {
        let at = reader.buffer_position();
        let event = reader.read_event().map_err(|error| XmlError::Malformed {
            at: reader.error_position(),
            detail: excerpt(&error.to_string()),
        })?;
        match event {
            Event::Start(start) => {
                let name = start.name();
                let name: &str = name.as_ref();
                match depth {
                    0 if seen_root => return Err(XmlError::NotOneElement { at }),
                    0 => is_root(name, root)?,
                    MAX_DEPTH => return Err(XmlError::TooDeep),
                    _ => {}
                }
                seen_root = true;
                depth += 1;
                visit(Piece::Open(name))?;
            }
            Event::End(_) => {
                depth = depth.checked_sub(1).ok_or(XmlError::NotOneElement { at })?;
                visit(Piece::Close)?;
            }
            Event::Text(piece) => {
                let piece = piece.xml10_content();
                if depth > 0 {
                    visit(Piece::Text(piece))?;
                } else if !piece.trim_start_matches('\u{feff}').trim().is_empty() {
                    return Err(XmlError::NotOneElement { at });
                }
            }
            Event::CData(_) | Event::GeneralRef(_) if depth == 0 => {
                return Err(XmlError::NotOneElement { at });
            }
            Event::CData(piece) => visit(Piece::Text(piece.xml10_content()))?,
            Event::GeneralRef(reference) => {
                let meant = resolved(&reference).ok_or(XmlError::UnknownEntity { at })?;
                visit(Piece::Text(Cow::Owned(meant.to_string())))?;
            }
            Event::DocType(_) | Event::PI(_) => return Err(XmlError::Forbidden { at }),
            Event::Decl(_) if at > 3 => return Err(XmlError::Forbidden { at }),
            Event::Decl(_) | Event::Comment(_) | Event::Empty(_) => {}
            Event::Eof if depth > 0 || !seen_root => return Err(XmlError::Truncated),
            Event::Eof => return Ok(()),
        }
    }
}

fn is_root(name: &str, root: &'static str) -> Result<(), XmlError> {
    match name == root {
        true => Ok(()),
        false => Err(XmlError::WrongRoot { expected: root, found: excerpt(name).chars().take(40).collect() }),
    }
}

/// The character that a reference stands for.
fn resolved(reference: &BytesRef<'_>) -> Option<char> {
    reference.resolve_char_ref().ok()?.or_else(|| predefined(&reference.xml10_content()))
}

fn predefined(name: &str) -> Option<char> {
    match name {
        "lt" => Some('<'),
        "gt" => Some('>'),
        "amp" => Some('&'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => None,
    }
}

/// An element with its text and children, for answers whose shape is small and known.
#[derive(Debug, Default)]
pub(super) struct Element {
    pub name: String,
    pub text: String,
    pub children: Vec<Element>,
}

impl Element {
    /// The children of that name.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> + 'a {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The first child of that name.
    pub(super) fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }
}

/// Reads a small document into a tree of at most `limit` elements.
pub(super) fn tree(text: &str, root: &'static str, limit: usize) -> Result<Element, XmlError> {
    let mut open: Vec<Element> = Vec::new();
    let mut done = Element::default();
    let mut count = 0usize;
    walk(text, root, |piece| {
        match piece {
            Piece::Open(name) => {
                count += 1;
                if count > limit {
                    return Err(XmlError::TooManyElements { limit });
                }
                open.push(Element { name: name.to_owned(), ..Element::default() });
            }
            Piece::Text(text) => {
                if let Some(element) = open.last_mut() {
                    element.text.push_str(&text);
                }
            }
            Piece::Close => {
                if let Some(element) = open.pop() {
                    match open.last_mut() {
                        Some(parent) => parent.children.push(element),
                        None => done = element,
                    }
                }
            }
        }
        Ok(())
    })?;
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Element, XmlError> {
        tree(text, "A", 100)
    }

    #[test]
    fn reads_text_cdata_and_references() {
        let root =
            read("<?xml version=\"1.0\"?>\n<A><B>1 &lt; &#50;<![CDATA[ & <3>]]></B><C/></A>\n").unwrap();
        assert_eq!(root.child("B").unwrap().text, "1 < 2 & <3>");
        assert_eq!((root.child("C").unwrap().text.as_str(), root.all("B").count()), ("", 1));
    }

    #[test]
    fn refuses_what_oned_never_sends() {
        for text in [
            "",
            "  ",
            "<A>",
            "<A></B>",
            "<A></A><A/>",
            "<A/>x",
            "x<A/>",
            "<A/></A>",
            "<B/>",
            "<!DOCTYPE A [<!ENTITY x \"y\">]><A>&x;</A>",
            "<A>&x;</A>",
            "<A>&nbsp;</A>",
            "<A>&#0;</A>",
            "<A>&#xD800;</A>",
            "<A>&lt</A>",
            "<A>a & b</A>",
            "<A><?php x ?></A>",
            "<A><![CDATA[x</A>",
            "<A><B </A>",
            "<A><!-- x</A>",
        ] {
            assert!(read(text).is_err(), "{text:?}");
        }
        assert_eq!(read(&"<A>".repeat(1000)).unwrap_err(), XmlError::TooDeep);
        let wide = format!("<A>{}</A>", "<B/>".repeat(100));
        assert_eq!(read(&wide).unwrap_err(), XmlError::TooManyElements { limit: 100 });
    }
}
