//! Against servers on loopback that answer with given bytes.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

/// A server that gives each connection the next of `answers`, and what was asked.
async fn serve(answers: Vec<String>) -> (SocketAddr, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut asked = vec![];
        for answer in answers {
            let (stream, _) = listener.accept().await.unwrap();
            asked.push(answer_one(stream, &answer).await);
        }
        asked
    });
    (address, task)
}

async fn answer_one<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, answer: &str) -> String {
    let mut head = vec![];
    let mut buffer = [0; 4096];
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        let n = stream.read(&mut buffer).await.unwrap();
        if n == 0 {
            break;
        }
        head.extend_from_slice(&buffer[..n]);
    }
    // The client may have hung up already.
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
    String::from_utf8(head).unwrap()
}

fn local() -> Fetcher {
    Fetcher::new(Settings {
        guard: Guard {
            allow_local: true,
            own_ports: vec![],
        },
        roots: None,
    })
    .unwrap()
}

fn url(address: SocketAddr, path: &str) -> Url {
    Url::parse(&format!("http://{address}{path}")).unwrap()
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn an_answer_comes_with_its_headers_and_any_status() {
    let (address, asked) = serve(vec![
        "HTTP/1.1 404 Not Found\r\nETag: \"x\"\r\nContent-Length: 2\r\n\r\nno".into(),
    ])
    .await;
    let fetched = local()
        .fetch(&Fetch::get(url(address, "/keys?a=b")))
        .await
        .unwrap();
    assert_eq!((fetched.status.as_u16(), &*fetched.body), (404, &b"no"[..]));
    assert_eq!(fetched.headers["etag"], "\"x\"");
    let asked = asked.await.unwrap().remove(0);
    assert!(asked.starts_with("GET /keys?a=b HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains(&format!("host: {address}\r\n")), "{asked}");
}

#[tokio::test]
async fn loopback_is_refused_without_the_flag_before_anything_is_dialled() {
    let (address, _) = serve(vec![]).await;
    let strict = Fetcher::new(Settings::default()).unwrap();
    let error = strict
        .fetch(&Fetch::get(url(address, "/")))
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "address_refused");
    assert!(error.to_string().contains("--allow-local-fetch"), "{error}");
}

#[tokio::test]
async fn redirects_are_followed_three_times_and_judged_each_time() {
    let (last, _) = serve(vec![ok("here")]).await;
    let to = |location: &str| {
        format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n")
    };
    let (first, _) = serve(vec![to("/b"), to("/c"), to(&format!("http://{last}/"))]).await;
    let fetched = local().fetch(&Fetch::get(url(first, "/a"))).await.unwrap();
    assert_eq!(&*fetched.body, b"here");
    assert_eq!(fetched.url, url(last, "/"));

    let (endless, _) = serve(vec![to("/"), to("/"), to("/"), to("/")]).await;
    let metadata = to("http://169.254.169.254/latest/meta-data/");
    let (to_metadata, _) = serve(vec![metadata]).await;
    let (to_file, _) = serve(vec![to("file:///etc/passwd")]).await;
    let (nowhere, _) = serve(vec![
        "HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n".into(),
    ])
    .await;
    for (address, reason) in [
        (endless, "redirect"),
        (to_metadata, "address_refused"),
        (to_file, "redirect"),
        (nowhere, "redirect"),
    ] {
        let error = local()
            .fetch(&Fetch::get(url(address, "/")))
            .await
            .unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");
    }
}

#[tokio::test]
async fn credentials_do_not_follow_a_redirect() {
    let redirect = "HTTP/1.1 307 T\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n";
    let (address, _) = serve(vec![redirect.into()]).await;
    let post = Fetch::post(
        url(address, "/a"),
        "application/x-www-form-urlencoded",
        "token=secret",
    );
    assert_eq!(local().fetch(&post).await.unwrap_err().reason(), "redirect");
}

#[tokio::test]
async fn what_is_too_large_too_late_or_no_http_is_refused() {
    let chunked = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n{}\r\n0\r\n\r\n",
        "x".repeat(64)
    );
    for (answer, reason) in [
        (ok(&"x".repeat(64)), "too_large"),
        (chunked, "too_large"),
        ("SSH-2.0-OpenSSH\r\n".into(), "protocol"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort".into(),
            "protocol",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx".into(),
            "protocol",
        ),
        (String::new(), "protocol"),
    ] {
        let (address, _) = serve(vec![answer.clone()]).await;
        let mut fetch = Fetch::get(url(address, "/"));
        fetch.limit = 63;
        let error = local().fetch(&fetch).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{answer}: {error}");
    }
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut fetch = Fetch::get(url(silent.local_addr().unwrap(), "/"));
    fetch.timeout = Duration::from_millis(50);
    assert_eq!(local().fetch(&fetch).await.unwrap_err().reason(), "timeout");
}

#[tokio::test]
async fn a_server_is_verified_by_the_given_roots_and_its_name() {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(stream) = acceptor.accept(stream).await {
                answer_one(stream, &ok("{}")).await;
            }
        }
    });
    let guard = Guard {
        allow_local: true,
        own_ports: vec![],
    };
    let roots = Some(certificate.pem().into_bytes());
    let trusting = Fetcher::new(Settings {
        guard: guard.clone(),
        roots,
    })
    .unwrap();
    let public = Fetcher::new(Settings { guard, roots: None }).unwrap();
    let named = Fetch::get(Url::parse(&format!("https://localhost:{port}/")).unwrap());
    let by_address = Fetch::get(Url::parse(&format!("https://127.0.0.1:{port}/")).unwrap());
    assert_eq!(&*trusting.fetch(&named).await.unwrap().body, b"{}");
    for (fetcher, fetch) in [(&public, &named), (&trusting, &by_address)] {
        let error = fetcher.fetch(fetch).await.unwrap_err();
        assert!(error.to_string().contains("TLS: "), "{error}");
    }
    server.abort();
}

#[test]
fn roots_that_are_none_are_refused() {
    for pem in [
        "",
        "no pem",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        let roots = Some(pem.as_bytes().to_vec());
        let guard = Guard::default();
        assert!(Fetcher::new(Settings { guard, roots }).is_err(), "{pem}");
    }
}
