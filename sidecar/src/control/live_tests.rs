//! The whole control thread against a control API in this process: TLS, gRPC, certificates, stream and files.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use mesh_auth::{SpiffeId, TrustDomain};
use mesh_proto::{ResourceType, mesh};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::clock::testing::ManualClock;
use super::enforcement::Enforcement;
use super::fake_api::{
    API_ID, Authority, DOMAIN, FakeApi, Script, TOKEN, WORKLOAD, WORKLOAD_ID, wrap,
};
use super::{Clock, ControlConfig, ControlStatus, Proofs, SystemClock, run};
use crate::admin::Readiness;
use crate::lookups::{Lookups, Subscribe};
use crate::snapshot::{SharedSnapshot, Snapshot};

const PATIENCE: Duration = Duration::from_secs(20);

struct Sidecar {
    shared: SharedSnapshot,
    epochs: watch::Receiver<u64>,
    status: Arc<ControlStatus>,
    readiness: Arc<Readiness>,
    clock: Arc<ManualClock>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Sidecar {
    fn start(address: &str, authority: &Authority, dir: &Path, token: Option<&str>) -> Self {
        let domain = TrustDomain::new(DOMAIN).expect("domain");
        let token_file = dir.join("token");
        match token {
            Some(token) => fs::write(&token_file, format!("{token}\n")).expect("token"),
            None => drop(fs::remove_file(&token_file)),
        }
        fs::create_dir_all(dir.join("state")).expect("state directory");
        let config = ControlConfig {
            outside: None,
            workload: WORKLOAD.into(),
            control_api: address.into(),
            control_api_id: SpiffeId::parse(API_ID).expect("id"),
            trust_domain: domain.clone(),
            initial_bundle: vec![authority.root()],
            proofs: Proofs {
                join_token_file: Some(token_file),
                ..Proofs::default()
            },
            state_dir: Some(dir.join("state")),
            key_dir: Some(dir.join("keys")),
            mark: None,
            ledgers: vec![],
            key_requests: crate::key_requests::KeyRequests::new(),
            subscribe: Subscribe::All,
            destinations: vec![],
            lookups: Lookups::new(),
        };
        let shared: SharedSnapshot =
            Arc::new(ArcSwap::from_pointee(Snapshot::empty(WORKLOAD, domain)));
        let (sender, epochs) = watch::channel(0);
        let status = Arc::new(ControlStatus::new());
        let readiness = Arc::new(Readiness::new(&["certificate", "snapshot"]));
        let clock = Arc::new(ManualClock::at(SystemClock.now()));
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(
            config,
            (Arc::clone(&shared), sender),
            Enforcement::default(),
            Arc::clone(&clock) as Arc<dyn Clock>,
            stop.clone(),
            Arc::clone(&status),
            Arc::clone(&readiness),
        ));
        Self {
            shared,
            epochs,
            status,
            readiness,
            clock,
            stop,
            task,
        }
    }

    async fn until_ready(&self, wanted: bool) {
        let mut ready = self.readiness.subscribe();
        let outcome = tokio::time::timeout(PATIENCE, ready.wait_for(|r| *r == wanted)).await;
        assert!(
            outcome.is_ok(),
            "wanted ready={wanted}: {:?}",
            self.readiness.report()
        );
    }

    async fn until_snapshot(&mut self, mut predicate: impl FnMut(&Snapshot) -> bool) {
        let shared = Arc::clone(&self.shared);
        let outcome = tokio::time::timeout(
            PATIENCE,
            self.epochs.wait_for(|_| predicate(&shared.load())),
        )
        .await;
        assert!(
            outcome.is_ok(),
            "the snapshot did not come: {:?}",
            self.readiness.report()
        );
    }

    /// Waits until a reason contains `part`; reasons are refreshed with every tick of the control thread.
    async fn until_reason(&self, part: &str) {
        let waiting = async {
            while !self
                .readiness
                .report()
                .reasons
                .iter()
                .any(|r| r.contains(part))
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let outcome = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(
            outcome.is_ok(),
            "wanted '{part}': {:?}",
            self.readiness.report()
        );
    }

    async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task)
            .await
            .expect("stops in time")
            .expect("no panic");
    }
}

fn authority() -> Arc<Authority> {
    Arc::new(Authority::new())
}

#[tokio::test]
async fn a_join_token_becomes_an_identity_and_a_complete_snapshot() {
    let authority = authority();
    let dir = tempfile::tempdir().expect("dir");
    let mut api = FakeApi::start(&authority, API_ID, Script::complete(&authority)).await;
    let sidecar = Sidecar::start(
        &api.address.to_string(),
        &authority,
        dir.path(),
        Some(TOKEN),
    );
    sidecar.until_ready(true).await;
    let snapshot = sidecar.shared.load_full();
    assert_eq!(snapshot.identity().expect("identity").as_str(), WORKLOAD_ID);
    assert!(snapshot.policy.is_some() && snapshot.own.is_some());
    assert_eq!(snapshot.revision, 5);

    let seen = api.until(|seen| seen.requests.len() >= 12).await;
    assert_eq!(seen.proofs, ["token"]);
    assert_eq!(seen.requests[0].node.as_ref().expect("node").id, WORKLOAD);
    assert!(
        seen.requests.iter().all(|r| r.error_detail.is_none()),
        "all acknowledged"
    );
    sidecar.stop().await;

    let files: Vec<_> = ["state/resources.state", "keys/identity.sealed"]
        .map(|f| dir.path().join(f))
        .into();
    for file in files {
        let bytes = fs::read(&file).expect("written");
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains(TOKEN), "{} holds the token", file.display());
    }
}

#[tokio::test]
async fn nothing_is_allowed_until_every_kind_of_resource_was_answered() {
    let authority = authority();
    let dir = tempfile::tempdir().expect("dir");
    let mut script = Script::complete(&authority);
    let held_back = script
        .resources
        .remove(&ResourceType::AuthorizationPolicy)
        .expect("kind");
    let mut api = FakeApi::start(&authority, API_ID, script).await;
    let sidecar = Sidecar::start(
        &api.address.to_string(),
        &authority,
        dir.path(),
        Some(TOKEN),
    );
    // Six subscriptions and the answers to five kinds.
    api.until(|seen| seen.requests.len() >= 11).await;
    assert!(sidecar.shared.load().policy.is_none(), "denies");
    assert!(!sidecar.readiness.is_ready());
    sidecar
        .until_reason("waiting for the control API: AuthorizationPolicy")
        .await;
    api.script.send_modify(|s| {
        s.resources
            .insert(ResourceType::AuthorizationPolicy, held_back);
    });
    sidecar.until_ready(true).await;
    assert!(sidecar.shared.load().policy.is_some());
    sidecar.stop().await;
}

#[tokio::test]
async fn a_bad_resource_is_named_to_the_api_and_to_people_and_the_rest_works() {
    let authority = authority();
    let dir = tempfile::tempdir().expect("dir");
    let mut script = Script::complete(&authority);
    let bad = mesh::Service {
        name: "broken".into(),
        namespace: "demo".into(),
        ..Default::default()
    };
    script
        .resources
        .entry(ResourceType::Service)
        .or_default()
        .push(wrap(&bad));
    let mut api = FakeApi::start(&authority, API_ID, script).await;
    let sidecar = Sidecar::start(
        &api.address.to_string(),
        &authority,
        dir.path(),
        Some(TOKEN),
    );
    sidecar.until_ready(true).await;
    let seen = api
        .until(|seen| seen.requests.iter().any(|r| r.error_detail.is_some()))
        .await;
    let nack = seen
        .requests
        .iter()
        .find_map(|r| r.error_detail.as_ref())
        .expect("NACK");
    assert!(
        nack.message.contains("\"name\":\"demo/broken\"") && nack.message.contains("ports"),
        "{}",
        nack.message
    );
    sidecar.until_reason("1 resource(s) rejected").await;
    sidecar.stop().await;
}

#[tokio::test]
async fn a_restart_without_the_control_api_serves_the_last_good_state_with_the_kept_key() {
    let authority = authority();
    let dir = tempfile::tempdir().expect("dir");
    let api = FakeApi::start(&authority, API_ID, Script::complete(&authority)).await;
    let address = api.address.to_string();
    let first = Sidecar::start(&address, &authority, dir.path(), Some(TOKEN));
    first.until_ready(true).await;
    first.stop().await;
    drop(api);

    let second = Sidecar::start(&address, &authority, dir.path(), None);
    second.until_ready(true).await;
    let snapshot = second.shared.load_full();
    assert_eq!(snapshot.identity().expect("identity").as_str(), WORKLOAD_ID);
    assert!(snapshot.policy.is_some());
    second
        .until_reason("degraded: control unreachable since")
        .await;
    second.until_reason("serving the state written at").await;
    second.stop().await;
}

#[tokio::test]
async fn a_damaged_state_file_is_set_aside_and_the_sidecar_goes_on() {
    let authority = authority();
    let dir = tempfile::tempdir().expect("dir");
    let state = dir.path().join("state");
    fs::create_dir_all(&state).expect("directory");
    fs::write(state.join("resources.state"), b"garbage").expect("garbage");
    let api = FakeApi::start(&authority, API_ID, Script::complete(&authority)).await;
    let sidecar = Sidecar::start(
        &api.address.to_string(),
        &authority,
        dir.path(),
        Some(TOKEN),
    );
    sidecar.until_ready(true).await;
    assert_eq!(
        fs::read(state.join("resources.state.corrupt")).expect("kept"),
        b"garbage"
    );
    sidecar.stop().await;
    assert!(
        state.join("resources.state").exists(),
        "a good one is written at the end"
    );
}

#[tokio::test]
async fn a_server_that_is_not_the_control_api_gets_no_token() {
    let authority = authority();
    let dir = tempfile::tempdir().expect("dir");
    let impostor = "spiffe://demo.test/ns/demo/sa/mallory";
    let api = FakeApi::start(&authority, impostor, Script::complete(&authority)).await;
    let sidecar = Sidecar::start(
        &api.address.to_string(),
        &authority,
        dir.path(),
        Some(TOKEN),
    );
    sidecar
        .until_reason("cannot connect to the control API")
        .await;
    assert!(api.seen.borrow().proofs.is_empty());
    let report = format!(
        "{:?} {:?}",
        sidecar.readiness.report(),
        sidecar.status.view()
    );
    assert!(!report.contains(TOKEN));
    sidecar.stop().await;
}

#[tokio::test]
async fn a_refused_token_is_said_and_a_new_one_is_taken_up() {
    let authority = authority();
    let dir = tempfile::tempdir().expect("dir");
    let api = FakeApi::start(&authority, API_ID, Script::complete(&authority)).await;
    let sidecar = Sidecar::start(
        &api.address.to_string(),
        &authority,
        dir.path(),
        Some("wrong-token"),
    );
    sidecar
        .until_reason("refused to issue a certificate by join token")
        .await;
    assert!(
        !sidecar
            .readiness
            .report()
            .reasons
            .concat()
            .contains("wrong-token")
    );
    fs::write(dir.path().join("token"), TOKEN).expect("token");
    sidecar.until_ready(true).await;
    sidecar.stop().await;
}

#[tokio::test]
async fn a_certificate_of_somebody_else_is_not_used() {
    let authority = authority();
    let dir = tempfile::tempdir().expect("dir");
    for change in [
        |s: &mut Script| s.workload = "demo/other-1".into(),
        |s: &mut Script| s.workload_id = "spiffe://demo.test/ns/other/sa/web".into(),
        |s: &mut Script| s.workload_id = "spiffe://evil.test/ns/demo/sa/web".into(),
    ] {
        let mut script = Script::complete(&authority);
        change(&mut script);
        let api = FakeApi::start(&authority, API_ID, script).await;
        let sidecar = Sidecar::start(
            &api.address.to_string(),
            &authority,
            dir.path(),
            Some(TOKEN),
        );
        sidecar
            .until_reason("an issued certificate cannot be used")
            .await;
        assert!(sidecar.shared.load().identity().is_none());
        sidecar.stop().await;
    }
}

#[tokio::test]
async fn a_certificate_is_renewed_in_time_by_itself_and_the_stream_follows() {
    let authority = authority();
    let dir = tempfile::tempdir().expect("dir");
    let mut api = FakeApi::start(&authority, API_ID, Script::complete(&authority)).await;
    let mut sidecar = Sidecar::start(
        &api.address.to_string(),
        &authority,
        dir.path(),
        Some(TOKEN),
    );
    sidecar.until_ready(true).await;
    let before = sidecar.shared.load().tls.as_ref().expect("TLS").epoch;
    // Half of the hour is over: due at the latest at seven tenths of it.
    sidecar.clock.set(SystemClock.now() + 3_600 * 7 / 10 + 1);
    let seen = api.until(|seen| seen.proofs.len() == 2).await;
    assert_eq!(seen.proofs, ["token", "svid"]);
    sidecar
        .until_snapshot(|s| s.tls.as_ref().is_some_and(|tls| tls.epoch > before))
        .await;
    // The stream is opened again with the new certificate and claims what is held.
    let seen = api
        .until(|seen| seen.requests.iter().filter(|r| r.node.is_some()).count() == 2)
        .await;
    let reopened = seen
        .requests
        .iter()
        .rev()
        .find(|r| r.node.is_some())
        .expect("reopened");
    assert_eq!(reopened.initial_resource_versions["default"], "v1");
    sidecar.stop().await;
}

#[tokio::test]
async fn an_expired_certificate_is_withdrawn_at_once_and_put_back_when_the_clock_was_wrong() {
    let authority = authority();
    let dir = tempfile::tempdir().expect("dir");
    let api = FakeApi::start(&authority, API_ID, Script::complete(&authority)).await;
    let mut sidecar = Sidecar::start(
        &api.address.to_string(),
        &authority,
        dir.path(),
        Some(TOKEN),
    );
    sidecar.until_ready(true).await;
    drop(api);
    fs::remove_file(dir.path().join("token")).expect("used up");
    sidecar.clock.set(SystemClock.now() + 25 * 3_600);
    sidecar.until_snapshot(|s| s.tls.is_none()).await;
    sidecar.until_reason("certificate: expired at").await;
    sidecar.clock.set(SystemClock.now());
    sidecar.until_snapshot(|s| s.tls.is_some()).await;
    sidecar.until_ready(true).await;
    sidecar.stop().await;
}

#[tokio::test]
async fn another_certificate_is_fetched_when_asked_for_and_is_what_is_served() {
    let authority = authority();
    let dir = tempfile::tempdir().expect("dir");
    let mut api = FakeApi::start(&authority, API_ID, Script::complete(&authority)).await;
    let mut sidecar = Sidecar::start(
        &api.address.to_string(),
        &authority,
        dir.path(),
        Some(TOKEN),
    );
    sidecar.until_ready(true).await;
    for turn in 1..=3 {
        let last = sidecar.shared.load_full();
        let last = &last.tls.as_ref().expect("TLS").identity;
        sidecar.status.ask_rotation();
        sidecar
            .until_snapshot(|s| {
                let served = s.tls.as_ref().map(|tls| &tls.identity);
                served.is_some_and(|served| !Arc::ptr_eq(served, last))
            })
            .await;
        let seen = api.until(|seen| seen.proofs.len() == 1 + turn).await;
        assert_eq!(seen.proofs[turn], "svid");
    }
    sidecar.stop().await;
}

#[tokio::test]
async fn a_renewal_that_fails_keeps_the_certificate_and_says_how_long_it_lasts() {
    let authority = authority();
    let dir = tempfile::tempdir().expect("dir");
    let mut api = FakeApi::start(&authority, API_ID, Script::complete(&authority)).await;
    let sidecar = Sidecar::start(
        &api.address.to_string(),
        &authority,
        dir.path(),
        Some(TOKEN),
    );
    sidecar.until_ready(true).await;
    let held = sidecar.shared.load().tls.as_ref().expect("TLS").epoch;
    // What it issues now is somebody else's.
    api.script
        .send_modify(|script| script.workload_id = format!("spiffe://{DOMAIN}/ns/other/sa/other"));
    sidecar.status.ask_rotation();
    api.until(|seen| seen.proofs.len() >= 2).await;
    let said = async {
        loop {
            let degraded = sidecar.status.degraded(sidecar.clock.now());
            if let Some(text) = degraded.filter(|d| d.contains("renewal fails, it expires in ")) {
                break text;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let said = tokio::time::timeout(PATIENCE, said).await.expect("said");
    assert!(
        said.contains("min") && said.contains("is not an identity of workload"),
        "{said}"
    );
    let now = sidecar.shared.load().tls.as_ref().expect("TLS").epoch;
    assert_eq!(now, held, "the good one is still served");
    assert!(sidecar.readiness.report().ready);
    sidecar.stop().await;
}

#[tokio::test]
async fn a_clock_that_differs_from_the_control_apis_is_measured_and_told() {
    let authority = authority();
    for (ahead, skew, told) in [
        (3_600, -3_600, Some("behind the control API's")),
        (-3_600, 3_600, Some("ahead of the control API's")),
        (0, 0, None),
    ] {
        let dir = tempfile::tempdir().expect("dir");
        let script = Script {
            clock_ahead: ahead,
            ..Script::complete(&authority)
        };
        let api = FakeApi::start(&authority, API_ID, script).await;
        let mut sidecar = Sidecar::start(
            &api.address.to_string(),
            &authority,
            dir.path(),
            Some(TOKEN),
        );
        sidecar.until_ready(true).await;
        let measured = sidecar.status.view().clock_skew.expect("measured");
        // The manual clock stands still while the machine's goes on.
        assert!((measured - skew).abs() <= 10, "{measured}");
        sidecar
            .until_snapshot(|s| s.clock_skew == Some(measured))
            .await;
        let degraded = sidecar.status.degraded(sidecar.clock.now());
        match told {
            Some(told) => assert!(
                degraded.as_deref().is_some_and(|d| d.contains(told)),
                "{degraded:?}"
            ),
            None => assert_eq!(degraded, None),
        }
        sidecar.stop().await;
    }
}

#[tokio::test]
async fn a_lost_stream_is_opened_again_and_nobody_notices() {
    let authority = authority();
    let dir = tempfile::tempdir().expect("dir");
    let mut api = FakeApi::start(&authority, API_ID, Script::complete(&authority)).await;
    let mut sidecar = Sidecar::start(
        &api.address.to_string(),
        &authority,
        dir.path(),
        Some(TOKEN),
    );
    sidecar.until_ready(true).await;
    let mut ready = sidecar.readiness.subscribe();
    ready.borrow_and_update();
    for streams in 2..5 {
        api.cut_streams();
        let seen = api
            .until(|seen| seen.requests.iter().filter(|r| r.node.is_some()).count() == streams)
            .await;
        let reopened = seen
            .requests
            .iter()
            .rev()
            .find(|r| r.node.is_some())
            .expect("reopened");
        assert_eq!(reopened.initial_resource_versions["default"], "v1");
        assert!(sidecar.shared.load().policy.is_some() && sidecar.shared.load().tls.is_some());
    }
    assert!(!ready.has_changed().expect("alive"), "it stayed ready");
    let change = |s: &mut Script| {
        s.resources.insert(
            ResourceType::Service,
            vec![wrap(&mesh::Service {
                name: "late".into(),
                namespace: "demo".into(),
                ports: vec![mesh::ServicePort {
                    port: 80,
                    ..Default::default()
                }],
                ..Default::default()
            })],
        );
    };
    api.script.send_modify(change);
    sidecar
        .until_snapshot(|s| s.resources.services.contains_key("demo/late"))
        .await;
    sidecar.stop().await;
}

/// Everything that this process logged since [`Log::install`].
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// For the whole process: a subscriber of one thread misses what other threads registered first.
    fn install() -> Self {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::set_global_default(subscriber).expect("no other test logs");
        log
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("log").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_log_line_of_any_library_at_any_level_holds_a_token_or_a_key() {
    let log = Log::install();
    let authority = authority();
    let dir = tempfile::tempdir().expect("dir");
    let api = FakeApi::start(&authority, API_ID, Script::complete(&authority)).await;
    let wrong = "canary-wrong-token";
    let sidecar = Sidecar::start(
        &api.address.to_string(),
        &authority,
        dir.path(),
        Some(wrong),
    );
    sidecar.until_reason("refused to issue").await;
    fs::write(dir.path().join("token"), TOKEN).expect("token");
    sidecar.until_ready(true).await;
    sidecar.stop().await;
    let log = String::from_utf8_lossy(&log.0.lock().expect("log")).into_owned();
    assert!(log.contains("certificate issued"), "the log was taken");
    for secret in [TOKEN, wrong] {
        let line = log.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{line:?}");
    }
    assert!(!log.contains("PRIVATE KEY"));
}
