//! The XML that oned writes: documents as trees, printed as oned and as onehem print them.

use quick_xml::Reader;
use quick_xml::events::{BytesRef, Event};

/// Documents and requests larger than this are refused, in bytes.
pub const SIZE_LIMIT: usize = 4 << 20;
const DEPTH_LIMIT: usize = 64;

/// One element of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// Tag name.
    pub name: String,
    /// What is inside.
    pub content: Content,
}

/// What an element holds; oned never mixes text and elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Escaped text.
    Text(String),
    /// A CDATA section.
    Data(String),
    /// Elements.
    Children(Vec<Element>),
}

impl Element {
    /// An element with escaped text.
    pub fn text(name: &str, value: impl ToString) -> Self {
        Self { name: name.to_owned(), content: Content::Text(value.to_string()) }
    }

    /// An element with a CDATA section.
    pub fn data(name: &str, value: impl Into<String>) -> Self {
        Self { name: name.to_owned(), content: Content::Data(value.into()) }
    }

    /// An element with elements in it.
    pub fn group(name: &str, children: Vec<Element>) -> Self {
        Self { name: name.to_owned(), content: Content::Children(children) }
    }

    /// The first child of that name.
    pub fn child(&self, name: &str) -> Option<&Element> {
        self.children().iter().find(|child| child.name == name)
    }

    /// The child elements, none for text.
    pub fn children(&self) -> &[Element] {
        match &self.content {
            Content::Children(children) => children,
            _ => &[],
        }
    }

    /// The text, empty for an element with children.
    pub fn value(&self) -> &str {
        match &self.content {
            Content::Text(text) | Content::Data(text) => text,
            Content::Children(_) => "",
        }
    }

    /// On one line, empty groups with both tags: what oned sends.
    pub fn compact(&self) -> String {
        let mut out = String::new();
        self.write_compact(&mut out);
        out
    }

    /// Indented by two blanks, empty elements closed at once: what onehem hands to hooks (libxml2's format).
    pub fn pretty(&self) -> String {
        let mut out = String::new();
        self.write_pretty(&mut out, 0);
        out
    }

    fn write_compact(&self, out: &mut String) {
        out.push_str(&format!("<{}>", self.name));
        match &self.content {
            Content::Text(text) => out.push_str(&escape(text)),
            Content::Data(text) => out.push_str(&cdata(text)),
            Content::Children(children) => children.iter().for_each(|child| child.write_compact(out)),
        }
        out.push_str(&format!("</{}>", self.name));
    }

    fn write_pretty(&self, out: &mut String, depth: usize) {
        let indent = "  ".repeat(depth);
        let name = &self.name;
        match &self.content {
            Content::Text(text) if text.is_empty() => out.push_str(&format!("{indent}<{name}/>")),
            Content::Text(text) => out.push_str(&format!("{indent}<{name}>{}</{name}>", escape(text))),
            Content::Data(text) => out.push_str(&format!("{indent}<{name}>{}</{name}>", cdata(text))),
            Content::Children(children) if children.is_empty() => out.push_str(&format!("{indent}<{name}/>")),
            Content::Children(children) => {
                out.push_str(&format!("{indent}<{name}>\n"));
                for child in children {
                    child.write_pretty(out, depth + 1);
                    out.push('\n');
                }
                out.push_str(&format!("{indent}</{name}>"));
            }
        }
    }
}

/// Escapes text as oned and xmlrpc-c do: quotes stay as they are.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\r', "&#x0d;")
}

fn cdata(text: &str) -> String {
    format!("<![CDATA[{}]]>", text.replace("]]>", "]]]]><![CDATA[>"))
}

/// Reads one document; the error is a sentence.
pub fn parse(text: &str) -> Result<Element, String> {
    if text.len() > SIZE_LIMIT {
        return Err(format!("XML of {} bytes is larger than {SIZE_LIMIT}", text.len()));
    }
    let mut reader = Reader::from_str(text);
    // the innermost open element is last; the root ends up alone
    let mut open: Vec<Open> = Vec::new();
    let mut root = None;
    loop {
        match reader.read_event().map_err(|error| format!("malformed XML: {error}"))? {
            Event::Start(start) => {
                if open.len() >= DEPTH_LIMIT {
                    return Err(format!("XML nested deeper than {DEPTH_LIMIT}"));
                }
                open.push((start.name().0.to_owned(), String::new(), false, Vec::new()));
            }
            Event::Empty(start) => {
                let element = Element::text(start.name().0, "");
                attach(&mut open, &mut root, element);
            }
            Event::End(_) => {
                let (name, text, data, children) = open.pop().ok_or("an end tag too many")?;
                let content = match (children.is_empty(), data) {
                    (false, _) => Content::Children(children),
                    (true, true) => Content::Data(text),
                    (true, false) => Content::Text(text),
                };
                attach(&mut open, &mut root, Element { name, content });
            }
            Event::Text(bytes) => {
                if let Some(top) = open.last_mut() {
                    top.1.push_str(&bytes.xml10_content());
                }
            }
            Event::CData(bytes) => {
                if let Some(top) = open.last_mut() {
                    top.1.push_str(&bytes.into_inner());
                    top.2 = true;
                }
            }
            Event::GeneralRef(reference) => {
                let resolved = resolved(&reference)?;
                if let Some(top) = open.last_mut() {
                    top.1.push_str(&resolved);
                }
            }
            Event::Eof => break,
            _ => {}
        }
    }
    match (root, open.is_empty()) {
        (Some(root), true) => Ok(root),
        _ => Err("the XML document breaks off".to_owned()),
    }
}

/// The character that is referred to, by its number or its name.
fn resolved(reference: &BytesRef) -> Result<String, String> {
    let character = reference.resolve_char_ref().map_err(|error| format!("malformed XML: {error}"))?;
    if let Some(character) = character {
        return Ok(character.to_string());
    }
    let name = reference.xml10_content();
    let entity = quick_xml::escape::resolve_xml_entity(&name);
    entity.map(str::to_owned).ok_or_else(|| format!("unknown entity &{name};"))
}

/// Name, text so far, whether any of it was CDATA, elements so far.
type Open = (String, String, bool, Vec<Element>);

fn attach(open: &mut [Open], root: &mut Option<Element>, element: Element) {
    match open.last_mut() {
        Some(parent) => parent.3.push(element),
        None => *root = Some(element),
    }
}

#[cfg(test)]
pub mod shape {
    //! What two documents have in common when the values are taken away.
    use super::{Content, Element};

    /// Element names in order with their nesting, and which values are CDATA.
    pub fn of(element: &Element) -> String {
        let mut out = String::new();
        write(element, 0, &mut out);
        out
    }

    fn write(element: &Element, depth: usize, out: &mut String) {
        let kind = match &element.content {
            Content::Data(_) => " data",
            Content::Text(text) if !text.is_empty() => " text",
            _ => "",
        };
        out.push_str(&format!("{}{}{kind}\n", "  ".repeat(depth), element.name));
        element.children().iter().for_each(|child| write(child, depth + 1, out));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_oned_and_as_onehem() {
        let tree = Element::group(
            "VM",
            vec![
                Element::text("NAME", "a<b"),
                Element::group("MONITORING", vec![]),
                Element::group("T", vec![Element::data("X", "1 & 2 ]]> 3"), Element::data("E", "")]),
            ],
        );
        assert_eq!(
            tree.compact(),
            "<VM><NAME>a&lt;b</NAME><MONITORING></MONITORING><T><X><![CDATA[1 & 2 ]]]]><![CDATA[> 3]]></X><E><![CDATA[]]></E></T></VM>"
        );
        assert!(tree.pretty().contains("  <MONITORING/>\n  <T>\n    <X>"));
        let back = parse(&tree.compact()).unwrap();
        assert_eq!(back.child("NAME").unwrap().value(), "a<b");
        assert_eq!(back.child("T").unwrap().child("X").unwrap().value(), "1 & 2 ]]> 3");
    }

    #[test]
    fn refuses_damaged_documents() {
        for text in ["", "<a>", "<a></b>", "<a>&nope;</a>", "</a>"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse(&"<a>".repeat(100)).is_err());
    }

    #[test]
    fn a_captured_hook_document_survives_the_round_trip() {
        use base64::Engine as _;
        let stdin = include_str!("../../../tests/fixtures/opennebula/hook-b-DONE-LCM_INIT.1.stdin");
        let xml = String::from_utf8(base64::engine::general_purpose::STANDARD.decode(stdin.trim()).unwrap())
            .unwrap();
        assert_eq!(parse(&xml).unwrap().pretty(), xml);
    }
}
