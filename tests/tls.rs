//! The client of the peer's front-end, over TLS: it speaks only to whom the CA file vouches for.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests")]

use onemirror::opennebula::{Client, ClientOptions, OneError, Session};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut parameters = CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap()
}

/// What a server has, and how many calls, each with the password in it, it was sent.
struct FrontEnd {
    port: u16,
    calls: Arc<AtomicUsize>,
}

/// Serves one connection after the other; `name`: a certificate for that host, by that authority.
fn front_end(certified: Option<(&Authority, &str)>) -> FrontEnd {
    let tls = certified.map(|(authority, name)| {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, authority).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        Arc::new(config)
    });
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = calls.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            match &tls {
                None => serve(stream, &counter),
                Some(config) => {
                    let connection = rustls::ServerConnection::new(config.clone()).unwrap();
                    serve(rustls::StreamOwned::new(connection, stream), &counter);
                }
            }
        }
    });
    FrontEnd { port, calls }
}

fn serve(stream: impl Read + Write, calls: &AtomicUsize) {
    let mut stream = BufReader::new(stream);
    let (mut line, mut length) = (String::new(), 0);
    // a client that does not trust us ends here
    while stream.read_line(&mut line).unwrap_or(0) > 2 {
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        line.clear();
    }
    let mut body = vec![0; length];
    if length == 0 || stream.read_exact(&mut body).is_err() {
        return;
    }
    calls.fetch_add(1, Ordering::SeqCst);
    let answer = "<methodResponse><params><param><value><array><data><value><boolean>1</boolean></value>\
         <value><string>7.4.0</string></value><value><i4>0</i4></value></data></array></value></param></params></methodResponse>";
    let _ = write!(
        stream.get_mut(),
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{answer}",
        answer.len()
    );
    let _ = stream.get_mut().flush();
}

async fn version(endpoint: String, ca_file: Option<PathBuf>) -> Result<String, OneError> {
    let session = Session::new("oneadmin:hunter2").unwrap();
    let deadline = Duration::from_secs(20);
    Client::new(ClientOptions { endpoint, session, deadline, ca_file })?.system_version().await
}

#[tokio::test]
async fn the_peer_is_who_its_certificate_says_or_hears_no_password() {
    let folder = tempfile::tempdir().unwrap();
    let file_of = |authority: &Authority, name: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, authority.pem()).unwrap();
        Some(path)
    };
    let (ours, foreign) = (authority(), authority());
    let (our_file, foreign_file) = (file_of(&ours, "ours.pem"), file_of(&foreign, "foreign.pem"));
    let local = |server: &FrontEnd| format!("https://localhost:{}/RPC2", server.port);

    let right = front_end(Some((&ours, "localhost")));
    assert_eq!(version(local(&right), our_file.clone()).await.as_deref(), Ok("7.4.0"));
    assert_eq!(right.calls.load(Ordering::SeqCst), 1);

    // another authority, none at all, another host's certificate, an address that the certificate does not name
    let other_host = front_end(Some((&ours, "one-b.example.org")));
    for (server, endpoint, ca_file) in [
        (&right, local(&right), foreign_file),
        (&right, local(&right), None),
        (&other_host, local(&other_host), our_file.clone()),
        (&right, format!("https://127.0.0.1:{}/RPC2", right.port), our_file.clone()),
    ] {
        let before = server.calls.load(Ordering::SeqCst);
        let error = version(endpoint.clone(), ca_file).await.unwrap_err();
        assert!(matches!(error, OneError::Untrusted { .. }), "{endpoint}: {error:?}");
        let text = error.to_string();
        assert!(text.contains("certificate") && !text.contains("hunter2"), "{text}");
        assert_eq!(server.calls.load(Ordering::SeqCst), before, "{endpoint} was sent the password");
    }
}

#[tokio::test]
async fn plain_http_is_neither_tls_nor_the_other_way_round() {
    let plain = front_end(None);
    assert_eq!(version(format!("http://127.0.0.1:{}/RPC2", plain.port), None).await.as_deref(), Ok("7.4.0"));
    // who was told https sends nothing in the clear
    assert!(version(format!("https://127.0.0.1:{}/RPC2", plain.port), None).await.is_err());
    assert_eq!(plain.calls.load(Ordering::SeqCst), 1);
}
