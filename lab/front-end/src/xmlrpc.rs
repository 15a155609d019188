//! XML-RPC as oned speaks it, to the byte.

use crate::xml::{self, Element, escape};

/// A call: method and arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// For example `one.vm.info`.
    pub method: String,
    /// The session string comes first.
    pub arguments: Vec<Value>,
}

/// The value types that OpenNebula's calls use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `<string>` or no type at all.
    Text(String),
    /// `<int>`, `<i4>`, `<i8>`.
    Number(i64),
    /// `<boolean>`.
    Truth(bool),
}

/// oned's error codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Wrong session string.
    Authentication = 0x100,
    /// No such object.
    NoExists = 0x400,
    /// Not possible in this state.
    Action = 0x800,
    /// Wrong arguments.
    Api = 0x1000,
    /// Something else.
    Internal = 0x2000,
    /// An object could not be made.
    Allocate = 0x4000,
}

/// What a method answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// `[true, value, 0]`
    Success(Value),
    /// `[false, message, code, object id, -1]`
    Failure {
        /// Already with the method in brackets before it.
        message: String,
        /// Why.
        code: Code,
        /// The object asked for, or -1.
        object: i64,
    },
    /// A `<fault>`, for what is no call of an existing method.
    Fault {
        /// xmlrpc-c's number, -506 for an unknown method.
        code: i32,
        /// In words.
        message: String,
    },
}

impl Answer {
    /// The fault for a method that does not exist.
    pub fn unknown_method(method: &str) -> Self {
        Self::Fault { code: -506, message: format!("Method '{method}' not defined") }
    }

    /// The HTTP body, with xmlrpc-c's line ends.
    pub fn body(&self) -> String {
        let inner = match self {
            Self::Success(value) => array(&[tagged(value), "<i4>0</i4>".into()], true),
            Self::Failure { message, code, object } => array(
                &[
                    tagged(&Value::Text(message.clone())),
                    format!("<i4>{}</i4>", *code as i32),
                    format!("<i4>{object}</i4>"),
                    "<i8>-1</i8>".into(),
                ],
                false,
            ),
            Self::Fault { code, message } => format!(
                "<fault>\r\n<value><struct>\r\n<member><name>faultCode</name>\r\n<value><i4>{code}</i4></value></member>\r\n\
                 <member><name>faultString</name>\r\n<value><string>{}</string></value></member>\r\n</struct></value>\r\n</fault>\r\n",
                escape(message)
            ),
        };
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n<methodResponse>\r\n{inner}</methodResponse>\r\n"
        )
    }
}

fn array(values: &[String], success: bool) -> String {
    let mut out = String::from("<params>\r\n<param><value><array><data>\r\n");
    out.push_str(&format!("<value><boolean>{}</boolean></value>\r\n", u8::from(success)));
    values.iter().for_each(|value| out.push_str(&format!("<value>{value}</value>\r\n")));
    out.push_str("</data></array></value></param>\r\n</params>\r\n");
    out
}

fn tagged(value: &Value) -> String {
    match value {
        Value::Text(text) => format!("<string>{}</string>", escape(text)),
        Value::Number(number) => format!("<i4>{number}</i4>"),
        Value::Truth(truth) => format!("<boolean>{}</boolean>", u8::from(*truth)),
    }
}

/// Reads a request body; the error is a sentence.
pub fn parse_call(body: &str) -> Result<Call, String> {
    let root = xml::parse(body)?;
    let method = match root.child("methodName") {
        Some(name) if root.name == "methodCall" => name.value().trim().to_owned(),
        _ => return Err("not a methodCall".to_owned()),
    };
    let parameters = root.child("params").map(Element::children).unwrap_or_default();
    let arguments = parameters
        .iter()
        .map(|parameter| {
            parameter.child("value").ok_or_else(|| "a param without value".to_owned()).and_then(value)
        })
        .collect::<Result<_, _>>()?;
    Ok(Call { method, arguments })
}

fn value(element: &Element) -> Result<Value, String> {
    let Some(typed) = element.children().first() else {
        return Ok(Value::Text(element.value().to_owned()));
    };
    let text = typed.value();
    Ok(match typed.name.as_str() {
        "string" => Value::Text(text.to_owned()),
        "int" | "i4" | "i8" => {
            Value::Number(text.trim().parse().map_err(|_| format!("{text:?} is no integer"))?)
        }
        "boolean" => match text.trim() {
            "1" => Value::Truth(true),
            "0" => Value::Truth(false),
            _ => return Err(format!("{text:?} is no boolean")),
        },
        other => return Err(format!("values of type {other} are not used by OpenNebula's calls")),
    })
}

/// A call as a client sends it; what the `control` command needs.
pub fn request(method: &str, arguments: &[Value]) -> String {
    let parameters: String =
        arguments.iter().map(|value| format!("<param><value>{}</value></param>", tagged(value))).collect();
    format!(
        "<?xml version=\"1.0\"?><methodCall><methodName>{}</methodName><params>{parameters}</params></methodCall>",
        escape(method)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(message: &str, code: Code, object: i64) -> String {
        Answer::Failure { message: message.into(), code, object }.body()
    }

    #[test]
    fn answers_are_byte_for_byte_those_of_oned() {
        assert_eq!(
            Answer::Success(Value::Text("7.4.0".into())).body(),
            include_str!("../../../tests/fixtures/opennebula/rpc.system.version.xml")
        );
        assert_eq!(
            Answer::Success(Value::Number(2)).body(),
            include_str!("../../../tests/fixtures/opennebula/rpc.vm.update.ok.xml")
        );
        assert_eq!(
            Answer::unknown_method("one.nope").body(),
            include_str!("../../../tests/fixtures/opennebula/rpc.unknown-method.xml")
        );
        assert_eq!(
            failure(
                "[one.vm.action] Error performing action \"resume\": This action is not available for state RUNNING",
                Code::Action,
                -1
            ),
            include_str!("../../../tests/fixtures/opennebula/rpc.vm.action.wrongstate.xml")
        );
        assert_eq!(
            failure("[one.vm.info] User couldn't be authenticated, aborting call.", Code::Authentication, -1),
            include_str!("../../../tests/fixtures/opennebula/rpc.vm.info.badauth.xml")
        );
        assert_eq!(
            failure("[one.vm.info] Error getting virtual machine [999].", Code::NoExists, 999),
            include_str!("../../../tests/fixtures/opennebula/rpc.vm.info.noexists.xml")
        );
    }

    #[test]
    fn reads_calls_of_any_client() {
        let body = "<?xml version='1.0'?>\n<methodCall>\n<methodName>one.vm.info</methodName>\n<params>\n<param>\n<value><string>o:p&amp;w</string></value>\n</param><param><value><int>7</int></value></param><param><value><boolean>0</boolean></value></param><param><value>plain</value></param>\n</params>\n</methodCall>\n";
        let call = parse_call(body).unwrap();
        assert_eq!(
            call.arguments,
            [Value::Text("o:p&w".into()), Value::Number(7), Value::Truth(false), Value::Text("plain".into())]
        );
        assert_eq!(
            parse_call(&request("lab.control", &[Value::Text("a<b".into())])).unwrap().arguments[0],
            Value::Text("a<b".into())
        );
        for bad in [
            "",
            "<a/>",
            "<methodCall/>",
            "<methodCall><methodName>x</methodName><params><param><value><int>y</int></value></param></params></methodCall>",
        ] {
            assert!(parse_call(bad).is_err(), "{bad}");
        }
    }
}
