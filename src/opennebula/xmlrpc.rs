//! XML-RPC as oned speaks it: one call's body, and what an answer says. No I/O.

use super::xml::{self, Element, XmlError};
use quick_xml::escape::escape;
use std::fmt::Write as _;

/// An answer has about a dozen elements; the documents in it are text.
const MAX_ELEMENTS: usize = 2000;

/// An argument of a call.
#[derive(Clone, Debug)]
pub enum Argument<'a> {
    /// `<i4>`
    Int(i32),
    /// `<boolean>`
    Bool(bool),
    /// `<string>`
    Text(&'a str),
}

/// A value in an answer, as far as oned uses them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `<boolean>`
    Bool(bool),
    /// `<i4>`, `<i8>`
    Int(i64),
    /// `<string>`, and a value without a type.
    Text(String),
    /// `<array>`
    Array(Vec<Value>),
    /// `<struct>`, its members in their order.
    Struct(Vec<(String, Value)>),
    /// `<nil>`
    Nil,
}

/// What oned answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum XmlRpcAnswer {
    /// `[true, value, …]`.
    Success(Value),
    /// `[false, message, code, …]`.
    Failure {
        /// oned's own words.
        message: String,
        /// 0x100, 0x200, …
        code: i64,
    },
    /// A fault of the XML-RPC layer.
    Fault {
        /// Of the XML-RPC library.
        code: i64,
        /// Its own words.
        message: String,
    },
}

/// Why an answer means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// It is not XML as oned writes it.
    #[error(transparent)]
    Xml(#[from] XmlError),
    /// It is XML, but no answer.
    #[error("not an XML-RPC answer of oned: {0}")]
    Shape(&'static str),
}

/// Why a call can't be written down.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("argument {index} holds a character that XML can't carry")]
pub struct Unwritable {
    index: usize,
}

/// The body of a call. The first argument is the session.
pub fn request(method: &str, arguments: &[Argument<'_>]) -> Result<String, Unwritable> {
    let mut body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<methodCall><methodName>{}</methodName><params>",
        escape(method)
    );
    for (index, argument) in arguments.iter().enumerate() {
        body.push_str("<param><value>");
        // Writing to a String can't fail.
        let _ = match argument {
            Argument::Int(number) => write!(body, "<i4>{number}</i4>"),
            Argument::Bool(yes) => write!(body, "<boolean>{}</boolean>", u8::from(*yes)),
            Argument::Text(text) => {
                if !text.chars().all(is_xml_char) {
                    return Err(Unwritable { index });
                }
                // A bare carriage return would arrive as a line feed.
                write!(body, "<string>{}</string>", escape(*text).replace('\r', "&#13;"))
            }
        };
        body.push_str("</value></param>");
    }
    body.push_str("</params></methodCall>\n");
    Ok(body)
}

fn is_xml_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// Reads an answer. Further members behind those that are known are ignored.
pub fn answer(text: &str) -> Result<XmlRpcAnswer, AnswerError> {
    let root = xml::tree(text, "methodResponse", MAX_ELEMENTS)?;
    match (root.child("fault"), root.child("params")) {
        (Some(fault), None) => read_fault(fault),
        (None, Some(params)) => read_params(params),
        _ => Err(AnswerError::Shape("neither one params nor one fault")),
    }
}

fn read_fault(fault: &Element) -> Result<XmlRpcAnswer, AnswerError> {
    let value = value(fault.child("value").ok_or(AnswerError::Shape("a fault without a value"))?)?;
    let Value::Struct(members) = value else {
        return Err(AnswerError::Shape("a fault that is no struct"));
    };
    let member = |name: &str| members.iter().find(|(key, _)| key == name).map(|(_, value)| value);
    let code = match member("faultCode") {
        Some(Value::Int(code)) => *code,
        Some(Value::Text(code)) => code.trim().parse().unwrap_or(0),
        _ => 0,
    };
    let message = match member("faultString") {
        Some(Value::Text(message)) => message.clone(),
        _ => String::new(),
    };
    Ok(XmlRpcAnswer::Fault { code, message })
}

fn read_params(params: &Element) -> Result<XmlRpcAnswer, AnswerError> {
    let first = params
        .child("param")
        .and_then(|param| param.child("value"))
        .ok_or(AnswerError::Shape("no value in it"))?;
    let Value::Array(values) = value(first)? else {
        return Err(AnswerError::Shape("no array in it"));
    };
    let mut values = values.into_iter();
    match (values.next(), values.next(), values.next()) {
        (Some(Value::Bool(true)), Some(value), _) => Ok(XmlRpcAnswer::Success(value)),
        (Some(Value::Bool(false)), Some(Value::Text(message)), Some(Value::Int(code))) => {
            Ok(XmlRpcAnswer::Failure { message, code })
        }
        _ => Err(AnswerError::Shape("neither [true, value, …] nor [false, message, code, …]")),
    }
}

fn value(element: &Element) -> Result<Value, AnswerError> {
    let [typed] = element.children.as_slice() else {
        return if element.children.is_empty() {
            Ok(Value::Text(element.text.clone()))
        } else {
            Err(AnswerError::Shape("a value of two types"))
        };
    };
    match typed.name.as_str() {
        "boolean" => match typed.text.trim() {
            "1" | "true" => Ok(Value::Bool(true)),
            "0" | "false" => Ok(Value::Bool(false)),
            _ => Err(AnswerError::Shape("a boolean that is neither 0 nor 1")),
        },
        "i4" | "int" | "i8" | "ex:i8" => typed
            .text
            .trim()
            .parse()
            .map(Value::Int)
            .map_err(|_| AnswerError::Shape("an integer that is none")),
        "array" => {
            let data = typed.child("data").ok_or(AnswerError::Shape("an array without data"))?;
            data.all("value").map(value).collect::<Result<_, _>>().map(Value::Array)
        }
        "struct" => {
            let mut members = Vec::new();
            for member in typed.all("member") {
                let (Some(name), Some(inner)) = (member.child("name"), member.child("value")) else {
                    return Err(AnswerError::Shape("a struct member without name or value"));
                };
                members.push((name.text.trim().to_owned(), value(inner)?));
            }
            Ok(Value::Struct(members))
        }
        "nil" | "ex:nil" => Ok(Value::Nil),
        // string, and the types that oned does not use
        _ if typed.children.is_empty() => Ok(Value::Text(typed.text.clone())),
        _ => Err(AnswerError::Shape("a value of an unknown type")),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(in crate::opennebula) const ANSWERS: &[&str] = &[
        include_str!("../../tests/fixtures/opennebula/rpc.imagepool.info.xml"),
        include_str!("../../tests/fixtures/opennebula/rpc.system.version.xml"),
        include_str!("../../tests/fixtures/opennebula/rpc.unknown-method.xml"),
        include_str!("../../tests/fixtures/opennebula/rpc.vm.action.wrongstate.xml"),
        include_str!("../../tests/fixtures/opennebula/rpc.vm.info.badauth.xml"),
        include_str!("../../tests/fixtures/opennebula/rpc.vm.info.noexists.xml"),
        include_str!("../../tests/fixtures/opennebula/rpc.vm.info.ok.xml"),
        include_str!("../../tests/fixtures/opennebula/rpc.vm.update.ok.xml"),
        include_str!("../../tests/fixtures/opennebula/rpc.vmpool.infoextended.xml"),
    ];

    /// An answer with these values, in the form that oned writes.
    pub(in crate::opennebula) fn answer_of(values: &str) -> String {
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n<methodResponse>\r\n<params>\r\n<param><value><array><data>\r\n\
             {values}</data></array></value></param>\r\n</params>\r\n</methodResponse>\r\n"
        )
    }

    /// `[true, "text", 0]`.
    pub(in crate::opennebula) fn success(text: &str) -> String {
        answer_of(&format!(
            "<value><boolean>1</boolean></value>\r\n<value><string>{}</string></value>\r\n<value><i4>0</i4></value>\r\n",
            escape(text)
        ))
    }

    #[test]
    fn reads_what_oned_answered() {
        assert_eq!(answer(ANSWERS[1]).unwrap(), XmlRpcAnswer::Success(Value::Text("7.4.0".into())));
        assert_eq!(
            answer(ANSWERS[2]).unwrap(),
            XmlRpcAnswer::Fault { code: -506, message: "Method 'one.nope' not defined".into() }
        );
        let XmlRpcAnswer::Failure { message, code: 0x800 } = answer(ANSWERS[3]).unwrap() else { panic!() };
        assert!(message.ends_with("not available for state RUNNING"), "{message}");
        assert!(matches!(answer(ANSWERS[4]).unwrap(), XmlRpcAnswer::Failure { code: 0x100, .. }));
        assert!(matches!(answer(ANSWERS[5]).unwrap(), XmlRpcAnswer::Failure { code: 0x400, .. }));
        assert_eq!(answer(ANSWERS[7]).unwrap(), XmlRpcAnswer::Success(Value::Int(2)));
        let XmlRpcAnswer::Success(Value::Text(vm)) = answer(ANSWERS[6]).unwrap() else { panic!() };
        assert!(vm.starts_with("<VM><ID>2</ID>") && vm.ends_with("</VM>"));
    }

    #[test]
    fn is_lenient_in_form_only() {
        let bare = "<methodResponse><params><param><value><array><data><value><boolean> true </boolean></value>\
            <value>bare &amp; text</value><value><int>0</int></value><value><nil/></value>\
            </data></array></value></param></params></methodResponse>";
        assert_eq!(answer(bare).unwrap(), XmlRpcAnswer::Success(Value::Text("bare & text".into())));
        let empty = answer_of("<value><boolean>1</boolean></value><value/>");
        assert_eq!(answer(&empty).unwrap(), XmlRpcAnswer::Success(Value::Text(String::new())));
        for values in [
            "",
            "<value><boolean>1</boolean></value>",
            "<value><boolean>2</boolean></value><value>x</value>",
            "<value><i4>1</i4></value><value>x</value>",
            "<value>1</value><value>x</value>",
            "<value><boolean>0</boolean></value><value>x</value>",
            "<value><boolean>0</boolean></value><value>x</value><value>256</value>",
            "<value><boolean>1</boolean></value><value><i4>99999999999999999999</i4></value>",
            "<value><boolean>1</boolean><boolean>0</boolean></value><value>x</value>",
        ] {
            assert!(answer(&answer_of(values)).is_err(), "{values}");
        }
        assert!(answer("<html><body>It works!</body></html>").is_err());
        assert!(answer("<methodResponse><fault/><params/></methodResponse>").is_err());
    }

    #[test]
    fn a_truncated_answer_is_never_an_answer() {
        for text in ANSWERS {
            let end = text.trim_end().len();
            // Everywhere in the frame, and here and there in the document that it carries.
            for cut in (0..end).filter(|cut| *cut < 300 || end - *cut < 300 || cut % 61 == 0) {
                if let Some(part) = text.get(..cut) {
                    assert!(answer(part).is_err(), "cut at {cut} of {end}");
                }
            }
            assert!(answer(&text[..end]).is_ok());
        }
    }

    #[test]
    fn writes_arguments_so_that_nothing_breaks_out() {
        let hostile = "a]]></string>&<value>\"'\r\n\tü";
        let body =
            request("one.vm.update", &[Argument::Text(hostile), Argument::Int(-2), Argument::Bool(true)])
                .unwrap();
        let root = xml::tree(&body, "methodCall", 100).unwrap();
        assert_eq!(root.child("methodName").unwrap().text, "one.vm.update");
        let values: Vec<Value> = root
            .child("params")
            .unwrap()
            .all("param")
            .map(|param| value(param.child("value").unwrap()).unwrap())
            .collect();
        assert_eq!(values, [Value::Text(hostile.into()), Value::Int(-2), Value::Bool(true)]);
        assert_eq!(request("x", &[Argument::Int(1), Argument::Text("\u{1b}")]), Err(Unwritable { index: 1 }));
    }

    proptest! {
        #[test]
        fn any_text_survives_the_way_through(text in any::<String>()) {
            if let Ok(body) = request("m", &[Argument::Text(&text)]) {
                let root = xml::tree(&body, "methodCall", 100).unwrap();
                let read = value(root.child("params").unwrap().child("param").unwrap().child("value").unwrap());
                prop_assert_eq!(read.unwrap(), Value::Text(text));
            }
        }

        #[test]
        fn a_damaged_answer_never_panics(which in 0..ANSWERS.len(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = ANSWERS[which].as_bytes().to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = answer(&String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn garbage_is_no_answer(text in "\\PC{0,200}") {
            prop_assert!(answer(&text).is_err());
        }
    }
}
