//! Against issuers on loopback that answer what they are told to.

use std::collections::VecDeque;

use mesh_auth::TrustDomain;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;
use crate::fetch::{Guard, Settings};

fn jwks(kid: &str) -> String {
    format!(r#"{{"keys":[{{"kty":"EC","crv":"P-256","x":"AA","y":"AA","kid":"{kid}"}}]}}"#)
}

fn ok(headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// An issuer: answers in turn, the last for ever; remembers what it was asked.
#[derive(Clone, Default)]
struct Issuer {
    answers: Arc<Mutex<VecDeque<String>>>,
    asked: Arc<Mutex<Vec<String>>>,
    /// Answers nobody until it is told to, once.
    holds: Option<Arc<Notify>>,
}

impl Issuer {
    async fn start(answers: &[String]) -> (Self, String) {
        Self::default().serve(answers).await
    }

    async fn serve(self, answers: &[String]) -> (Self, String) {
        let this = self;
        lock(&this.answers).extend(answers.iter().cloned());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/keys", listener.local_addr().unwrap());
        let serving = this.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = vec![0; 8192];
                let n = stream.read(&mut buffer).await.unwrap();
                lock(&serving.asked).push(String::from_utf8_lossy(&buffer[..n]).into_owned());
                if let Some(holds) = &serving.holds {
                    holds.notified().await;
                }
                let answer = {
                    let mut answers = lock(&serving.answers);
                    match answers.len() {
                        1 => answers[0].clone(),
                        _ => answers.pop_front().unwrap(),
                    }
                };
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        (this, uri)
    }
}

struct Bench {
    keeper: Arc<Keeper>,
    _dir: tempfile::TempDir,
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let domain = TrustDomain::new("td.test").unwrap();
    let store = Arc::new(Store::open(dir.path(), domain.as_str()).unwrap());
    let registry = Registry::open(Arc::clone(&store), domain, vec![], 1).unwrap();
    let guard = Guard {
        allow_local: true,
        own_ports: vec![],
    };
    let fetcher = Fetcher::new(Settings { guard, roots: None }).unwrap();
    let intervals = Intervals {
        shortest: Duration::from_millis(1),
        longest: Duration::from_secs(60),
        refetch: Duration::from_millis(1),
    };
    let keeper = Keeper::new(
        Arc::new(fetcher),
        Arc::new(registry),
        store,
        Clock::system(),
        intervals,
    );
    Bench {
        keeper: Arc::new(keeper),
        _dir: dir,
    }
}

fn source(jwks_uri: &str) -> KeySource {
    KeySource {
        issuer: "https://issuer.test".into(),
        jwks_uri: jwks_uri.into(),
        timeout: Duration::from_secs(5),
    }
}

fn name(jwks_uri: &str) -> String {
    format!("uri/{jwks_uri}")
}

#[tokio::test]
async fn a_bad_answer_leaves_the_last_good_keys_in_force() {
    let bad = [
        ok("", "<html>login</html>"),
        ok("", r#"{"keys":[]}"#),
        ok("", ""),
        ok("", &format!("{{\"keys\":[{}]}}", "x".repeat(300_000))),
        "HTTP/1.1 503 S\r\nContent-Length: 0\r\n\r\n".into(),
        "HTTP/1.1 304 N\r\n\r\n".into(),
        "nonsense\r\n\r\n".into(),
    ];
    for answer in bad {
        let bench = bench();
        let (_, uri) = Issuer::start(&[ok("", &jwks("a")), answer.clone()]).await;
        let tracked = Tracked::new(name(&uri), source(&uri), None);
        let mut memory = Memory::default();
        bench.keeper.ask(&tracked, &mut memory).await.unwrap();
        let is_304 = answer.starts_with("HTTP/1.1 304");
        let second = bench.keeper.ask(&tracked, &mut memory).await;
        assert_eq!(second.is_ok(), is_304, "{answer:.60}: {second:?}");
        let held = bench.keeper.store.read(stored::load).unwrap();
        let record = &held[&name(&uri)];
        assert!(record.jwks.contains(r#""kid":"a""#), "{answer:.60}");
    }
}

#[tokio::test]
async fn a_304_confirms_and_a_new_set_replaces() {
    let bench = bench();
    let (issuer, uri) = Issuer::start(&[
        ok("ETag: \"1\"\r\nCache-Control: max-age=7\r\n", &jwks("a")),
        "HTTP/1.1 304 N\r\nETag: \"1\"\r\n\r\n".into(),
        ok("", &jwks("b")),
    ])
    .await;
    let tracked = Tracked::new(name(&uri), source(&uri), None);
    let mut memory = Memory::default();
    let first = bench.keeper.ask(&tracked, &mut memory).await.unwrap();
    assert!(first.changed);
    assert_eq!(first.lifetime, Some(Duration::from_secs(7)));
    let second = bench.keeper.ask(&tracked, &mut memory).await.unwrap();
    assert!(!second.changed);
    let third = bench.keeper.ask(&tracked, &mut memory).await.unwrap();
    assert!(third.changed);
    let asked = lock(&issuer.asked).clone();
    assert!(!asked[0].contains("if-none-match"), "{}", asked[0]);
    assert!(asked[1].contains("if-none-match: \"1\""), "{}", asked[1]);
}

/// Follows the key set at `uri`: its name, what is known of it, and the task that does.
fn follow(keeper: &Arc<Keeper>, uri: &str) -> (String, Arc<Tracked>, JoinHandle<()>) {
    let name = name(uri);
    let tracked = Arc::new(Tracked::new(name.clone(), source(uri), None));
    lock(&keeper.tracked).insert(name.clone(), Arc::clone(&tracked));
    let following = tokio::spawn({
        let (keeper, tracked) = (Arc::clone(keeper), Arc::clone(&tracked));
        async move { keeper.follow(&tracked).await }
    });
    (name, tracked, following)
}

#[tokio::test]
async fn one_fetch_serves_all_who_ask_and_the_next_has_to_wait() {
    let mut bench = bench();
    let keeper = Arc::get_mut(&mut bench.keeper).unwrap();
    keeper.intervals.refetch = Duration::from_millis(200);
    let (issuer, uri) = Issuer::start(&[ok("", &jwks("a"))]).await;
    let (name, tracked, following) = follow(&bench.keeper, &uri);
    let mut rounds = tracked.rounds.subscribe();
    rounds.wait_for(|r| r.number == 1).await.unwrap();
    let early = bench.keeper.refetch(&name).await.unwrap();
    assert!(!early.fetched && !early.retry_after.is_zero(), "{early:?}");
    tokio::time::sleep(early.retry_after).await;
    let mut flood = JoinSet::new();
    for _ in 0..100 {
        let (keeper, name) = (Arc::clone(&bench.keeper), name.clone());
        flood.spawn(async move { keeper.refetch(&name).await });
    }
    let served = flood.join_all().await;
    assert!(served.iter().all(|r| r.unwrap().fetched), "{served:?}");
    assert_eq!(lock(&issuer.asked).len(), 2);
    assert_eq!(bench.keeper.refetch("other").await, None);
    assert_eq!(bench.keeper.states()[0].keys, 1);
    following.abort();
}

#[tokio::test]
async fn a_fetch_that_had_begun_before_does_not_say_that_a_key_is_unknown() {
    let bench = bench();
    let go = Arc::new(Notify::new());
    let issuer = Issuer {
        holds: Some(Arc::clone(&go)),
        ..Issuer::default()
    };
    let (_, uri) = issuer
        .serve(&[ok("", &jwks("a")), ok("", &jwks("b"))])
        .await;
    let (name, tracked, following) = follow(&bench.keeper, &uri);
    let mut rounds = tracked.rounds.subscribe();
    rounds.wait_for(|r| r.running).await.unwrap();
    // The issuer may have looked at its keys already.
    let (joined, ()) = tokio::join!(bench.keeper.refetch(&name), async { go.notify_one() });
    let joined = joined.unwrap();
    assert!(!joined.fetched && joined.changed, "{joined:?}");
    tokio::time::sleep(joined.retry_after).await;
    let (asked, ()) = tokio::join!(bench.keeper.refetch(&name), async { go.notify_one() });
    assert!(asked.unwrap().fetched, "{asked:?}");
    following.abort();
}

#[tokio::test]
async fn keys_are_held_over_a_restart() {
    let bench = bench();
    let (_, uri) = Issuer::start(&[ok("", &jwks("a"))]).await;
    let tracked = Tracked::new(name(&uri), source(&uri), None);
    bench
        .keeper
        .ask(&tracked, &mut Memory::default())
        .await
        .unwrap();
    let held = bench.keeper.store.read(stored::load).unwrap();
    let again = Tracked::new(name(&uri), source(&uri), held.get(&name(&uri)));
    assert_eq!(again.state().keys, 1);
    assert_ne!(again.state().fetched_at, 0);
    bench.keeper.registry.forget_keys().unwrap();
    assert!(bench.keeper.store.read(stored::load).unwrap().is_empty());
}
