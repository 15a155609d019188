//! XML-RPC answers, and the documents in them.

use super::{assert_error, documents};
use onemirror::opennebula::xmlrpc::{Argument, Value, XmlRpcAnswer, answer, request};

/// Texts of an answer are documents; what is sent holds the arguments and nothing beside them.
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match answer(&text) {
        Ok(XmlRpcAnswer::Success(value)) => visit(&value),
        Ok(XmlRpcAnswer::Failure { .. } | XmlRpcAnswer::Fault { .. }) => {}
        Err(error) => assert_error(&error),
    }
    if let Ok(body) = request("one.vm.update", &[Argument::Text(&text), Argument::Int(7)]) {
        let arguments = body.matches("<value>").count();
        assert_eq!(arguments, 2, "{body}");
        // an answer with the same text in it says the same
        let (_, rest) = body.split_once("<param>").expect("a param");
        let (value, _) = rest.split_once("</param>").expect("its end");
        let echo = format!(
            "<methodResponse><params><param><value><array><data><value><boolean>1</boolean></value>{value}\
             </data></array></value></param></params></methodResponse>"
        );
        let heard = answer(&echo).expect("a well-formed answer");
        let line_ends = text.replace("\r\n", "\n");
        match heard {
            XmlRpcAnswer::Success(Value::Text(heard)) => assert_eq!(heard.replace("\r\n", "\n"), line_ends),
            other => panic!("{other:?}"),
        }
    }
}

fn visit(value: &Value) {
    match value {
        Value::Text(text) => documents::check(text.as_bytes()),
        Value::Array(values) => values.iter().for_each(visit),
        Value::Struct(members) => members.iter().for_each(|(_, value)| visit(value)),
        Value::Bool(_) | Value::Int(_) | Value::Nil => {}
    }
}
