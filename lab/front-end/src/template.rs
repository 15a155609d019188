//! OpenNebula templates: `NAME = "value"` and `NAME = [ KEY = "value", … ]`, or the same as XML.

use serde::{Deserialize, Serialize};

use crate::xml::{self, Content, Element};

/// The value of a template attribute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Attribute {
    /// `NAME = "value"`
    Single(String),
    /// `NAME = [ KEY = "value", … ]`, sorted by key as oned keeps it.
    Vector(Vector),
}

/// Keys and values of a vector attribute, sorted by key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vector(std::collections::BTreeMap<String, String>);

impl Vector {
    /// The value of a key; keys are upper case.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Sets a key, replacing what was there.
    pub fn set(&mut self, key: &str, value: impl ToString) {
        self.0.insert(key.to_ascii_uppercase(), value.to_string());
    }

    /// Takes a key out.
    pub fn remove(&mut self, key: &str) {
        self.0.remove(key);
    }

    /// Sets a key unless it is there already.
    pub fn set_default(&mut self, key: &str, value: impl ToString) {
        self.0.entry(key.to_ascii_uppercase()).or_insert_with(|| value.to_string());
    }

    /// Keys and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    fn element(&self, name: &str) -> Element {
        Element::group(name, self.0.iter().map(|(key, value)| Element::data(key, value.clone())).collect())
    }
}

/// A list of attributes, sorted by name, several of one name in the order given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template(Vec<(String, Attribute)>);

impl Template {
    /// Reads text or XML; the error is a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > xml::SIZE_LIMIT {
            return Err(format!("template of {} bytes is larger than {}", text.len(), xml::SIZE_LIMIT));
        }
        let trimmed = text.trim();
        if trimmed.starts_with('<') {
            Self::from_xml(&xml::parse(trimmed)?)
        } else {
            Parser::new(trimmed).template()
        }
    }

    fn from_xml(root: &Element) -> Result<Self, String> {
        let mut template = Self::default();
        for child in root.children() {
            let attribute = match &child.content {
                Content::Children(children) => {
                    let mut vector = Vector::default();
                    children.iter().for_each(|entry| vector.set(&entry.name, entry.value()));
                    Attribute::Vector(vector)
                }
                Content::Text(text) | Content::Data(text) => Attribute::Single(text.clone()),
            };
            template.add(&child.name, attribute);
        }
        Ok(template)
    }

    /// Adds an attribute beside others of that name.
    pub fn add(&mut self, name: &str, attribute: Attribute) {
        self.0.push((name.to_ascii_uppercase(), attribute));
        self.0.sort_by(|left, right| left.0.cmp(&right.0));
    }

    /// Sets a single value, replacing every attribute of that name.
    pub fn set(&mut self, name: &str, value: impl ToString) {
        self.remove(name);
        self.add(name, Attribute::Single(value.to_string()));
    }

    /// Sets a single value unless the attribute is there already.
    pub fn set_default(&mut self, name: &str, value: impl ToString) {
        if !self.0.iter().any(|(found, _)| found == name) {
            self.set(name, value);
        }
    }

    /// Takes out every attribute of that name.
    pub fn remove(&mut self, name: &str) -> Vec<Attribute> {
        let (gone, kept) = std::mem::take(&mut self.0).into_iter().partition(|(found, _)| found == name);
        self.0 = kept;
        let gone: Vec<(String, Attribute)> = gone;
        gone.into_iter().map(|(_, attribute)| attribute).collect()
    }

    /// The first single value of that name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find_map(|(found, attribute)| match attribute {
            Attribute::Single(value) if found == name => Some(value.as_str()),
            _ => None,
        })
    }

    /// The vector attributes of that name, in order.
    pub fn vectors<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Vector> + 'a {
        self.0.iter().filter_map(move |(found, attribute)| match attribute {
            Attribute::Vector(vector) if found == name => Some(vector),
            _ => None,
        })
    }

    /// The vector attributes of that name, to change them.
    pub fn vectors_mut<'a>(&'a mut self, name: &'a str) -> impl Iterator<Item = &'a mut Vector> + 'a {
        self.0.iter_mut().filter_map(move |(found, attribute)| match attribute {
            Attribute::Vector(vector) if found == name => Some(vector),
            _ => None,
        })
    }

    /// Takes out the vector attributes of that name for which the test fails.
    pub fn retain(&mut self, name: &str, keep: impl Fn(&Vector) -> bool) {
        self.0.retain(|(found, attribute)| match attribute {
            Attribute::Vector(vector) if found == name => keep(vector),
            _ => true,
        });
    }

    /// Replaces by name what the other one holds (`one.*.update`, append).
    pub fn merge(&mut self, other: Self) {
        for (name, _) in &other.0 {
            self.remove(name);
        }
        other.0.into_iter().for_each(|(name, attribute)| self.add(&name, attribute));
    }

    /// Takes out the attributes for which the test on the name holds.
    pub fn split(&mut self, test: impl Fn(&str) -> bool) -> Self {
        let (matching, rest) = std::mem::take(&mut self.0).into_iter().partition(|(name, _)| test(name));
        self.0 = rest;
        Self(matching)
    }

    /// As it stands in documents, values in CDATA.
    pub fn element(&self, name: &str) -> Element {
        let children = self
            .0
            .iter()
            .map(|(name, attribute)| match attribute {
                Attribute::Single(value) => Element::data(name, value.clone()),
                Attribute::Vector(vector) => vector.element(name),
            })
            .collect();
        Element::group(name, children)
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        Self { rest: text }
    }

    fn template(mut self) -> Result<Template, String> {
        let mut template = Template::default();
        loop {
            self.skip_blank();
            if self.rest.is_empty() {
                return Ok(template);
            }
            let name = self.name()?;
            self.expect('=')?;
            self.skip_spaces();
            let attribute = if self.rest.starts_with('[') {
                self.rest = &self.rest[1..];
                Attribute::Vector(self.vector()?)
            } else {
                Attribute::Single(self.value(&['\n'])?)
            };
            template.add(&name, attribute);
        }
    }

    fn vector(&mut self) -> Result<Vector, String> {
        let mut vector = Vector::default();
        loop {
            self.skip_blank();
            if let Some(rest) = self.rest.strip_prefix(']') {
                self.rest = rest;
                return Ok(vector);
            }
            let key = self.name()?;
            self.expect('=')?;
            self.skip_spaces();
            let value = self.value(&[',', ']', '\n'])?;
            vector.set(&key, value);
            self.skip_blank();
            if let Some(rest) = self.rest.strip_prefix(',') {
                self.rest = rest;
            } else if !self.rest.starts_with(']') {
                return Err(self.error("expected , or ]"));
            }
        }
    }

    fn name(&mut self) -> Result<String, String> {
        let end = self
            .rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || "_-./".contains(c)))
            .unwrap_or(self.rest.len());
        if end == 0 {
            return Err(self.error("expected an attribute name"));
        }
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        Ok(name.to_ascii_uppercase())
    }

    fn expect(&mut self, wanted: char) -> Result<(), String> {
        self.skip_spaces();
        match self.rest.strip_prefix(wanted) {
            Some(rest) => {
                self.rest = rest;
                Ok(())
            }
            None => Err(self.error(&format!("expected {wanted}"))),
        }
    }

    fn value(&mut self, ends: &[char]) -> Result<String, String> {
        let Some(quoted) = self.rest.strip_prefix('"') else {
            let end = self.rest.find(ends).unwrap_or(self.rest.len());
            let (value, rest) = self.rest.split_at(end);
            self.rest = rest;
            return Ok(value.trim().to_owned());
        };
        let mut value = String::new();
        let mut characters = quoted.char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    self.rest = &quoted[at + 1..];
                    return Ok(value);
                }
                '\\' => match characters.next() {
                    Some((_, '"')) => value.push('"'),
                    Some((_, other)) => value.extend(['\\', other]),
                    None => value.push('\\'),
                },
                other => value.push(other),
            }
        }
        Err(self.error("a quote is not closed"))
    }

    fn skip_spaces(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    fn skip_blank(&mut self) {
        loop {
            self.rest = self.rest.trim_start();
            if !self.rest.starts_with('#') {
                return;
            }
            self.rest = self.rest.find('\n').map_or("", |end| &self.rest[end..]);
        }
    }

    fn error(&self, what: &str) -> String {
        let near: String = self.rest.chars().take(20).collect();
        format!("syntax error, {what} at: {near}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_text_and_xml_alike() {
        let text = "# a comment\nNAME = db\nCPU=\"0.1\"\nDISK = [ IMAGE_ID = 7,\n  target = \"vda\" ]\nDISK=[TYPE=fs, SIZE=10]\nCONTEXT = [ FOO = \"a \\\"b\\\"\" ]\n";
        let template = Template::parse(text).unwrap();
        assert_eq!(template.get("NAME"), Some("db"));
        assert_eq!(template.vectors("DISK").count(), 2);
        assert_eq!(template.vectors("DISK").next().unwrap().get("TARGET"), Some("vda"));
        assert_eq!(template.vectors("CONTEXT").next().unwrap().get("FOO"), Some("a \"b\""));
        assert_eq!(Template::parse(&template.element("TEMPLATE").compact()).unwrap(), template);
    }

    #[test]
    fn says_where_a_template_is_wrong() {
        for text in ["NAME", "NAME = \"open", "D = [ A = 1", "D = [ A = 1 B = 2 ]x = [", "= 1"] {
            assert!(Template::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn merging_replaces_by_name() {
        let mut template = Template::parse("A = 1\nB = 2").unwrap();
        template.merge(Template::parse("B = 3\nC = 4").unwrap());
        assert_eq!(template, Template::parse("A = 1\nB = 3\nC = 4").unwrap());
    }
}
