//! `POST /RPC2`, and the same from the other side for the `control` command.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use futures::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::control::Answering;
use crate::front_end::FrontEnd;
use crate::methods;
use crate::xml;
use crate::xmlrpc::{Answer, parse_call};

/// Answers calls for ever.
pub async fn serve(front_end: Arc<FrontEnd>, listener: TcpListener) -> std::io::Result<()> {
    let router = Router::new()
        .route("/RPC2", post(call))
        .layer(DefaultBodyLimit::max(xml::SIZE_LIMIT))
        .with_state(front_end);
    axum::serve(listener, router).await
}

async fn call(State(front_end): State<Arc<FrontEnd>>, body: Bytes) -> Response {
    let parsed =
        std::str::from_utf8(&body).map_err(|_| "the request is not UTF-8".to_owned()).and_then(parse_call);
    let (answer, control) = match &parsed {
        Ok(call) => {
            tracing::debug!("{}", call.method);
            let answer = methods::answer(&front_end, call).await;
            let control = (call.method != "lab.control").then(|| front_end.control());
            (answer, control.unwrap_or_default())
        }
        Err(error) => {
            let message = format!("Call is not valid XML-RPC. {error}");
            (Answer::Fault { code: -503, message }, front_end.control())
        }
    };
    tokio::time::sleep(control.answer_delay).await;
    let text = answer.body();
    let kind = [(header::CONTENT_TYPE, "text/xml; charset=utf-8")];
    match control.answer {
        Answering::Ok => (kind, text).into_response(),
        Answering::ServerError => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Answering::Half => {
            let length = text.len();
            let half = text.as_bytes()[..length / 2].to_vec();
            let first = futures::stream::once(async move { Ok(Bytes::from(half)) });
            // the pause lets the first half out before the error ends the connection
            let second = futures::stream::once(async {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                Err(std::io::Error::other("told to break off here"))
            });
            let stream = first.chain(second);
            let length = [(header::CONTENT_LENGTH, length)];
            (kind, length.map(|(name, value)| (name, value.to_string())), Body::from_stream(stream))
                .into_response()
        }
    }
}

/// Posts a request to a front-end on this machine; the answer's body, or a sentence.
pub async fn post_to(port: u16, body: &str) -> Result<String, String> {
    let exchange = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let request = format!(
            "POST /RPC2 HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/xml\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    let answer = exchange.await.map_err(|error: std::io::Error| format!("port {port}: {error}"))?;
    answer
        .split_once("\r\n\r\n")
        .map(|(_, body)| body.to_owned())
        .ok_or_else(|| format!("port {port}: no answer"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Request;

    #[tokio::test]
    async fn answers_break_off_or_fail_when_told() {
        let location = tempfile::tempdir().unwrap();
        crate::front_end::lay_out(location.path(), None).unwrap();
        let front_end = crate::tests::open(location.path());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(serve(Arc::clone(&front_end), listener));
        let session = crate::xmlrpc::Value::Text("oneadmin:secret".into());
        let request = crate::xmlrpc::request("one.system.version", &[session]);
        let whole = include_str!("../../../tests/fixtures/opennebula/rpc.system.version.xml");
        assert_eq!(post_to(port, &request).await.unwrap(), whole);
        front_end.obey(Request::Answer(Answering::Half)).await;
        assert_eq!(post_to(port, &request).await.unwrap(), whole[..whole.len() / 2]);
        front_end.obey(Request::Answer(Answering::ServerError)).await;
        assert_eq!(post_to(port, &request).await.unwrap(), "");
        let fault = post_to(port, "no XML").await;
        front_end.obey(Request::Answer(Answering::Ok)).await;
        assert_eq!(fault.unwrap(), "");
        assert!(post_to(port, "no XML").await.unwrap().contains("<i4>-503</i4>"));
    }
}
