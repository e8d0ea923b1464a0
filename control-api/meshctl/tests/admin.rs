//! `meshctl` against a control API that answers what a test wants: what it asks, what it prints, how it ends. The fake is
//! the gRPC service only; the real control API is met in `demo.rs`.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use mesh_proto::admin::admin_service_server::{AdminService, AdminServiceServer};
use mesh_proto::admin::*;
use serde_json::Value;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

type Answer<T> = Result<Response<T>, Status>;

/// What the fake answers, and what it was asked.
#[derive(Default)]
struct Script {
    status: StatusResponse,
    stored: Vec<StoredResource>,
    clock_ahead_ms: i64,
    refusal: Option<Status>,
    asked: Mutex<Vec<String>>,
}

impl Script {
    fn note<T: std::fmt::Debug>(&self, request: &Request<T>) -> Result<(), Status> {
        self.asked
            .lock()
            .expect("one thread")
            .push(format!("{:?}", request.get_ref()));
        self.refusal.clone().map_or(Ok(()), Err)
    }
}

struct Fake(Arc<Script>);

#[tonic::async_trait]
impl AdminService for Fake {
    type TapStream = tokio_stream::Empty<Result<TapResponse, Status>>;

    async fn edges(&self, request: Request<EdgesRequest>) -> Answer<EdgesResponse> {
        self.0.note(&request)?;
        Ok(Response::new(EdgesResponse::default()))
    }

    async fn tap(&self, request: Request<TapRequest>) -> Answer<Self::TapStream> {
        self.0.note(&request)?;
        Ok(Response::new(tokio_stream::empty()))
    }

    async fn info(&self, request: Request<InfoRequest>) -> Answer<InfoResponse> {
        self.0.note(&request)?;
        Ok(Response::new(InfoResponse {
            trust_domain: "td.example".into(),
            version: "0.1.0".into(),
            revision: self.0.status.revision,
            trust_bundle_pem: String::new(),
            ca_not_after: now() + 365 * 86_400,
            now_unix_ms: now() * 1000 + self.0.clock_ahead_ms,
        }))
    }

    async fn apply(&self, request: Request<ApplyRequest>) -> Answer<ApplyResponse> {
        self.0.note(&request)?;
        let resource = AppliedResource {
            kind: "Workload".into(),
            namespace: "demo".into(),
            name: "web".into(),
            outcome: "created".into(),
        };
        Ok(Response::new(ApplyResponse {
            revision: 7,
            resources: vec![resource],
        }))
    }

    async fn get(&self, request: Request<GetRequest>) -> Answer<GetResponse> {
        self.0.note(&request)?;
        Ok(Response::new(GetResponse {
            resources: self.0.stored.clone(),
            revision: 7,
        }))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Answer<DeleteResponse> {
        self.0.note(&request)?;
        Ok(Response::new(DeleteResponse { revision: 8 }))
    }

    async fn create_join_token(
        &self,
        request: Request<CreateJoinTokenRequest>,
    ) -> Answer<CreateJoinTokenResponse> {
        self.0.note(&request)?;
        Ok(Response::new(CreateJoinTokenResponse {
            id: "t1".into(),
            token: "only-once".into(),
            spiffe_id: "spiffe://td.example/ns/demo/sa/web".into(),
            expires_at: now() + 600,
            revision: 9,
        }))
    }

    async fn list_join_tokens(
        &self,
        request: Request<ListJoinTokensRequest>,
    ) -> Answer<ListJoinTokensResponse> {
        self.0.note(&request)?;
        let token = JoinToken {
            id: "t1".into(),
            workload: "demo/web".into(),
            spiffe_id: "spiffe://td.example/ns/demo/sa/web".into(),
            expires_at: now() + 600,
            state: "unused".into(),
        };
        Ok(Response::new(ListJoinTokensResponse {
            tokens: vec![token],
        }))
    }

    async fn revoke_join_token(
        &self,
        request: Request<RevokeJoinTokenRequest>,
    ) -> Answer<RevokeJoinTokenResponse> {
        self.0.note(&request)?;
        Ok(Response::new(RevokeJoinTokenResponse { revision: 10 }))
    }

    async fn wait_enforced(
        &self,
        request: Request<WaitEnforcedRequest>,
    ) -> Answer<WaitEnforcedResponse> {
        self.0.note(&request)?;
        Ok(Response::new(WaitEnforcedResponse::default()))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Answer<StatusResponse> {
        self.0.note(&request)?;
        Ok(Response::new(self.0.status.clone()))
    }

    async fn history(&self, request: Request<HistoryRequest>) -> Answer<HistoryResponse> {
        self.0.note(&request)?;
        Ok(Response::new(HistoryResponse::default()))
    }

    async fn diff(&self, request: Request<DiffRequest>) -> Answer<DiffResponse> {
        self.0.note(&request)?;
        Ok(Response::new(DiffResponse::default()))
    }

    async fn rollback(&self, request: Request<RollbackRequest>) -> Answer<RollbackResponse> {
        self.0.note(&request)?;
        Ok(Response::new(RollbackResponse::default()))
    }

    async fn find_decision(
        &self,
        request: Request<FindDecisionRequest>,
    ) -> Answer<FindDecisionResponse> {
        self.0.note(&request)?;
        Ok(Response::new(FindDecisionResponse::default()))
    }

    async fn reports(&self, request: Request<ReportsRequest>) -> Answer<ReportsResponse> {
        self.0.note(&request)?;
        Ok(Response::new(ReportsResponse::default()))
    }
}

fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    i64::try_from(since.as_secs()).expect("small")
}

fn sidecar(workload: &str) -> SidecarStatus {
    SidecarStatus {
        workload: workload.into(),
        spiffe_id: format!("spiffe://td.example/ns/{}", workload.replace('/', "/sa/")),
        connected: true,
        since: now() - 60,
        acked_revision: 7,
        nacks: Vec::new(),
        certificate_not_after: now() + 80_000,
        version: "sidecar 0.1.0".into(),
        peer_address: "10.0.0.2:40000".into(),
    }
}

fn workload(name: &str) -> StoredResource {
    StoredResource {
        kind: "Workload".into(),
        namespace: "demo".into(),
        name: name.into(),
        revision: 3,
        changed_at: now() - 100,
        author: "uid:0".into(),
        document_json: format!(
            r#"{{"apiVersion":"postern.dev/v1alpha1","kind":"Workload","metadata":{{"name":"{name}","namespace":"demo"}},"spec":{{"addresses":["10.0.0.2"]}}}}"#
        ),
        summary: format!("{name} at 10.0.0.2:15008"),
    }
}

fn healthy() -> Script {
    Script {
        status: StatusResponse {
            revision: 7,
            sidecars: vec![sidecar("demo/web")],
            ..StatusResponse::default()
        },
        stored: vec![workload("web")],
        ..Script::default()
    }
}

/// Runs meshctl against a script; returns how it ended and what was asked.
fn meshctl(script: Script, arguments: &[&str]) -> (Output, Vec<String>) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let folder = tempfile::tempdir().expect("a directory");
    let socket: PathBuf = folder.path().join("admin.sock");
    let script = Arc::new(script);
    let _entered = runtime.enter();
    let listener = UnixListener::bind(&socket).expect("a socket");
    runtime.spawn(
        tonic::transport::Server::builder()
            .add_service(AdminServiceServer::new(Fake(script.clone())))
            .serve_with_incoming(UnixListenerStream::new(listener)),
    );
    let output = Command::new(env!("CARGO_BIN_EXE_meshctl"))
        .args(arguments)
        .env_remove("POSTERN_CONTROL_API")
        .env("POSTERN_SOCKET", &socket)
        .output()
        .expect("meshctl runs");
    let asked = script.asked.lock().expect("one thread").clone();
    (output, asked)
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("no JSON ({e}): {}{}", stdout(output), stderr(output)))
}

#[test]
fn every_table_is_also_json_and_fits_its_width() {
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("web.yaml");
    std::fs::write(&file, "kind: Workload\n").expect("written");
    let file = file.to_str().expect("text");
    for arguments in [
        &["apply", "-f", file][..],
        &["get"],
        &["get", "workload", "web", "-n", "demo"],
        &["delete", "workload", "web", "-n", "demo"],
        &["token", "create", "demo/web", "--ttl", "2m"],
        &["token", "list"],
        &["token", "revoke", "t1"],
        &["status"],
        &["check"],
        &["budget"],
        &["edges"],
        &["top", "--once", "--interval", "1s"],
    ] {
        let (output, asked) = meshctl(healthy(), arguments);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{arguments:?}: {}{}",
            stdout(&output),
            stderr(&output)
        );
        assert!(!asked.is_empty(), "{arguments:?}");
        assert!(
            !output.stdout.is_empty() && output.stderr.is_empty(),
            "{arguments:?}: {}",
            stderr(&output)
        );
        if arguments != ["check"] {
            assert!(
                stdout(&output).lines().all(|l| l.chars().count() <= 100),
                "{}",
                stdout(&output)
            );
        }
        let (output, _) = meshctl(healthy(), &[arguments, &["-o", "json"]].concat());
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(json(&output).is_object(), "{arguments:?}");
    }
}

#[test]
fn what_is_typed_is_what_is_asked() {
    for (arguments, asked_for) in [
        (
            &["get", "workloads", "web", "-n", "demo"][..],
            r#"GetRequest { kind: "workloads", namespace: "demo", name: "web" }"#,
        ),
        (
            &["delete", "Service", "a", "-n", "b"],
            r#"DeleteRequest { kind: "Service", namespace: "b", name: "a", if_revision: 0 }"#,
        ),
        (
            &["token", "create", "demo/web", "--ttl", "2m"],
            r#"CreateJoinTokenRequest { workload: "demo/web", ttl_seconds: 120 }"#,
        ),
        (
            &["token", "revoke", "t9"],
            r#"RevokeJoinTokenRequest { id: "t9" }"#,
        ),
    ] {
        assert_eq!(meshctl(healthy(), arguments).1, [asked_for]);
    }
}

#[test]
fn a_token_goes_into_a_new_private_file_or_is_not_made() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("token");
    let arguments = [
        "token",
        "create",
        "demo/web",
        "--to",
        file.to_str().expect("text"),
    ];
    let (output, _) = meshctl(healthy(), &arguments);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(!stdout(&output).contains("only-once"));
    assert_eq!(
        std::fs::read_to_string(&file).expect("written"),
        "only-once"
    );
    let mode = std::fs::metadata(&file)
        .expect("there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);

    let (output, asked) = meshctl(healthy(), &arguments);
    assert_eq!(output.status.code(), Some(1));
    assert!(asked.is_empty(), "{asked:?}");
    assert!(stderr(&output).contains("token"), "{}", stderr(&output));
}

#[test]
fn several_files_are_applied_in_order_and_named() {
    let folder = tempfile::tempdir().expect("a directory");
    let [first, second] = ["a.yaml", "b.yaml"].map(|name| folder.path().join(name));
    std::fs::write(&first, "one").expect("written");
    std::fs::write(&second, "two").expect("written");
    let (first, second) = (
        first.to_str().expect("text"),
        second.to_str().expect("text"),
    );
    let (_, asked) = meshctl(
        healthy(),
        &["apply", "-f", first, "-f", second, "--dry-run"],
    );
    assert_eq!(asked.len(), 1, "all or none: {asked:?}");
    let (one, two) = asked[0].split_once("more: ").expect("further files");
    assert!(
        one.contains(r#"manifest: "one""#)
            && one.contains("a.yaml")
            && one.contains("dry_run: true"),
        "{asked:?}"
    );
    assert!(
        two.contains(r#"manifest: "two""#) && two.contains("b.yaml"),
        "{asked:?}"
    );
    let (_, asked) = meshctl(healthy(), &["apply", "-f", first, "-f", "/nowhere.yaml"]);
    assert!(
        asked.is_empty(),
        "nothing is stored when a file is missing: {asked:?}"
    );
}

#[test]
fn documents_come_back_as_yaml_that_apply_accepts() {
    let script = Script {
        stored: vec![workload("web"), workload("orders")],
        ..healthy()
    };
    let (output, _) = meshctl(script, &["get", "-o", "yaml"]);
    let text = stdout(&output);
    assert_eq!(text.split("---\n").count(), 2, "{text}");
    assert!(
        text.contains("kind: Workload") && text.contains("name: orders"),
        "{text}"
    );
}

#[test]
fn a_refusal_is_a_problem_in_the_control_apis_words() {
    for (status, code, said) in [
        (
            Status::invalid_argument("web.yaml:3: spec.meshPort: 70000 is no port"),
            1,
            "spec.meshPort",
        ),
        (
            Status::permission_denied("uid 1000 is no operator"),
            1,
            "operator certificate",
        ),
        (Status::not_found("no Workload demo/web"), 1, "meshctl get"),
        (Status::unavailable("starting"), 3, "meshctl check"),
    ] {
        let script = Script {
            refusal: Some(status),
            ..healthy()
        };
        let (output, _) = meshctl(script, &["delete", "workload", "web", "-n", "demo"]);
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        assert!(stderr(&output).contains(said), "{}", stderr(&output));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_name_that_is_not_there_is_a_problem() {
    let (output, _) = meshctl(
        Script::default(),
        &["get", "workload", "nobody", "-n", "demo"],
    );
    assert_eq!(output.status.code(), Some(1));
    let (output, _) = meshctl(Script::default(), &["get"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).contains("meshctl apply"));
}

#[test]
fn check_names_every_problem_with_a_command() {
    let nack = Nack {
        type_url: "type.googleapis.com/postern.mesh.v1.AuthorizationPolicy".into(),
        name: "demo/bad".into(),
        version: "7".into(),
        reason: "rules[0].when is not supported".into(),
        at: now(),
    };
    let script = Script {
        status: StatusResponse {
            revision: 7,
            sidecars: vec![
                SidecarStatus {
                    nacks: vec![nack],
                    ..sidecar("demo/web")
                },
                SidecarStatus {
                    acked_revision: 5,
                    certificate_not_after: now() - 5,
                    ..sidecar("demo/orders")
                },
            ],
            ..StatusResponse::default()
        },
        stored: vec![workload("web"), workload("orders"), workload("payments")],
        clock_ahead_ms: 300_000,
        ..Script::default()
    };
    let (output, _) = meshctl(script, &["check", "-o", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let report = json(&output);
    let problems: Vec<&str> = report["checks"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|c| c["ok"] == false)
        .inspect(|c| assert!(c["next"].is_string(), "{c}"))
        .filter_map(|c| c["name"].as_str())
        .collect();
    assert_eq!(
        problems,
        [
            "clocks",
            "workloads",
            "rejected",
            "revisions",
            "certificates"
        ],
        "{report:#}"
    );
}
